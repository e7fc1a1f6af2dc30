//! The formats, and how a file finds its own.

use std::path::Path;
use std::path::PathBuf;

use uuid::Uuid;

use crate::CreateParams;
use crate::Ends;
use crate::Error;
use crate::Format;
use crate::Image;
use crate::Layout;
use crate::MediaKind;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Variant;
use crate::capability;
use crate::host::HostFile;

pub mod dmg;
mod extents;
pub mod parallels;
pub mod qemu;
pub mod raw;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;

/// Every format, in the order in which they are asked about a file: the ones that know their own
/// signature first.
pub static FORMATS: &[&dyn Format] = &[
    &vmdk::Vmdk,
    &vdi::Vdi,
    &vhd::Vhd,
    &parallels::Parallels,
    &dmg::Dmg,
    &qemu::Qed,
    &qemu::Qcow,
    &vhdx::Vhdx,
    &raw::Raw,
];

/// Signatures of formats that are known but not readable, so that they are never taken for raw
/// disks: offset, bytes, name.
const FOREIGN: &[(usize, &[u8], &str)] = &[(0, b"COWD", "ESX sparse VMDK")];

/// Bytes of the trailer that fixed VHD and DMG images end with.
const TRAILER: u64 = 512;

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
    let len = file.len()?;
    let mut ends = Ends {
        head: vec![0; len.min(512) as usize],
        tail: Vec::new(),
        len,
    };
    file.read_padded(0, &mut ends.head)?;
    if let Some(at) = len.checked_sub(TRAILER) {
        ends.tail = vec![0; TRAILER as usize];
        file.read_padded(at, &mut ends.tail)?;
    }
    let refuse = |name| {
        Err(Error::unsupported(
            path,
            format!("{name} images cannot be used yet: convert it with 'qemu-img convert -O vdi'"),
        ))
    };
    for &(offset, signature, name) in FOREIGN {
        let head = ends.head.get(offset..);
        if head.is_some_and(|h| h.starts_with(signature)) {
            return refuse(name);
        }
    }
    let ask = |format: &&'static dyn Format, ends: &Ends| {
        let kind = format.probe(path, ends)?;
        Some((*format, kind))
    };
    // The last sector of an image that has a header is a guest's data.
    let headed = Ends {
        tail: Vec::new(),
        ..ends.clone()
    };
    let mut formats = FORMATS.iter().filter(|format| format.id() != raw::Raw.id());
    formats
        .find_map(|format| ask(format, &headed))
        .or_else(|| FORMATS.iter().find_map(|format| ask(format, &ends)))
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

/// The format of a new differencing image of `parent`: the parent's own where that has
/// differencing images, VDI otherwise.
pub fn child_format(parent: &Path) -> Result<&'static dyn Format> {
    let (format, _) = probe(parent)?;
    match format.capabilities() & capability::DIFFERENCING {
        0 => Ok(&vdi::Vdi),
        _ => Ok(format),
    }
}

/// Creates a differencing image of a parent in a format that has such, as large as the parent is
/// now (`createmedium --diffparent`, snapshots). The parent must not be written any more.
pub fn create_child(
    path: &Path,
    format: &dyn Format,
    uuid: Uuid,
    parent: &Path,
) -> Result<Box<dyn Image>> {
    let info = crate::media_info(parent)?;
    let params = CreateParams {
        variant: Variant::Differencing,
        uuid,
        parent: Some(crate::link_to(parent)?),
        parent_path: Some(parent.to_path_buf()),
        ..CreateParams::new(info.size, Variant::Differencing)
    };
    format.create(path, &params, &mut Progress::none())
}

/// All files of an image, the one it is opened by first.
pub fn image_files(path: &Path) -> Result<Vec<PathBuf>> {
    probe(path)?.0.files(path)
}

/// Deletes all files of an image; the one that names the others last.
pub fn remove_image(path: &Path) -> Result<()> {
    // What cannot be read any more is one file.
    let files = image_files(path).unwrap_or_else(|_| vec![path.to_path_buf()]);
    for file in files.iter().rev() {
        match std::fs::remove_file(file) {
            Err(e) if file != path && e.kind() == std::io::ErrorKind::NotFound => {}
            done => done.map_err(|e| Error::host(file, "delete", 0, e))?,
        }
    }
    Ok(())
}

/// Refuses the layouts that only VMDK has.
pub(crate) fn default_layout(path: &Path, params: &CreateParams) -> Result<()> {
    match params.layout {
        Layout::Default => Ok(()),
        _ => Err(Error::unsupported(
            path,
            "only VMDK images can be split, stream-optimised, for ESX or of a raw disk",
        )),
    }
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
    fn a_guest_cannot_make_another_format_of_its_disk_by_its_end() {
        let folder = tempfile::tempdir().unwrap();
        for (name, format) in [
            ("a", "QCOW"),
            ("b", "QED"),
            ("c", "Parallels"),
            ("d", "VDI"),
        ] {
            let path = folder.path().join(name);
            let params = CreateParams::new(1 << 20, Variant::Dynamic);
            drop(create_image(&path, format, &params, &mut Progress::none()).unwrap());
            let mut bytes = std::fs::read(&path).unwrap();
            let mut footer = [0; 512];
            footer[..8].copy_from_slice(b"conectix");
            footer[48..56].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
            bytes.extend_from_slice(&footer);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(probe(&path).unwrap().0.id(), format);
            let at = bytes.len() - 512;
            bytes[at..at + 12].copy_from_slice(b"koly\0\0\0\x04\0\0\x02\0");
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(probe(&path).unwrap().0.id(), format);
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
