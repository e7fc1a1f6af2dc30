//! Loading and saving settings files.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::codec::{self, Content};
use crate::dom::{self, Document, Element, Fault, Node};
use crate::merge::merge;
use crate::model::{Global, Machine};
use crate::shape;
use crate::version::{NAMESPACE, NAMESPACE_OLD, Version, host_platform};

/// A machine's `NAME.vbox`.
pub type MachineFile = SettingsFile<Machine>;
/// The user's `VirtualBox.xml`.
pub type GlobalFile = SettingsFile<Global>;

/// Why a settings file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused, or another program is writing the file.
    #[error(transparent)]
    File(#[from] iprt::Error),
    /// The file is not what a settings file must be.
    #[error("'{path}', line {line}, column {column}: {message}", path = path.display())]
    Broken {
        path: PathBuf,
        /// From 1.
        line: u32,
        /// From 1, in characters.
        column: u32,
        /// What is wrong there.
        message: String,
    },
    /// The file's format is older or newer than what can be read.
    #[error(
        "'{path}' has settings version {version}; this program reads {oldest} to {newest}",
        path = path.display(), oldest = Version::OLDEST, newest = Version::NEWEST
    )]
    Version {
        path: PathBuf,
        /// As in the file.
        version: String,
    },
    /// The machine's settings are encrypted.
    #[error("'{path}' is encrypted, which is not supported", path = path.display())]
    Encrypted { path: PathBuf },
    /// The file on disk is not the one that was read; saving would undo somebody's changes.
    #[error("'{path}' was changed by another program since it was read", path = path.display())]
    Changed { path: PathBuf },
    /// The settings cannot be written, since they could not be read again.
    #[error("invalid settings for '{path}': {message}", path = path.display())]
    Invalid { path: PathBuf, message: String },
}

/// A settings file: its content, to be read and changed, and what is needed to save it.
///
/// Whatever the file holds that the content does not model survives a save in its place.
#[derive(Debug, Clone)]
pub struct SettingsFile<T> {
    /// What the file says. Changes reach the disk by [`save`](SettingsFile::save).
    pub content: T,
    path: PathBuf,
    origin: Option<Origin<T>>,
}

/// The file as it is on disk, to the best of our knowledge.
#[derive(Debug, Clone)]
struct Origin<T> {
    source: String,
    document: Document,
    version: Version,
    platform: String,
    content: T,
}

#[expect(private_bounds, reason = "only the two kinds of files above exist")]
impl<T: Content> SettingsFile<T> {
    /// A new file, not on disk before the first [`save`](Self::save).
    pub fn create(path: impl Into<PathBuf>, content: T) -> Self {
        Self {
            content,
            path: path.into(),
            origin: None,
        }
    }

    /// Reads a file. At most 16 MiB, nested at most 520 deep.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let source = read_text(&path)?;
        let origin: Origin<T> = parse(source, &path)?;
        Ok(Self {
            content: origin.content.clone(),
            path,
            origin: Some(origin),
        })
    }

    /// Reads `source` as if it were in a file at `path`.
    pub fn from_text(source: impl Into<String>, path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let origin: Origin<T> = parse(source.into(), &path)?;
        Ok(Self {
            content: origin.content.clone(),
            path,
            origin: Some(origin),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that stored relative paths start from.
    pub fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Tells that the file was moved by the caller, or is not there yet and shall be elsewhere.
    pub fn set_path(&mut self, path: impl Into<PathBuf>) {
        self.path = path.into();
    }

    /// The format version the file would be saved with: what it has, or what its settings need.
    ///
    /// A file before [`Version::OLDEST_WRITTEN`] becomes that when it changes. What is newer than the
    /// version of the file it was read from does not raise it, if the layout has room for it.
    pub fn version(&self) -> Version {
        let needed = |content| codec::write(content, Version::OLDEST_WRITTEN).1;
        let Some(origin) = &self.origin else {
            return T::NEW.max(needed(&self.content));
        };
        if origin.content == self.content {
            return origin.version;
        }
        let own = origin.version.max(Version::OLDEST_WRITTEN);
        let needed_now = needed(&self.content);
        let fits = || {
            let (mut element, _) = codec::write(&self.content, own);
            shape::from_plain(&mut element, own);
            read_element(&element, own).is_ok_and(|read: T| read == self.content)
        };
        if needed_now > own && needed_now <= needed(&origin.content) && fits() {
            return own;
        }
        own.max(needed_now)
    }

    /// The format version on disk; none for a file that was not saved yet.
    pub fn version_on_disk(&self) -> Option<Version> {
        self.origin.as_ref().map(|o| o.version)
    }

    /// Whether there are changes that a save would write.
    pub fn is_modified(&self) -> bool {
        self.origin
            .as_ref()
            .is_none_or(|o| o.content != self.content)
    }

    /// The text that a save would write.
    pub fn to_text(&self) -> Result<String, Error> {
        if let Some(origin) = &self.origin
            && origin.content == self.content
        {
            return Ok(origin.source.clone());
        }
        let version = self.version();
        let invalid = |fault: Fault| Error::Invalid {
            path: self.path.clone(),
            message: fault.message,
        };
        let (mut new, _) = codec::write(&self.content, version);
        let meant: T = codec::read(&new, version).map_err(invalid)?;
        shape::from_plain(&mut new, version);
        let Some(origin) = &self.origin else {
            return Ok(dom::write(&fresh(new, version)));
        };

        let raised = version > origin.version;
        let (mut old, _) = codec::write(&origin.content, origin.version);
        if raised && version.storage_inside_hardware() {
            shape::move_storage_inside(&mut old);
        }
        shape::from_plain(&mut old, version);
        let mut document = origin.document.clone();
        let root = &mut document.root;
        root.set("version", format!("{version}-{}", host_platform()));
        if raised && version >= Version::V1_16 {
            root.set("xmlns", NAMESPACE.to_owned());
        }
        for node in &mut root.children {
            if let Node::Element(element) = node
                && element.is(T::ELEMENT)
            {
                if raised {
                    shape::to_plain(element, origin.version);
                    if version.storage_inside_hardware() {
                        shape::move_storage_inside(element);
                    }
                    shape::from_plain(element, version);
                }
                let merged = merge(element, &old, &new, raised);
                // Foreign content can contradict what is meant (an old spelling of a setting
                // beside the new one). Then the settings win, and the foreign content goes.
                let kept = read_element(&merged, version).is_ok_and(|read: T| read == meant);
                *element = if kept { merged } else { new.clone() };
            }
        }
        Ok(dom::write(&document))
    }

    /// Writes the file if anything changed: whole or not at all, on disk when this returns.
    ///
    /// The previous content stays as `X-prev`. When the format version rises, the old file is kept
    /// as `NAME-1.N-PLATFORM.vbox`, the first time. Fails with [`Error::Changed`] if the file is
    /// not as it was read, and with [`iprt::Error::Locked`] if another program is saving it.
    pub fn save(&mut self) -> Result<(), Error> {
        let text = self.to_text()?;
        let version = self.version();
        let writer = iprt::file::Replacement::begin(&self.path)?;
        let on_disk = match read_text(&self.path) {
            Ok(text) => Some(text),
            Err(Error::File(e)) if e.io_kind() == Some(io::ErrorKind::NotFound) => None,
            // Broken since: not what was read.
            Err(Error::Broken { path, .. }) => return Err(Error::Changed { path }),
            Err(e) => return Err(e),
        };
        if let Some(on_disk) = &on_disk {
            match &self.origin {
                Some(origin) if origin.source == *on_disk => {}
                _ => {
                    return Err(Error::Changed {
                        path: self.path.clone(),
                    });
                }
            }
        }
        if on_disk.as_deref() != Some(text.as_str()) {
            if let (Some(origin), Some(_)) = (&self.origin, &on_disk)
                && version > origin.version
            {
                self.back_up(origin)?;
            }
            writer.commit(text.as_bytes(), true)?;
        }
        self.origin = Some(parse(text, &self.path)?);
        Ok(())
    }

    /// Keeps the file of an older version beside the new one. Only a full disk is an error: it
    /// would hit the save as well.
    fn back_up(&self, origin: &Origin<T>) -> Result<(), Error> {
        let mut name = OsString::from(self.path.file_stem().unwrap_or_default());
        name.push(format!("-{}-{}", origin.version, origin.platform));
        if let Some(extension) = self.path.extension() {
            name.push(".");
            name.push(extension);
        }
        let backup = self.path.with_file_name(name);
        if backup.exists() {
            return Ok(());
        }
        match iprt::file::copy_synced(&self.path, &backup) {
            Err(e) if e.io_kind() == Some(io::ErrorKind::StorageFull) => {
                let _ = std::fs::remove_file(&backup);
                Err(e.into())
            }
            _ => Ok(()),
        }
    }
}

fn read_text(path: &Path) -> Result<String, Error> {
    let fail = |e| Error::File(iprt::Error::io("read", path, e));
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    // One more than allowed, so that too large a file is seen to be.
    file.take(dom::MAX_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let bytes = e.into_bytes();
        let valid = String::from_utf8_lossy(bytes.get(..good).unwrap_or_default());
        broken(path, &valid, Fault::new(good, "this is not UTF-8 text"))
    })
}

fn broken(path: &Path, source: &str, fault: Fault) -> Error {
    let (line, column) = dom::position(source, fault.offset);
    Error::Broken {
        path: path.to_owned(),
        line,
        column,
        message: fault.message,
    }
}

fn parse<T: Content>(source: String, path: &Path) -> Result<Origin<T>, Error> {
    let at = |fault| broken(path, &source, fault);
    let document = dom::parse(&source).map_err(at)?;
    let root = &document.root;
    let namespace = root.attribute("xmlns").map(|a| a.value.as_str());
    let known = namespace.is_some_and(|n| n == NAMESPACE || n == NAMESPACE_OLD);
    if root.name != "VirtualBox" || !known {
        let message =
            format!("this is no settings file: the root must be VirtualBox in {NAMESPACE}");
        return Err(at(Fault::new(root.offset, message)));
    }
    let (version, platform) = parse_version(root, path).map_err(|e| match e {
        VersionFault::Fault(fault) => at(fault),
        VersionFault::Error(e) => e,
    })?;
    if root.child("MachineEncrypted").is_some() {
        return Err(Error::Encrypted {
            path: path.to_owned(),
        });
    }
    let Some(element) = root.child(T::ELEMENT) else {
        let message = format!("the file has no {} element", T::ELEMENT);
        return Err(at(Fault::new(root.offset, message)));
    };
    if let Some(second) = root.elements().filter(|e| e.is(T::ELEMENT)).nth(1) {
        let message = format!("the file has a second {} element", T::ELEMENT);
        return Err(at(Fault::new(second.offset, message)));
    }
    let content = read_element(element, version).map_err(at)?;
    Ok(Origin {
        document,
        version,
        platform,
        content,
        source,
    })
}

/// Reads the content's element in the layout that files of `version` have.
fn read_element<T: Content>(element: &Element, version: Version) -> Result<T, Fault> {
    if !shape::differs(version) {
        return codec::read(element, version);
    }
    let mut plain = element.clone();
    shape::to_plain(&mut plain, version);
    codec::read(&plain, version)
}

enum VersionFault {
    Fault(Fault),
    Error(Error),
}

/// `1.N-PLATFORM`.
fn parse_version(root: &Element, path: &Path) -> Result<(Version, String), VersionFault> {
    let Some(attribute) = root.attribute("version") else {
        return Err(VersionFault::Fault(Fault::new(
            root.offset,
            "VirtualBox/@version is missing",
        )));
    };
    let (number, platform) = attribute
        .value
        .split_once('-')
        .unwrap_or((&attribute.value, "unknown"));
    // The platform becomes part of a file name.
    let plain = |text: &str| {
        !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let minor = number.strip_prefix("1.").filter(|m| plain(m));
    let (Some(minor), true) = (minor, plain(platform)) else {
        let message = "VirtualBox/@version must look like 1.16-linux";
        return Err(VersionFault::Fault(Fault::new(attribute.offset, message)));
    };
    match minor.parse().ok().and_then(Version::from_minor) {
        Some(version) => Ok((version, platform.to_owned())),
        None => {
            let (path, version) = (path.to_owned(), number.to_owned());
            Err(VersionFault::Error(Error::Version { path, version }))
        }
    }
}

/// A new file around the content's element.
fn fresh(element: Element, version: Version) -> Document {
    let mut root = Element::new("VirtualBox");
    root.set("xmlns", NAMESPACE.to_owned());
    root.set("version", format!("{version}-{}", host_platform()));
    root.children.push(Node::Element(element));
    Document {
        prolog: vec![Node::Raw(WARNING.to_owned())],
        root,
        epilog: Vec::new(),
    }
}

/// Stands at the top of every file.
const WARNING: &str = "<!--
** DO NOT EDIT THIS FILE.
** Programs that have it open write it again and drop what was changed here.
** VBoxManage modifyvm and the other commands change settings safely.
-->";
