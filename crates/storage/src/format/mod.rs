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

/// Bytes of the trailer that fixed VHD and DMG images end with.
const TRAILER: u64 = 512;

/// Formats that are told by their last sector alone: a fixed VHD looks like a raw disk from its
/// start, and a guest that got it as one could overwrite its footer. The footer must also give
/// the size that it ends, so that a raw disk with such bytes in its last sector stays one.
fn foreign_at_end(file: &HostFile) -> Result<Option<&'static str>> {
    let Some(data) = file.len()?.checked_sub(TRAILER) else {
        return Ok(None);
    };
    let mut trailer = [0; TRAILER as usize];
    file.read_padded(data, &mut trailer)?;
    // Current size: bytes 48 to 55 of the footer, big-endian.
    if trailer.starts_with(b"conectix") && trailer[48..56] == data.to_be_bytes() {
        return Ok(Some("VHD"));
    }
    // Version 4 and a header of 512 bytes, big-endian, follow the signature of a DMG.
    if trailer.starts_with(b"koly\0\0\0\x04\0\0\x02\0") {
        return Ok(Some("DMG"));
    }
    Ok(None)
}

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
    let refuse = |name| {
        Err(Error::unsupported(
            path,
            format!("{name} images cannot be used yet: convert it with 'qemu-img convert -O vdi'"),
        ))
    };
    for &(offset, signature, name) in FOREIGN {
        if head.get(offset..).is_some_and(|h| h.starts_with(signature)) {
            return refuse(name);
        }
    }
    let found = FORMATS
        .iter()
        .find_map(|format| Some((*format, format.probe(path, &head)?)));
    match found {
        // The last sector of an image that has a header is a guest's data.
        Some((format, _)) if format.id() != raw::Raw.id() => {}
        _ => {
            if let Some(name) = foreign_at_end(&file)? {
                return refuse(name);
            }
        }
    }
    found.ok_or_else(|| Error::unsupported(path, "the format of this image is not known"))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a file of 64 KiB with this last sector is taken for a raw disk.
    fn is_raw_with(trailer: &[u8; 512]) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let mut bytes = vec![0; 0x10000];
        bytes.extend_from_slice(trailer);
        std::fs::write(&path, bytes).unwrap();
        match probe(&path) {
            Ok((format, _)) => format.id() == "RAW",
            Err(Error::Unsupported { .. }) => false,
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn footers_at_the_end_are_not_raw_data() {
        let mut footer = [0; 512];
        assert!(is_raw_with(&footer));
        footer[..8].copy_from_slice(b"conectix");
        assert!(is_raw_with(&footer), "a footer of another size");
        footer[48..56].copy_from_slice(&0x10000_u64.to_be_bytes());
        assert!(!is_raw_with(&footer));

        let mut trailer = [0; 512];
        trailer[..4].copy_from_slice(b"koly");
        assert!(is_raw_with(&trailer), "no version");
        trailer[7] = 4;
        trailer[10] = 2;
        assert!(!is_raw_with(&trailer));
    }
}
