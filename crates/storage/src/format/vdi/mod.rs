//! VDI 1.1, VirtualBox's own image format: dynamic, fixed and differencing.
//!
//! A file is a header sector, a map with one entry per block of the disk, and a data area of
//! numbered slots that grows at its end. An entry is the number of the slot that holds the block,
//! [`header::FREE`] or [`header::ZERO`]. The map in the file is the only authority; the header's
//! count of slots exists for programs that append (it is never below the truth).
//!
//! How a new block gets in, so that no crash can hurt what was there before:
//! 1. the file is made longer, many slots at a time, and that is flushed: a map entry never points
//!    beyond the end of the file, not even after a power cut;
//! 2. the data are written to the first unused slot; in a differencing image they are flushed too,
//!    because they replace data that the parent still held;
//! 3. the header's count is raised, then the map entry is written.
//!
//! Unused slots at the end are cut off when the image is closed, and at the next first write after
//! a crash.
//!
//! Not here: VDI 0.x and undo images (an error says so); extra data per block.

mod check;
mod compact;
mod header;
mod image;
mod resize;

#[cfg(test)]
mod crash_tests;

use std::path::Path;

use uuid::Uuid;

use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaInfo;
use crate::MediaKind;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Variant;
use crate::capability;
use crate::format::default_layout;
use crate::host::HostFile;
use crate::host::create_or_remove;
use header::FREE;
use header::Header;
use header::SECTOR_LEN;
use image::VdiImage;

pub struct Vdi;

impl Format for Vdi {
    fn id(&self) -> &'static str {
        "VDI"
    }

    fn description(&self) -> &'static str {
        "VDI"
    }

    fn capabilities(&self) -> u32 {
        capability::UUID
            | capability::CREATE_FIXED
            | capability::CREATE_DYNAMIC
            | capability::DIFFERENCING
            | capability::ASYNCHRONOUS
            | capability::FILE
            | capability::VFS
            | capability::DISCARD
            | capability::PREFERRED
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("vdi", MediaKind::HardDisk)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        // A damaged file that calls itself .vdi is better refused by name than taken for nothing.
        (header::has_signature(&ends.head) || crate::format::extension(path) == "vdi")
            .then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let header = read_header(&file)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: header.variant,
            layout: Layout::Default,
            size: header.size,
            size_on_disk: file.len()?,
            uuid: header.meta.uuid,
            modification: header.meta.modification,
            parent: header.meta.parent,
            cid: None,
            block_size: Some(header.block_size as u32),
            comment: header.meta.comment,
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind != MediaKind::HardDisk {
            return Err(Error::unsupported(
                path,
                "a VDI image is always a hard disk",
            ));
        }
        let file = HostFile::open(path, mode)?;
        let header = read_header(&file)?;
        Ok(Box::new(VdiImage::open(file, header)?))
    }

    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        default_layout(path, params)?;
        let meta = Meta {
            uuid: Some(params.uuid),
            modification: Some(Uuid::new_v4()),
            parent: params.parent,
            comment: params.comment.clone(),
            ..Meta::default()
        };
        let header = Header::new(params.size, params.variant, meta, path)?;
        let image = create_or_remove(path, |file| write_new(file, header, progress))?;
        Ok(Box::new(image))
    }
}

fn read_header(file: &HostFile) -> Result<Header> {
    let len = file.len()?;
    if len < SECTOR_LEN as u64 {
        return Err(Error::corrupt(
            file.path(),
            "VDI",
            len,
            format!("the file has {len} bytes, which is less than a header"),
        ));
    }
    let mut raw = [0; SECTOR_LEN];
    file.read(0, &mut raw)?;
    Header::parse(file.path(), &raw, len)
}

/// Map and data come first, the header last: half a file is no image at all.
fn write_new(file: HostFile, mut header: Header, progress: &mut Progress<'_>) -> Result<VdiImage> {
    progress.report(0, 1)?;
    let map: Vec<u32> = match header.variant {
        Variant::Fixed => {
            header.allocated = header.blocks;
            (0..header.blocks).collect()
        }
        Variant::Dynamic | Variant::Differencing => vec![FREE; header.blocks as usize],
    };
    file.set_len(header.off_data)?;
    image::write_map(&file, header.off_map, &map)?;
    if header.variant == Variant::Fixed {
        let len = u64::from(header.blocks) * header.block_size;
        // In pieces, so that a person sees progress where the host has to write zeros.
        let piece = 64 * header.block_size;
        let mut done = 0;
        while done < len {
            let n = piece.min(len - done);
            file.allocate(header.off_data + done, n)?;
            done += n;
            progress.report(done, len)?;
        }
    }
    file.sync()?;
    file.write(0, &header.encode(file.path())?)?;
    file.sync()?;
    progress.report(1, 1)?;
    VdiImage::open(file, header)
}
