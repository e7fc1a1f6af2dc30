//! The formats, and how a file finds its own.

use std::path::Path;

use uuid::Uuid;

use crate::CreateParams;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::MediaKind;
use crate::OpenMode;
use crate::ParentLink;
use crate::Progress;
use crate::Result;
use crate::Variant;
use crate::host::HostFile;

pub mod raw;
pub mod vdi;

/// Every format, in the order in which they are asked about a file: the ones that know their own
/// signature first.
pub static FORMATS: &[&dyn Format] = &[&vdi::Vdi, &raw::Raw];

/// Signatures of formats that are known but not readable, so that they are never taken for raw
/// disks: offset, bytes, name.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"conectix", "VHD"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"QFI\xfb", "QCOW2"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
];

/// The format named `id` (`VDI`, `RAW`), in any letter case.
pub fn format_by_id(id: &str) -> Option<&'static dyn Format> {
    FORMATS
        .iter()
        .copied()
        .find(|format| format.id().eq_ignore_ascii_case(id))
}

/// Finds the format of a file and the kind of medium it holds.
///
/// Errors: [`Error::NotFound`], [`Error::Unsupported`] when nothing here reads it.
pub fn probe(path: &Path) -> Result<(&'static dyn Format, MediaKind)> {
    let file = HostFile::open_unlocked(path, OpenMode::ReadOnly)?;
    let mut head = vec![0; file.len()?.min(512) as usize];
    file.read_padded(0, &mut head)?;
    for &(offset, signature, name) in FOREIGN {
        if head.get(offset..).is_some_and(|h| h.starts_with(signature)) {
            return Err(Error::unsupported(
                path,
                format!(
                    "{name} images cannot be used yet: convert it with 'qemu-img convert -O vdi'"
                ),
            ));
        }
    }
    FORMATS
        .iter()
        .find_map(|format| Some((*format, format.probe(path, &head)?)))
        .ok_or_else(|| Error::unsupported(path, "the format of this image is not known"))
}

/// Opens an image in the format that [`probe`] finds.
pub fn open_image(path: &Path, mode: OpenMode) -> Result<Box<dyn Image>> {
    let (format, kind) = probe(path)?;
    format.open(path, mode, kind)
}

/// Creates an image of the named format. [`Error::Unsupported`] for a name nobody knows.
pub fn create_image(
    path: &Path,
    format: &str,
    params: &CreateParams,
    progress: &mut Progress<'_>,
) -> Result<Box<dyn Image>> {
    match format_by_id(format) {
        Some(format) => format.create(path, params, progress),
        None => Err(Error::unsupported(
            path,
            format!("images of format '{format}' cannot be made"),
        )),
    }
}

/// Creates a differencing VDI image of a parent, as large as that is now
/// (`createmedium --diffparent`, snapshots). The parent must not be written any more.
pub fn create_child(path: &Path, uuid: Uuid, parent: &Path) -> Result<Box<dyn Image>> {
    let info = crate::media_info(parent)?;
    let Some(parent_uuid) = info.uuid else {
        return Err(Error::unsupported(
            parent,
            format!(
                "{} images cannot be a parent: they have no UUID",
                info.format
            ),
        ));
    };
    let params = CreateParams {
        size: info.size,
        variant: Variant::Differencing,
        uuid,
        parent: Some(ParentLink {
            uuid: parent_uuid,
            modification: info.modification.unwrap_or_default(),
        }),
        comment: String::new(),
    };
    vdi::Vdi.create(path, &params, &mut Progress::none())
}

/// The lower-case ending of a file name, without the dot.
pub(crate) fn extension(path: &Path) -> String {
    path.extension()
        .map(|e| e.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default()
}
