//! VHD, the format of Virtual PC and Hyper-V: fixed, dynamic and differencing.
//!
//! A fixed image is the disk's bytes and a footer. The others begin with a copy of the footer and
//! a header, then have a table with one entry per block, and blocks that each start with a bitmap
//! of the sectors they hold. The file grows by whole blocks; its footer moves along.
//!
//! How a new block gets in, so that no crash can hurt what was there before:
//! 1. the file is made longer, many blocks at a time: a footer at the new end first, then zeros
//!    where the old one was, each flushed;
//! 2. the data are written;
//! 3. the bitmap and the table entry are written: at once in a dynamic image, where the block was
//!    zero before as well; after a flush in a differencing image, where they take away what the
//!    parent held.
//!
//! Not here: splitting, the two formats of locators before Windows 2000, the 511-byte footer of
//! the first Virtual PC.

mod footer;
mod image;
mod resize;

use std::path::Path;
use std::time::SystemTime;

use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaInfo;
use crate::MediaKind;
use crate::OpenMode;
use crate::ParentLink;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::bytes::be64;
use crate::capability;
use crate::format::default_layout;
use crate::host::HostFile;
use crate::host::create_or_remove;
use footer::COOKIE;
use footer::FOOTER_LEN;
use footer::Footer;
use footer::HEADER_LEN;
use footer::Header;
use footer::Locator;
use image::VhdImage;

pub struct Vhd;

impl Format for Vhd {
    fn id(&self) -> &'static str {
        "VHD"
    }

    fn description(&self) -> &'static str {
        "VHD"
    }

    fn capabilities(&self) -> u32 {
        capability::UUID
            | capability::CREATE_FIXED
            | capability::CREATE_DYNAMIC
            | capability::DIFFERENCING
            | capability::ASYNCHRONOUS
            | capability::FILE
            | capability::VFS
            | capability::PREFERRED
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("vhd", MediaKind::HardDisk)]
    }

    /// The footer of a fixed image must also give the size that it ends, so that a raw disk with
    /// such bytes in its last sector stays one.
    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let data = ends.len.saturating_sub(FOOTER_LEN as u64);
        let fixed = ends.tail.starts_with(COOKIE) && be64(&ends.tail, 48) == data;
        let known = fixed || ends.head.starts_with(COOKIE);
        (known || crate::format::extension(path) == "vhd").then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let (footer, header) = read_headers(&file)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: footer.variant,
            layout: Layout::Default,
            size: footer.size,
            size_on_disk: file.len()?,
            uuid: Some(footer.uuid),
            modification: None,
            parent: parent_of(&footer, header.as_ref()),
            cid: None,
            block_size: header.map(|header| header.block_size as u32),
            comment: String::new(),
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind != MediaKind::HardDisk {
            return Err(Error::unsupported(
                path,
                "a VHD image is always a hard disk",
            ));
        }
        let file = HostFile::open(path, mode)?;
        let (footer, header) = read_headers(&file)?;
        Ok(Box::new(VhdImage::open(file, footer, header)?))
    }

    /// A comment has no place in a VHD and is ignored.
    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        default_layout(path, params)?;
        if params.parent.is_some() != (params.variant == Variant::Differencing) {
            return Err(Error::invalid(
                path,
                "a differencing image, and no other, has a parent",
            ));
        }
        let footer = Footer::new(path, params.size, params.variant, params.uuid)?;
        progress.report(0, 1)?;
        let image = create_or_remove(path, |file| {
            let header = match params.variant {
                Variant::Fixed => {
                    write_fixed(&file, &footer, progress)?;
                    None
                }
                _ => Some(write_blocks(&file, &footer, params)?),
            };
            progress.report(1, 1)?;
            VhdImage::open(file, footer, header)
        })?;
        Ok(Box::new(image))
    }
}

fn parent_of(footer: &Footer, header: Option<&Header>) -> Option<ParentLink> {
    (footer.variant == Variant::Differencing).then(|| {
        ParentLink::new(
            header.map(|h| h.parent).unwrap_or_default(),
            uuid::Uuid::nil(),
        )
    })
}

/// Reads the footer at the end, or the copy at the start where that is damaged, and the header.
fn read_headers(file: &HostFile) -> Result<(Footer, Option<Header>)> {
    let len = file.len()?;
    let Some(end) = len.checked_sub(FOOTER_LEN as u64) else {
        return Err(Error::corrupt(
            file.path(),
            "VHD",
            len,
            format!("the file has {len} bytes, which is less than a footer"),
        ));
    };
    let (mut tail, mut head) = ([0; FOOTER_LEN], [0; FOOTER_LEN]);
    file.read(end, &mut tail)?;
    file.read(0, &mut head)?;
    // A writer that did not come to its end leaves the copy as the only one.
    let footer = match !Footer::is_valid(&tail) && Footer::is_valid(&head) {
        true => Footer::parse(file.path(), &head, 0)?,
        false => Footer::parse(file.path(), &tail, end)?,
    };
    if footer.variant == Variant::Fixed {
        if footer.size > end {
            return Err(Error::corrupt(
                file.path(),
                "VHD",
                end,
                format!("the file ends before its {} bytes of data do", footer.size),
            ));
        }
        return Ok((footer, None));
    }
    let fits = footer.header_at.checked_add(HEADER_LEN as u64);
    if footer.header_at < FOOTER_LEN as u64
        || !footer.header_at.is_multiple_of(SECTOR)
        || fits.is_none_or(|end| end > len)
    {
        return Err(Error::corrupt(
            file.path(),
            "VHD",
            end + 16,
            format!(
                "the header at {:#x} is not inside the file",
                footer.header_at
            ),
        ));
    }
    let mut raw = [0; HEADER_LEN];
    file.read(footer.header_at, &mut raw)?;
    let header = Header::parse(file.path(), &raw, &footer, len)?;
    Ok((footer, Some(header)))
}

fn write_fixed(file: &HostFile, footer: &Footer, progress: &mut Progress<'_>) -> Result<()> {
    // In pieces, so that a person sees progress where the host has to write zeros.
    let piece = 64 << 20;
    let mut done = 0;
    while done < footer.size {
        let n = piece.min(footer.size - done);
        file.allocate(done, n)?;
        done += n;
        progress.report(done, footer.size)?;
    }
    file.write(footer.size, &footer.encode())?;
    file.sync()
}

/// Header, locators, table; the footers come last: half a file is no image at all.
fn write_blocks(file: &HostFile, footer: &Footer, params: &CreateParams) -> Result<Header> {
    let mut at = footer.header_at + HEADER_LEN as u64;
    let mut placed: Vec<(Locator, u64)> = Vec::new();
    let parent_path = params.parent_path.as_deref();
    for locator in parent_path.map_or_else(Vec::new, |p| footer::locators(file.path(), p)) {
        file.write(at, &locator.text)?;
        let len = (locator.text.len() as u64).next_multiple_of(SECTOR);
        placed.push((locator, at));
        at += len;
    }
    let mut header = Header::new(footer.size, at, params.parent.map(|p| p.uuid));
    if let Some(parent) = parent_path {
        let name = parent.file_name().unwrap_or_default().to_string_lossy();
        let time = std::fs::metadata(parent)
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH);
        header.name_parent(&name, footer::timestamp(time), &placed);
    }
    image::write_table(
        file,
        header.table_at,
        &vec![u8::MAX; header.table_len() as usize],
    )?;
    file.write(footer.header_at, &header.encode())?;
    file.sync()?;
    let end = header.table_at + header.table_len();
    file.write(end, &footer.encode())?;
    file.write(0, &footer.encode())?;
    file.sync()?;
    Ok(header)
}
