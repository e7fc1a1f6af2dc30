//! Disk images between packages and machines.
//!
//! The one place that knows which image formats there are: `storage` is asked by name, so that a
//! format which it learns is one that can be imported and exported.

use super::{Parts, canceled, io_error, package_error};
use crate::conv::file_error;
use crate::media::open_error;
use api::{Error, ResultCode};
use ovf::{File, Package};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use storage::{Container, CreateParams, OpenMode, Variant};
use uuid::Uuid;

/// A disk to be made.
#[derive(Debug, Clone)]
pub struct Target {
    pub path: PathBuf,
    /// `VDI`, `VMDK`, ...
    pub format: &'static str,
    pub id: Uuid,
}

/// The format that a new image gets by its file name; none where the name says nothing.
pub fn format_of(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_string_lossy().to_ascii_lowercase();
    Some(match extension.as_str() {
        "vdi" => "VDI",
        "vmdk" => "VMDK",
        "vhd" => "VHD",
        _ => return None,
    })
}

fn known_format(name: &str, hint: &str) -> api::Result<&'static dyn storage::Format> {
    storage::format_by_id(name).ok_or_else(|| {
        Error::new(
            ResultCode::VBOX_E_NOT_SUPPORTED,
            format!("{name} images cannot be made yet{hint}"),
        )
    })
}

/// Makes a machine's disk of a package's: a blank one where the package has no file for it.
pub fn import(
    package: &Package,
    file: Option<&File>,
    capacity: u64,
    target: &Target,
    parts: &Parts<'_>,
) -> api::Result<()> {
    let format = known_format(target.format, " (VDI can: '--options importtovdi')")?;
    let sectors = capacity.div_ceil(storage::SECTOR).max(1);
    let size = sectors.saturating_mul(storage::SECTOR);
    let mut params = CreateParams::new(size, Variant::Dynamic);
    params.uuid = target.id;
    let Some(file) = file else {
        let made = format.create(&target.path, &params, &mut storage::Progress::none());
        return made
            .and_then(|mut image| image.flush())
            .map_err(|e| storage_error(&target.path, &e));
    };
    let fail = |e: ovf::Error| package_error(package.path(), &e);
    // Half of the work is reading the package, half is writing the image.
    if let Some(path) = package.path_of(file) {
        package
            .verify(file, &mut |done, total| parts.of(done, total * 2))
            .map_err(fail)?;
        return convert(&path, &target.path, format, params, parts);
    }
    let mut scratch = target.path.clone().into_os_string();
    scratch.push(".import");
    let scratch = PathBuf::from(scratch);
    let result = extract(package, file, &scratch, size, parts)
        .and_then(|()| convert(&scratch, &target.path, format, params, parts));
    let _ = std::fs::remove_file(&scratch);
    result
}

/// Copies a CD image.
pub fn import_plain(
    package: &Package,
    file: &File,
    to: &Path,
    parts: &Parts<'_>,
) -> api::Result<()> {
    // Not more than what is stored, unless that is compressed; then a DVD of two layers.
    const LARGEST: u64 = 16 << 30;
    let stored = package
        .size(file)
        .map_err(|e| package_error(package.path(), &e))?;
    extract(package, file, to, stored.max(LARGEST), parts)
}

fn extract(
    package: &Package,
    file: &File,
    to: &Path,
    size: u64,
    parts: &Parts<'_>,
) -> api::Result<()> {
    // An image that is stored as it is may be of any length, its own; what comes out of a
    // compressed one is a disk of known size and what its format needs beside it.
    let stored = package
        .size(file)
        .map_err(|e| package_error(package.path(), &e))?;
    let limit = match file.is_gzip() {
        true => size.saturating_add(size / 16).saturating_add(64 << 20),
        false => stored,
    };
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(to);
    let mut out = created.map_err(|e| io_error("create", to, &e))?;
    let copied = package.extract(file, &mut out, limit, &mut |done, total| {
        parts.of(done, total * 2)
    });
    copied.map_err(|e| {
        let _ = std::fs::remove_file(to);
        package_error(package.path(), &e)
    })
}

fn convert(
    from: &Path,
    to: &Path,
    format: &dyn storage::Format,
    mut params: CreateParams,
    parts: &Parts<'_>,
) -> api::Result<()> {
    let source = Container::open(from, OpenMode::ReadOnly).map_err(|e| open_error(from, &e))?;
    params.size = params.size.max(source.size());
    let mut report = |percent: u32| step(parts.at(50 + u64::from(percent) / 2));
    let mut progress = storage::Progress::new(&mut report);
    storage::clone_to_new(&source, to, format, &params, &mut progress)
        .and_then(|mut made| made.flush())
        .map_err(|e| storage_error(to, &e))
}

/// The chain of a machine's disk, base first, as one stream-optimised VMDK image.
pub fn export(chain: &[PathBuf], to: &Path, parts: &Parts<'_>) -> api::Result<u64> {
    let files: Vec<&Path> = chain.iter().map(PathBuf::as_path).collect();
    let top = files.last().copied().unwrap_or(to);
    let source =
        Container::open_chain(&files, OpenMode::ReadOnly).map_err(|e| open_error(top, &e))?;
    let format = known_format("VMDK", ", so disks cannot be exported")?;
    let mut report = |percent: u32| step(parts.at(u64::from(percent)));
    let mut progress = storage::Progress::new(&mut report);
    let mut params = CreateParams::new(source.size(), Variant::Dynamic);
    params.layout = storage::Layout::StreamOptimized;
    storage::clone_to_new(&source, to, format, &params, &mut progress)
        .map_err(|e| storage_error(to, &e))?;
    Ok(source.size())
}

fn step(go_on: bool) -> ControlFlow<()> {
    match go_on {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    }
}

fn storage_error(path: &Path, error: &storage::Error) -> Error {
    match error {
        storage::Error::Cancelled => canceled(),
        e => file_error(format!(
            "Could not create the disk image '{}': {e} ({})",
            path.display(),
            e.status()
        )),
    }
}
