//! Parallels' expandable images (`.hdd`, version 2): a header, a table with an entry per cluster,
//! and the clusters, which come at the end of the file.
//!
//! A new cluster lies where the file holds zeros, which are on the disk before; so its data and its
//! entry may reach the disk in any order. New images are of the older kind, whose entries count
//! sectors: it is the one that VirtualBox reads.
//!
//! Facts: QEMU's description of the format in its documentation of interoperability.
//!
//! Not here: the folder that Parallels itself keeps an image in (`DiskDescriptor.xml`), differencing
//! images, whose parent only that file names, and writing to images with extensions.

mod header;
mod image;

use std::path::Path;

use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaInfo;
use crate::MediaKind;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::capability;
use crate::format::default_layout;
use crate::format::extension;
use crate::host::HostFile;
use crate::host::create_or_remove;
use header::EXTENDED;
use header::Header;
use header::PLAIN;
use image::ParallelsImage;

/// Clusters of new images, in bytes.
const CLUSTER: u64 = 1 << 20;

pub struct Parallels;

impl Format for Parallels {
    fn id(&self) -> &'static str {
        "Parallels"
    }

    fn description(&self) -> &'static str {
        "Parallels"
    }

    fn capabilities(&self) -> u32 {
        capability::CREATE_DYNAMIC | capability::ASYNCHRONOUS | capability::FILE | capability::VFS
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("hdd", MediaKind::HardDisk)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let known = ends.head.starts_with(PLAIN) || ends.head.starts_with(EXTENDED);
        (known || extension(path) == "hdd").then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let header = Header::read(&file)?;
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant: Variant::Dynamic,
            layout: Layout::Default,
            size: header.size,
            size_on_disk: file.len()?,
            uuid: None,
            modification: None,
            parent: None,
            cid: None,
            block_size: None,
            comment: String::new(),
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind != MediaKind::HardDisk {
            return Err(Error::unsupported(
                path,
                "a Parallels image is always a hard disk",
            ));
        }
        Ok(Box::new(ParallelsImage::open(HostFile::open(path, mode)?)?))
    }

    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        default_layout(path, params)?;
        if params.size == 0 || !params.size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(
                path,
                format!("a size of {} bytes is not a number of sectors", params.size),
            ));
        }
        if params.variant != Variant::Dynamic || params.parent.is_some() {
            return Err(Error::unsupported(
                path,
                "Parallels images of fixed size or with a parent cannot be made",
            ));
        }
        // Sizes and places are numbers of sectors, in 32 bits.
        let most = u64::from(u32::MAX) * SECTOR - 64 * CLUSTER;
        if params.size > most {
            return Err(Error::unsupported(
                path,
                format!("a Parallels image cannot have more than {most} bytes"),
            ));
        }
        progress.report(0, 1)?;
        let image = create_or_remove(path, |file| {
            let header = Header::new(params.size, CLUSTER);
            file.set_len(header.data_at)?;
            file.sync()?;
            file.write(0, &header.encode())?;
            file.sync()?;
            progress.report(1, 1)?;
            ParallelsImage::open(file)
        })?;
        Ok(Box::new(image))
    }
}
