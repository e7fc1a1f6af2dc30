//! Screenshots: reading text by the shapes of its characters, and simple facts about pictures.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Rows of one character cell in every text mode of the BIOS at 400 lines, and of Linux's console.
const CELL_HEIGHT: usize = 16;

/// A screenshot.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    /// Row by row.
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// Reads a PNG file of any colour type.
    ///
    /// # Errors
    /// When it is not one, or has no pixels.
    pub fn read(path: &Path) -> Result<Picture> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut decoder = png::Decoder::new(BufReader::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().context("read the PNG header")?;
        let mut data = vec![0; reader.output_buffer_size().context("size of the picture")?];
        let frame = reader.next_frame(&mut data).context("read the picture")?;
        let channels = frame.color_type.samples();
        let pixels = data[..frame.buffer_size()]
            .chunks_exact(channels)
            .map(|pixel| {
                if channels < 3 {
                    [pixel[0]; 3]
                } else {
                    [pixel[0], pixel[1], pixel[2]]
                }
            })
            .collect();
        let picture = Picture {
            width: frame.width as usize,
            height: frame.height as usize,
            pixels,
        };
        ensure!(picture.width > 0 && picture.height > 0, "empty picture");
        Ok(picture)
    }

    /// # Panics
    /// Outside the picture.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        assert!(
            x < self.width && y < self.height,
            "({x}, {y}) is outside the picture"
        );
        self.pixels[y * self.width + x]
    }

    /// How many pixels there are of each colour.
    pub fn colours(&self) -> BTreeMap<[u8; 3], usize> {
        let mut counts = BTreeMap::new();
        for pixel in &self.pixels {
            *counts.entry(*pixel).or_insert(0) += 1;
        }
        counts
    }

    /// How many pixels from row `top` on are almost black: text, on a light dialogue.
    pub fn dark_pixels_from(&self, top: usize) -> usize {
        self.pixels
            .iter()
            .skip(top * self.width)
            .filter(|pixel| pixel.iter().all(|&part| part < 80))
            .count()
    }

    /// The text on the screen, a line for each row of characters; `?` where a shape is unknown.
    pub fn text(&self, font: &Font) -> String {
        // Text modes are 80 columns of 9 pixels, or of 8 where a machine shows 8-dot characters.
        let cell_width = if self.width == 720 { 9 } else { 8 };
        let lines = (0..self.height / CELL_HEIGHT).map(|row| {
            let line: String = (0..self.width / cell_width)
                .map(|column| self.character(font, column * cell_width, row))
                .collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn character(&self, font: &Font, left: usize, row: usize) -> char {
        let background = self.pixel(left, row * CELL_HEIGHT);
        let mut shape = [0u8; CELL_HEIGHT];
        for (y, bits) in shape.iter_mut().enumerate() {
            for x in 0..8 {
                if self.pixel(left + x, row * CELL_HEIGHT + y) != background {
                    *bits |= 0x80 >> x;
                }
            }
        }
        font.character(&shape)
    }
}

/// The characters of code page 437 as the VGA firmware draws them.
pub struct Font {
    characters: HashMap<[u8; CELL_HEIGHT], char>,
}

impl Font {
    /// Takes the 8x16 font out of the distribution's VGA firmware.
    ///
    /// # Errors
    /// When the firmware is not installed or holds no font that looks like one.
    pub fn load() -> Result<Font> {
        let path = Path::new("/usr/share/seabios/vgabios-stdvga.bin");
        let image =
            fs::read(path).with_context(|| format!("read {} (package seabios)", path.display()))?;
        let table = find_font(&image).context("no 8x16 font in the VGA firmware")?;
        let mut characters = HashMap::new();
        for (code, shape) in table.chunks_exact(CELL_HEIGHT).enumerate() {
            let Ok(shape) = <[u8; CELL_HEIGHT]>::try_from(shape) else {
                bail!("short font")
            };
            let inverse = shape.map(|bits| !bits);
            let character = if (0x20..0x7f).contains(&code) {
                char::from(code as u8)
            } else {
                '?'
            };
            // Letters win over graphics characters of the same shape.
            for variant in [shape, inverse] {
                let known = characters.entry(variant).or_insert(character);
                if *known == '?' {
                    *known = character;
                }
            }
        }
        Ok(Font { characters })
    }

    fn character(&self, shape: &[u8; CELL_HEIGHT]) -> char {
        self.characters.get(shape).copied().unwrap_or('?')
    }
}

/// Finds a table of 256 shapes by two properties that every such font has: a blank space, and an
/// `H` whose upper half, from the second row of the stem on, is two unbroken equal stems.
fn find_font(image: &[u8]) -> Option<&[u8]> {
    const SIZE: usize = 256 * CELL_HEIGHT;
    let glyph = |table: &[u8], code: u8| -> [u8; CELL_HEIGHT] {
        let start = usize::from(code) * CELL_HEIGHT;
        table[start..start + CELL_HEIGHT]
            .try_into()
            .unwrap_or_default()
    };
    image.windows(SIZE).find(|table| {
        let h = glyph(table, b'H');
        let stem = h[3];
        table[..CELL_HEIGHT] == [0; CELL_HEIGHT]
            && glyph(table, b' ') == [0; CELL_HEIGHT]
            && stem.count_ones() == 4
            && h[..2] == [0, 0]
            && [2, 4, 5, 9, 10, 11].iter().all(|&row| h[row] == stem)
            && glyph(table, b'I')[2..4].iter().all(|&bits| bits != 0)
            && glyph(table, b'-').iter().filter(|&&bits| bits != 0).count() == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of `rows`, drawn with the firmware's font on a 9-dot text screen.
    fn drawn(font: &Font, rows: &[&str], cell_width: usize) -> Picture {
        let (width, height) = (80 * cell_width, 25 * CELL_HEIGHT);
        let mut picture = Picture {
            width,
            height,
            pixels: vec![[0, 0, 170]; width * height],
        };
        let shapes: HashMap<char, [u8; CELL_HEIGHT]> = font
            .characters
            .iter()
            .filter(|(shape, _)| shape[0] & 0x80 == 0)
            .map(|(s, c)| (*c, *s))
            .collect();
        for (row, text) in rows.iter().enumerate() {
            for (column, character) in text.chars().enumerate() {
                for (y, bits) in shapes[&character].iter().enumerate() {
                    for x in (0..8).filter(|x| bits & (0x80 >> x) != 0) {
                        picture.pixels[(row * CELL_HEIGHT + y) * width + column * cell_width + x] =
                            [255, 255, 85];
                    }
                }
            }
        }
        picture
    }

    #[test]
    fn text_is_read_back_in_both_cell_widths() {
        let Ok(font) = Font::load() else {
            return crate::skip(
                "text_is_read_back_in_both_cell_widths",
                "package seabios is not installed",
            );
        };
        for cell_width in [8, 9] {
            let picture = drawn(
                &font,
                &["Debian GNU/Linux 12 oxbox tty1", "", "oxbox login: {}[]~@"],
                cell_width,
            );
            let text = picture.text(&font);
            assert_eq!(text.lines().next(), Some("Debian GNU/Linux 12 oxbox tty1"));
            assert_eq!(text.lines().nth(2), Some("oxbox login: {}[]~@"));
            assert_eq!(picture.colours().len(), 2);
        }
    }

    #[test]
    fn a_png_is_read_back() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        let mut encoder = png::Encoder::new(file.reopen().expect("reopen"), 2, 1);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("header");
        writer
            .write_image_data(&[1, 2, 3, 250, 251, 252])
            .expect("pixels");
        writer.finish().expect("end");
        let picture = Picture::read(file.path()).expect("picture");
        assert_eq!(
            (picture.width, picture.height, picture.pixel(1, 0)),
            (2, 1, [250, 251, 252])
        );
    }
}
