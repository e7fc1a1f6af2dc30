//! VMDK, VMware's format: a descriptor and one or more extents, which are sparse, flat or zero.
//!
//! A sparse extent has two sets of grain tables; a grain is 64 KiB that are allocated together at
//! the end of the file. How a new grain gets in, so that no crash can hurt what was there before:
//! 1. the file is made longer, many grains at a time, and that is flushed;
//! 2. the data are written;
//! 3. the tables are written, the copy first: at once in a base image, where the grain was zero
//!    before as well; after a flush in a differencing image, where they take away what the parent
//!    held.
//!
//! A descriptor is not trusted with the names of files: extents lie beside it, under plain names.
//! Only a raw disk's descriptor may name something else by its absolute path, and that must be a
//! block device.
//!
//! Stream-optimised images are written once, in rising order, and completed by the first flush;
//! after that they are read only.
//!
//! Not here: the sparse extents of VMware's servers (`vmfsSparse`), writing into extents of
//! compressed grains, version 4.

mod create;
mod descriptor;
mod grow;
mod header;
mod image;
mod sparse;
mod stream;

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::path::PathBuf;

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
use crate::host::HostFile;
use descriptor::Descriptor;
use descriptor::ExtentKind;
use descriptor::ExtentLine;
use descriptor::MAX_LEN;
use descriptor::is_descriptor;
use header::MAGIC;
use header::read_header;
use image::Extent;
use image::Home;
use image::Kind;
use image::VmdkImage;
use sparse::SparseExtent;

pub struct Vmdk;

impl Format for Vmdk {
    fn id(&self) -> &'static str {
        "VMDK"
    }

    fn description(&self) -> &'static str {
        "VMDK"
    }

    fn capabilities(&self) -> u32 {
        capability::UUID
            | capability::CREATE_FIXED
            | capability::CREATE_DYNAMIC
            | capability::CREATE_SPLIT_2G
            | capability::DIFFERENCING
            | capability::ASYNCHRONOUS
            | capability::FILE
            | capability::VFS
            | capability::PREFERRED
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("vmdk", MediaKind::HardDisk)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let known = ends.head.starts_with(MAGIC) || is_descriptor(&ends.head);
        (known || crate::format::extension(path) == "vmdk").then_some(MediaKind::HardDisk)
    }

    fn files(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let (descriptor, embedded) = read_descriptor(&file)?;
        let mut files = vec![path.to_path_buf()];
        if embedded.is_none() {
            for line in descriptor.extents(path)? {
                files.extend(beside(path, &line.name));
            }
        }
        Ok(files)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
        let (descriptor, embedded) = read_descriptor(&file)?;
        let (variant, layout) = descriptor.variant(path)?;
        let extents = descriptor.extents(path)?;
        let mut size_on_disk = file.len()?;
        if embedded.is_none() {
            for line in &extents {
                let other = beside(path, &line.name).and_then(|p| p.metadata().ok());
                size_on_disk += other.map_or(0, |m| m.len());
            }
        }
        let meta = descriptor.meta();
        Ok(MediaInfo {
            format: self.id(),
            kind,
            variant,
            layout,
            size: extents.iter().map(|e| e.sectors).sum::<u64>() * SECTOR,
            size_on_disk,
            uuid: meta.uuid,
            modification: meta.modification,
            parent: meta.parent,
            cid: meta.cid,
            block_size: None,
            comment: meta.comment,
        })
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        if kind != MediaKind::HardDisk {
            return Err(Error::unsupported(
                path,
                "a VMDK image is always a hard disk",
            ));
        }
        let image = open(HostFile::open(path, mode)?)?;
        if image.layout == Layout::StreamOptimized && mode == OpenMode::ReadWrite {
            return Err(Error::ReadOnly {
                path: path.to_path_buf(),
            });
        }
        Ok(Box::new(image))
    }

    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        Ok(Box::new(create::create(path, params, progress)?))
    }
}

/// The descriptor and, where it is inside an extent, offset and length of its room.
fn read_descriptor(file: &HostFile) -> Result<(Descriptor, Option<(u64, u64)>)> {
    let len = file.len()?;
    let mut head = [0; 4];
    file.read_padded(0, &mut head)?;
    if head != *MAGIC {
        if len > MAX_LEN {
            return Err(Error::corrupt(
                file.path(),
                "VMDK",
                0,
                format!("{len} bytes are too many for a descriptor"),
            ));
        }
        let mut raw = vec![0; len as usize];
        file.read_padded(0, &mut raw)?;
        return Ok((Descriptor::parse(file.path(), &raw, 0)?, None));
    }
    let header = read_header(file, 0)?;
    let (sector, sectors) = header.descriptor;
    if sector == 0 || sectors == 0 {
        return Err(Error::unsupported(
            file.path(),
            "this is a part of a split VMDK image: open the file with its descriptor",
        ));
    }
    let at = sector.saturating_mul(SECTOR);
    let room = sectors.saturating_mul(SECTOR);
    if room > MAX_LEN || at.saturating_add(room) > len {
        return Err(Error::corrupt(
            file.path(),
            "VMDK",
            28,
            format!("the file has no room for a descriptor of {room} bytes at {at:#x}"),
        ));
    }
    let mut raw = vec![0; room as usize];
    file.read(at, &mut raw)?;
    Ok((Descriptor::parse(file.path(), &raw, at)?, Some((at, room))))
}

/// The file of an extent, beside the descriptor; `None` for names that are not plain.
fn beside(path: &Path, name: &str) -> Option<PathBuf> {
    let plain =
        !name.is_empty() && !name.contains(['/', '\\', '\0']) && ![".", ".."].contains(&name);
    let file = path.with_file_name(name);
    // An extent that calls itself by the descriptor's name would be opened without end.
    (plain && file != path).then_some(file)
}

/// Opens the file of an extent, for no more than the image and the line say.
fn open_extent(path: &Path, line: &ExtentLine, mode: OpenMode, layout: Layout) -> Result<HostFile> {
    let mode = match line.writable {
        true => mode,
        false => OpenMode::ReadOnly,
    };
    if let Some(file) = beside(path, &line.name) {
        return HostFile::open(&file, mode);
    }
    let device = Path::new(&line.name);
    let is_device = || {
        let kind = std::fs::metadata(device).map(|m| m.file_type());
        kind.is_ok_and(|kind| kind.is_block_device())
    };
    if layout == Layout::RawDisk && device.is_absolute() && is_device() {
        return HostFile::open(device, mode);
    }
    Err(Error::unsupported(
        path,
        format!(
            "the extent '{}' is neither a file beside the descriptor nor, for a raw disk, a block device",
            line.name
        ),
    ))
}

/// Opens all extents of an image whose first file is open.
fn open(file: HostFile) -> Result<VmdkImage> {
    let (path, mode) = (file.path().to_path_buf(), file.mode());
    let (descriptor, embedded) = read_descriptor(&file)?;
    let (variant, layout) = descriptor.variant(&path)?;
    let lines = descriptor.extents(&path)?;
    let bad = |what: String| Error::corrupt(&path, "VMDK", 0, what);
    let mut extents = Vec::new();
    let mut start = 0;
    let (home, mut own) = match embedded {
        Some((at, room)) => (Home::Embedded(at, room), Some(file)),
        None => (Home::File(file), None),
    };
    if own.is_some() && !matches!(lines.as_slice(), [line] if line.kind == ExtentKind::Sparse) {
        return Err(bad(
            "a descriptor inside an extent must describe that".into()
        ));
    }
    for line in &lines {
        let len = line.sectors * SECTOR;
        let kind = match line.kind {
            ExtentKind::Zero => Kind::Zero,
            ExtentKind::Sparse => {
                let file = match own.take() {
                    Some(file) => file,
                    None => open_extent(&path, line, mode, layout)?,
                };
                let sparse = SparseExtent::open(file)?;
                if sparse.header.capacity < line.sectors {
                    return Err(bad(format!("the extent '{}' is too small", line.name)));
                }
                Kind::Sparse(Box::new(sparse))
            }
            ExtentKind::Flat(sector) => {
                let file = open_extent(&path, line, mode, layout)?;
                let at = sector.saturating_mul(SECTOR);
                if file.len()? < at.saturating_add(len) {
                    return Err(bad(format!("the extent '{}' is too short", line.name)));
                }
                Kind::Flat(file, at)
            }
        };
        extents.push(Extent {
            start,
            len,
            writable: line.writable,
            kind,
        });
        start += len;
    }
    if variant == Variant::Differencing
        && mode == OpenMode::ReadWrite
        && !image::grains_fit(&extents)
    {
        return Err(Error::unsupported(
            &path,
            "differencing images with such extents can only be read",
        ));
    }
    Ok(VmdkImage {
        path,
        mode,
        home,
        descriptor,
        extents,
        variant,
        layout,
        announced: false,
    })
}
