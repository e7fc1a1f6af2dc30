//! Screen pictures in the API's formats.

use api::types::{BitmapFormat, ResultCode};
use api::{Error, Result};
use pdm::Frame;

/// Largest side of a picture that may be asked for.
const MAX_SIDE: u32 = 16384;

/// `frame` scaled to `width` by `height` (nearest pixel) in `format`.
///
/// # Errors
/// `E_INVALIDARG` for sizes out of range, `E_NOTIMPL` for formats that are not here.
pub fn encode(frame: &Frame, width: u32, height: u32, format: BitmapFormat) -> Result<Vec<u8>> {
    if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::new(
            ResultCode::E_INVALIDARG,
            format!("A picture of {width} x {height} pixels cannot be made"),
        ));
    }
    let pixels = scaled(frame, width, height);
    let bytes = |f: fn(u32) -> [u8; 4]| pixels.iter().flat_map(|p| f(*p)).collect();
    match format {
        BitmapFormat::BGR0 => Ok(bytes(|p| [p as u8, (p >> 8) as u8, (p >> 16) as u8, 0])),
        BitmapFormat::BGRA => Ok(bytes(|p| [p as u8, (p >> 8) as u8, (p >> 16) as u8, 255])),
        BitmapFormat::RGBA => Ok(bytes(|p| [(p >> 16) as u8, (p >> 8) as u8, p as u8, 255])),
        BitmapFormat::PNG => png(&pixels, width, height),
        other => Err(Error::new(
            ResultCode::E_NOTIMPL,
            format!(
                "Pictures in the format {} are not part of this version of Oxbox",
                other.name()
            ),
        )),
    }
}

fn scaled(frame: &Frame, width: u32, height: u32) -> Vec<u32> {
    let (w, h) = (u64::from(frame.width), u64::from(frame.height));
    let mut pixels = Vec::with_capacity(width as usize * height as usize);
    for y in 0..u64::from(height) {
        let row = y * h / u64::from(height) * w;
        for x in 0..u64::from(width) {
            let at = row + x * w / u64::from(width);
            let pixel = usize::try_from(at).ok().and_then(|i| frame.pixels.get(i));
            pixels.push(pixel.copied().unwrap_or(0));
        }
    }
    pixels
}

fn png(pixels: &[u32], width: u32, height: u32) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::new(ResultCode::VBOX_E_IPRT_ERROR, e.to_string());
    let rgb: Vec<u8> = pixels
        .iter()
        .flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8])
        .collect();
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&rgb).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            width: 2,
            height: 1,
            pixels: vec![0x00ff_0000, 0x0000_00ff],
        }
    }

    #[test]
    fn pixels_are_ordered_and_scaled() {
        let got = encode(&frame(), 2, 1, BitmapFormat::BGRA).unwrap();
        assert_eq!(got, [0, 0, 255, 255, 255, 0, 0, 255]);
        let got = encode(&frame(), 4, 2, BitmapFormat::RGBA).unwrap();
        assert_eq!(got.len(), 32);
        assert_eq!(got[4..8], [255, 0, 0, 255]);
        assert_eq!(got[8..12], [0, 0, 255, 255]);
    }

    #[test]
    fn png_reads_back() {
        let data = encode(&frame(), 2, 1, BitmapFormat::PNG).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(data))
            .read_info()
            .unwrap();
        let mut rgb = [0; 6];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, [255, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn silly_sizes_are_refused() {
        assert!(encode(&frame(), 0, 1, BitmapFormat::PNG).is_err());
        assert!(encode(&frame(), u32::MAX, 1, BitmapFormat::PNG).is_err());
        assert!(encode(&Frame::default(), 2, 2, BitmapFormat::PNG).is_ok());
    }
}
