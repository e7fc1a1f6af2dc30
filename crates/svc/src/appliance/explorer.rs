//! `IVFSExplorer`: a folder of this computer, as front ends choose packages in.

use crate::conv::invalid;
use crate::state::lock;
use api::progress::Progress;
use api::types::*;
use api::{Call, ObjRef, server};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Most entries of a folder that are shown.
const MOST: usize = 100_000;

pub struct ExplorerObject(Mutex<Folder>);

struct Folder {
    path: PathBuf,
    entries: Vec<Found>,
}

struct Found {
    name: String,
    /// `FsObjType`.
    kind: u32,
    size: i64,
    mode: u32,
}

impl ExplorerObject {
    /// `file:///FOLDER` or `/FOLDER`.
    pub fn new(uri: &str) -> api::Result<Self> {
        let path = uri.strip_prefix("file://").unwrap_or(uri);
        if path.contains("://") {
            return Err(invalid(format!(
                "The URI '{uri}' is no folder of this computer"
            )));
        }
        Ok(Self(Mutex::new(Folder {
            path: absolute(Path::new(path))?,
            entries: Vec::new(),
        })))
    }

    fn look(&self, cx: &Call, path: Option<PathBuf>) -> api::Result<ObjRef> {
        let mut folder = lock(&self.0);
        let path = path.unwrap_or_else(|| folder.path.clone());
        folder.entries = entries(&path).map_err(|e| super::io_error("read", &path, &e))?;
        folder.path = path;
        Ok(cx.export(Progress::done("Updating the folder")))
    }
}

fn absolute(path: &Path) -> api::Result<PathBuf> {
    match path.is_absolute() {
        true => Ok(path.to_owned()),
        false => Err(invalid(format!(
            "'{}' is not an absolute path",
            path.display()
        ))),
    }
}

fn entries(path: &Path) -> std::io::Result<Vec<Found>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path)?.take(MOST) {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        let kind = match meta.file_type() {
            t if t.is_dir() => 4,
            t if t.is_file() => 6,
            t if t.is_symlink() => 7,
            _ => 1,
        };
        all.push(Found {
            name: entry.file_name().to_string_lossy().into_owned(),
            kind,
            size: i64::try_from(meta.len()).unwrap_or(i64::MAX),
            mode: meta.permissions().mode() & 0o7777,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl server::IVFSExplorer for ExplorerObject {
    fn path(&self, _cx: &Call) -> api::Result<String> {
        Ok(lock(&self.0).path.to_string_lossy().into_owned())
    }
    fn type_(&self, _cx: &Call) -> api::Result<VFSType> {
        Ok(VFSType::File)
    }
    fn update(&self, cx: &Call) -> api::Result<ObjRef> {
        self.look(cx, None)
    }
    fn cd(&self, cx: &Call, dir: String) -> api::Result<ObjRef> {
        let path = lock(&self.0).path.join(dir);
        self.look(cx, Some(path))
    }
    fn cd_up(&self, cx: &Call) -> api::Result<ObjRef> {
        let path = lock(&self.0).path.parent().map(Path::to_owned);
        self.look(cx, path)
    }
    fn entry_list(&self, _cx: &Call) -> api::Result<(Vec<String>, Vec<u32>, Vec<i64>, Vec<u32>)> {
        let folder = lock(&self.0);
        let all = &folder.entries;
        Ok((
            all.iter().map(|e| e.name.clone()).collect(),
            all.iter().map(|e| e.kind).collect(),
            all.iter().map(|e| e.size).collect(),
            all.iter().map(|e| e.mode).collect(),
        ))
    }
    fn exists(&self, _cx: &Call, names: Vec<String>) -> api::Result<Vec<String>> {
        let folder = lock(&self.0);
        let there = |name: &String| folder.path.join(name).exists();
        Ok(names.into_iter().filter(there).collect())
    }
    fn remove(&self, cx: &Call, names: Vec<String>) -> api::Result<ObjRef> {
        let path = lock(&self.0).path.clone();
        for name in &names {
            if !ovf::is_plain_name(name) {
                return Err(invalid(format!("'{name}' is no plain file name")));
            }
        }
        for name in names {
            let file = path.join(name);
            std::fs::remove_file(&file).map_err(|e| super::io_error("remove", &file, &e))?;
        }
        Ok(cx.export(Progress::done("Removing files")))
    }
}
api::object!(ExplorerObject: IVFSExplorer);
