//! QEMU's formats: QCOW in its versions 1, 2 and 3 (the latter two are "QCOW2"), and QED.
//!
//! All three have tables of two levels that say where each cluster of the disk is; new clusters
//! come at the end of the file. How one gets in, so that no crash can hurt what was there before:
//! 1. the file is made longer, many clusters at a time; QCOW2 counts them as used; flushed;
//! 2. the data are written, and flushed;
//! 3. the entries of the tables are written, those of the second level first.
//!
//! Opening reads all tables and refuses what lies outside the file or on another thing. Parents are
//! known by the names of their files only: there is no UUID. New QCOW images have version 2, which
//! every VirtualBox reads.
//!
//! Facts: QEMU's descriptions of QCOW2 and QED in its documentation of interoperability.
//!
//! Not here: encryption, external data files, subclusters, zstd. Images with internal snapshots or
//! dirty bitmaps can only be read.

mod counts;
mod header;
mod image;
mod tables;

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
use crate::ParentLink;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::Variant;
use crate::bytes::be32;
use crate::capability;
use crate::format::default_layout;
use crate::format::extension;
use crate::host::HostFile;
use crate::host::create_or_remove;
use header::Counts;
use header::Dialect;
use header::Header;
use header::QCOW_MAGIC;
use header::QED_MAGIC;
use image::TableImage;

/// Both formats' clusters in new images: 64 KiB.
const CLUSTER_BITS: u32 = 16;

/// What VirtualBox says of both.
const CAPABILITIES: u32 = capability::CREATE_DYNAMIC
    | capability::DIFFERENCING
    | capability::ASYNCHRONOUS
    | capability::FILE
    | capability::VFS;

pub struct Qcow;

pub struct Qed;

impl Format for Qcow {
    fn id(&self) -> &'static str {
        "QCOW"
    }

    fn description(&self) -> &'static str {
        "QCOW"
    }

    fn capabilities(&self) -> u32 {
        CAPABILITIES
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[
            ("qcow", MediaKind::HardDisk),
            ("qcow2", MediaKind::HardDisk),
        ]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let named = ["qcow", "qcow2"].contains(&extension(path).as_str());
        (ends.head.starts_with(QCOW_MAGIC) || named).then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        info(path, kind)
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        open(path, mode, kind)
    }

    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        let cluster = 1 << CLUSTER_BITS;
        let reach = (cluster / 8) << CLUSTER_BITS;
        let l1_entries = params.size.div_ceil(reach).max(1);
        // Header, the counts' table, one block of counts, and what follows.
        let header = Header {
            dialect: Dialect::Qcow2 { zero_flag: false },
            size: params.size,
            cluster_bits: CLUSTER_BITS,
            l1_at: 3 * cluster,
            l1_entries,
            l2_entries: cluster / 8,
            end: cluster,
            name: (0, 0),
            parent: None,
            counts: Some(Counts {
                table_at: cluster,
                table_clusters: 1,
                order: 4,
            }),
            only_read: None,
        };
        create(path, params, header, progress)
    }
}

impl Format for Qed {
    fn id(&self) -> &'static str {
        "QED"
    }

    fn description(&self) -> &'static str {
        "QED"
    }

    fn capabilities(&self) -> u32 {
        CAPABILITIES
    }

    fn extensions(&self) -> &'static [(&'static str, MediaKind)] {
        &[("qed", MediaKind::HardDisk)]
    }

    fn probe(&self, path: &Path, ends: &Ends) -> Option<MediaKind> {
        let known = ends.head.starts_with(QED_MAGIC) || extension(path) == "qed";
        known.then_some(MediaKind::HardDisk)
    }

    fn info(&self, path: &Path, kind: MediaKind) -> Result<MediaInfo> {
        info(path, kind)
    }

    fn open(&self, path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
        open(path, mode, kind)
    }

    fn create(
        &self,
        path: &Path,
        params: &CreateParams,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Image>> {
        let cluster = 1 << CLUSTER_BITS;
        // Tables of four clusters, as QEMU makes them.
        let entries = 4 * cluster / 8;
        let header = Header {
            dialect: Dialect::Qed,
            size: params.size,
            cluster_bits: CLUSTER_BITS,
            l1_at: cluster,
            l1_entries: entries,
            l2_entries: entries,
            end: cluster,
            name: (0, 0),
            parent: None,
            counts: None,
            only_read: None,
        };
        create(path, params, header, progress)
    }
}

fn variant(header: &Header) -> Variant {
    match header.parent {
        Some(_) => Variant::Differencing,
        None => Variant::Dynamic,
    }
}

/// A link to the parent, which is known by its file alone.
fn link(header: &Header) -> Option<ParentLink> {
    header.parent.as_ref().map(|_| ParentLink::by_file())
}

fn info(path: &Path, kind: MediaKind) -> Result<MediaInfo> {
    let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
    let header = Header::read(&file)?;
    Ok(MediaInfo {
        format: header.dialect.name(),
        kind,
        variant: variant(&header),
        layout: Layout::Default,
        size: header.size,
        size_on_disk: file.len()?,
        uuid: None,
        modification: None,
        parent: link(&header),
        cid: None,
        block_size: None,
        comment: String::new(),
    })
}

fn open(path: &Path, mode: OpenMode, kind: MediaKind) -> Result<Box<dyn Image>> {
    if kind != MediaKind::HardDisk {
        return Err(Error::unsupported(
            path,
            "QCOW and QED images are always hard disks",
        ));
    }
    Ok(Box::new(TableImage::open(HostFile::open(path, mode)?)?))
}

/// Makes an image without clusters from its header.
fn create(
    path: &Path,
    params: &CreateParams,
    mut header: Header,
    progress: &mut Progress<'_>,
) -> Result<Box<dyn Image>> {
    default_layout(path, params)?;
    let name = header.dialect.name();
    if params.size == 0 || !params.size.is_multiple_of(SECTOR) {
        return Err(Error::invalid(
            path,
            format!("a size of {} bytes is not a number of sectors", params.size),
        ));
    }
    // What QEMU takes for the first table of a QCOW2, and all that a QED has.
    let limit = match header.dialect {
        Dialect::Qed => header.l1_entries,
        _ => (32 << 20) / 8,
    };
    if params.size.div_ceil(header.reach()) > limit {
        return Err(Error::unsupported(
            path,
            format!("a {name} image cannot have {} bytes", params.size),
        ));
    }
    if params.variant == Variant::Fixed {
        return Err(Error::unsupported(
            path,
            format!("{name} images of fixed size cannot be made"),
        ));
    }
    let child = params.variant == Variant::Differencing;
    if child != params.parent.is_some() || child != params.parent_path.is_some() {
        return Err(Error::invalid(
            path,
            "a differencing image, and no other, has a parent, which it knows by its file",
        ));
    }
    let mut format = None;
    if let Some(parent) = &params.parent_path {
        header.parent = Some(name_of(path, parent)?);
        format = format_of(parent);
    }
    progress.report(0, 1)?;
    let image = create_or_remove(path, |file| {
        let cluster = header.cluster();
        let end = (header.l1_at + 8 * header.l1_entries).next_multiple_of(cluster);
        file.set_len(end)?;
        if let Some(counts) = &header.counts {
            let block = counts.table_at + cluster;
            file.write(counts.table_at, &block.to_be_bytes())?;
            // As many counts of one, two bytes each.
            let ones = [0, 1].repeat((end / cluster) as usize);
            file.write(block, &ones)?;
        }
        file.sync()?;
        file.write(0, &header.encode(format))?;
        file.sync()?;
        progress.report(1, 1)?;
        TableImage::open(file)
    })?;
    Ok(Box::new(image))
}

/// How a child names its parent: by its plain name where they are neighbours, so that both can be
/// moved, and by its whole path elsewhere.
fn name_of(child: &Path, parent: &Path) -> Result<PathBuf> {
    let whole = std::fs::canonicalize(parent).map_err(|e| Error::host(parent, "open", 0, e))?;
    let folder = match child.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::canonicalize(folder).map_err(|e| Error::host(folder, "open", 0, e))?;
    let name = match (whole.parent() == Some(&folder), whole.file_name()) {
        // QEMU takes what is before a colon for a protocol, but not after a slash.
        (true, Some(name)) if name.as_encoded_bytes().contains(&b':') => Path::new(".").join(name),
        (true, Some(name)) => PathBuf::from(name),
        _ => whole,
    };
    match name.as_os_str().len() {
        0..=1023 => Ok(name),
        _ => Err(Error::invalid(child, "the parent's path is too long")),
    }
}

/// QEMU's name of a file's format.
fn format_of(path: &Path) -> Option<&'static str> {
    match crate::probe(path).ok()?.0.id() {
        "VDI" => Some("vdi"),
        "VMDK" => Some("vmdk"),
        "VHD" => Some("vpc"),
        "RAW" => Some("raw"),
        "QED" => Some("qed"),
        "QCOW" => {
            let mut head = [0; 8];
            let file = HostFile::open_unlocked(path, OpenMode::ReadOnly).ok()?;
            file.read(0, &mut head).ok()?;
            Some(if be32(&head, 4) == 1 { "qcow" } else { "qcow2" })
        }
        _ => None,
    }
}
