//! Saved state of the VGA's registers.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::Vga;
use super::dispi::Dispi;

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    pci: Vec<u8>,
    /// misc, feature, enable, sequencer index, CRTC index, graphics index, attribute index,
    /// PEL mask, DAC write index, DAC read index, DAC part.
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    small: Vec<u8>,
    #[n(2)]
    attr_data: bool,
    #[n(3)]
    dac_reading: bool,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    seq: Vec<u8>,
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    crtc: Vec<u8>,
    #[n(6)]
    #[cbor(with = "minicbor::bytes")]
    gfx: Vec<u8>,
    #[n(7)]
    #[cbor(with = "minicbor::bytes")]
    attr: Vec<u8>,
    #[n(8)]
    #[cbor(with = "minicbor::bytes")]
    dac: Vec<u8>,
    #[n(9)]
    latch: u32,
    /// index, id, width, height, depth, enable, bank, virtual width and height, offsets.
    #[n(10)]
    dispi: Vec<u16>,
    #[n(11)]
    vram_size: u32,
}

/// Writes the state.
pub fn save(vga: &Vga) -> Result<Vec<u8>> {
    let (r, d) = (&vga.regs, &vga.dispi);
    ssm::encode(&Saved {
        pci: vga.pci.save(),
        small: vec![
            r.misc,
            r.feature,
            r.enable,
            r.seq_index,
            r.crtc_index,
            r.gfx_index,
            r.attr_index,
            r.pel_mask,
            r.dac_write,
            r.dac_read,
            r.dac_part,
        ],
        attr_data: r.attr_data,
        dac_reading: r.dac_reading,
        seq: r.seq.to_vec(),
        crtc: r.crtc.to_vec(),
        gfx: r.gfx.to_vec(),
        attr: r.attr.to_vec(),
        dac: r.dac.clone(),
        latch: vga.latch,
        dispi: vec![
            d.index,
            d.id,
            d.xres,
            d.yres,
            d.bpp,
            d.enable,
            d.bank,
            d.virt_width,
            d.virt_height,
            d.x_offset,
            d.y_offset,
        ],
        vram_size: vga.vram.size,
    })
}

/// Takes it over; returns the BARs to place.
pub fn load(vga: &mut Vga, version: u32, data: &[u8]) -> Result<Vec<(usize, Option<u64>)>> {
    let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    let bad = |what: &str| Error::SavedState(format!("VGA {what} do not fit"));
    if s.vram_size != vga.vram.size {
        return Err(Error::SavedState(format!(
            "saved with {} bytes of video RAM, the machine has {}",
            s.vram_size, vga.vram.size
        )));
    }
    let [
        misc,
        feature,
        enable,
        seq_index,
        crtc_index,
        gfx_index,
        attr_index,
        pel_mask,
        dac_write,
        dac_read,
        dac_part,
    ]: [u8; 11] = s.small.try_into().map_err(|_| bad("registers"))?;
    let [
        index,
        id,
        xres,
        yres,
        bpp,
        d_enable,
        bank,
        virt_width,
        virt_height,
        x_offset,
        y_offset,
    ]: [u16; 11] = s.dispi.try_into().map_err(|_| bad("DISPI registers"))?;
    if s.dac.len() != 768 || !matches!(bpp, 4 | 8 | 15 | 16 | 24 | 32) || xres > 4096 || yres > 4096
    {
        return Err(bad("DAC or mode"));
    }
    let r = &mut vga.regs;
    r.seq = s.seq.try_into().map_err(|_| bad("sequencer registers"))?;
    r.crtc = s.crtc.try_into().map_err(|_| bad("CRTC registers"))?;
    r.gfx = s.gfx.try_into().map_err(|_| bad("graphics registers"))?;
    r.attr = s.attr.try_into().map_err(|_| bad("attribute registers"))?;
    (r.misc, r.feature, r.enable) = (misc, feature, enable);
    r.seq_index = seq_index & 7;
    r.crtc_index = crtc_index & 0x1f;
    r.gfx_index = gfx_index & 0x0f;
    r.attr_index = attr_index & 0x3f;
    r.pel_mask = pel_mask;
    (r.dac_write, r.dac_read, r.dac_part) = (dac_write, dac_read, dac_part % 3);
    (r.attr_data, r.dac_reading) = (s.attr_data, s.dac_reading);
    r.dac = s.dac;
    vga.latch = s.latch;
    vga.dispi = Dispi {
        index,
        id,
        xres,
        yres,
        bpp,
        enable: d_enable,
        bank,
        virt_width,
        virt_height,
        x_offset,
        y_offset,
    };
    vga.pci.load(&s.pci)
}
