//! The text that describes a VMDK: who it is, its parent, its extents and its data base. Lines that
//! are not known here stay as they are.

use std::path::Path;

use uuid::Uuid;

use crate::Error;
use crate::Geometry;
use crate::Layout;
use crate::Meta;
use crate::ParentLink;
use crate::Result;
use crate::SECTOR;
use crate::Variant;

/// What every descriptor begins with, in some letter case.
pub(super) const TITLE: &str = "# Disk DescriptorFile";

/// Bytes of a descriptor that are believed: some ten thousand extents.
pub(super) const MAX_LEN: u64 = 1 << 20;

/// A parent's content ID that says that there is no parent.
pub(super) const NO_PARENT: u32 = 0xFFFF_FFFF;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Sparse,
    /// Bytes from an offset (in sectors) of the file on.
    Flat(u64),
    Zero,
}

/// One line of the extent description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub writable: bool,
    pub sectors: u64,
    pub kind: ExtentKind,
    /// Empty for [`ExtentKind::Zero`].
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    lines: Vec<String>,
    /// The bytes were not UTF-8: each one is the character of its value here.
    bytewise: bool,
}

/// Whether a file or a region begins like a descriptor.
pub(super) fn is_descriptor(head: &[u8]) -> bool {
    head.get(..TITLE.len())
        .is_some_and(|h| h.eq_ignore_ascii_case(TITLE.as_bytes()))
}

/// `key = value` without the quotes around the value.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let plain = !key.is_empty() && !key.starts_with('#') && !key.contains([' ', '"']);
    let unquoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    plain.then_some((key, unquoted.unwrap_or(value)))
}

impl Descriptor {
    pub(super) fn new(create_type: &str) -> Self {
        let lines = [
            TITLE,
            "version=1",
            "CID=00000000",
            "parentCID=ffffffff",
            &format!("createType=\"{create_type}\""),
            "",
            "# Extent description",
            "",
            "# The disk Data Base",
            "#DDB",
            "",
            "ddb.virtualHWVersion = \"4\"",
            "ddb.adapterType=\"ide\"",
        ];
        Self {
            lines: lines.map(str::to_owned).to_vec(),
            bytewise: false,
        }
    }

    /// `raw` is all there is; what follows a zero byte is padding.
    pub(super) fn parse(path: &Path, raw: &[u8], offset: u64) -> Result<Self> {
        let raw = raw.split(|b| *b == 0).next().unwrap_or_default();
        if !is_descriptor(raw) {
            return Err(Error::corrupt(
                path,
                "VMDK",
                offset,
                "the descriptor is missing",
            ));
        }
        let (text, bytewise) = match std::str::from_utf8(raw) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (raw.iter().map(|b| char::from(*b)).collect(), true),
        };
        Ok(Self {
            lines: text.lines().map(str::to_owned).collect(),
            bytewise,
        })
    }

    /// The bytes of the text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = self.lines.join("\n");
        text.push('\n');
        match self.bytewise {
            true => text
                .chars()
                .map(|c| u8::try_from(c).unwrap_or(b'?'))
                .collect(),
            false => text.into_bytes(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.lines
            .iter()
            .filter_map(|line| assignment(line))
            .find(|(k, _)| k.eq_ignore_ascii_case(key))
            .map(|(_, value)| value)
    }

    fn set_line(&mut self, key: &str, line: String) {
        let found = self
            .lines
            .iter_mut()
            .find(|l| assignment(l).is_some_and(|(k, _)| k.eq_ignore_ascii_case(key)));
        match found {
            Some(old) => *old = line,
            None if key.starts_with("ddb.") => self.lines.push(line),
            None => {
                // Behind the first assignments, before the extents.
                let after = self
                    .lines
                    .iter()
                    .position(|l| assignment(l).is_some_and(|(k, _)| k == "createType"));
                self.lines.insert(after.map_or(1, |i| i + 1), line);
            }
        }
    }

    /// Header values of numbers have no quotes, all others do.
    fn set(&mut self, key: &str, value: &str) {
        let line = match key {
            "CID" | "parentCID" => format!("{key}={value}"),
            _ => format!("{key}=\"{value}\""),
        };
        self.set_line(key, line);
    }

    fn remove(&mut self, key: &str) {
        self.lines
            .retain(|l| assignment(l).is_none_or(|(k, _)| !k.eq_ignore_ascii_case(key)));
    }

    fn hex(&self, key: &str) -> Option<u32> {
        u32::from_str_radix(self.get(key)?, 16).ok()
    }

    pub(super) fn cid(&self) -> Option<u32> {
        self.hex("CID")
    }

    pub(super) fn parent_cid(&self) -> Option<u32> {
        self.hex("parentCID").filter(|cid| *cid != NO_PARENT)
    }

    pub(super) fn set_parent_hint(&mut self, parent: &Path) {
        // A quote or a line break in the name would end the value.
        let name = parent.to_string_lossy().replace(['"', '\n', '\r'], "_");
        self.set("parentFileNameHint", &name);
    }

    fn uuid(&self, key: &str) -> Option<Uuid> {
        self.get(key)?.parse().ok()
    }

    fn number(&self, key: &str) -> u32 {
        self.get(key).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    fn geometry(&self, keys: [&str; 3]) -> Geometry {
        let [cylinders, heads, sectors] = keys.map(|key| self.number(key));
        Geometry {
            cylinders,
            heads,
            sectors,
        }
    }

    pub(super) fn meta(&self) -> Meta {
        let parent = self.parent_cid().map(|cid| ParentLink {
            uuid: self.uuid("ddb.uuid.parent").unwrap_or_default(),
            modification: self.uuid("ddb.uuid.parentmodification").unwrap_or_default(),
            cid: Some(cid),
        });
        let comment = self.get("ddb.comment").unwrap_or_default();
        Meta {
            uuid: self.uuid("ddb.uuid.image"),
            modification: self.uuid("ddb.uuid.modification"),
            parent,
            cid: self.cid(),
            comment: unescape(comment),
            physical: self.geometry(PHYSICAL),
            logical: self.geometry(LOGICAL),
        }
    }

    pub(super) fn set_meta(&mut self, meta: &Meta) {
        let mut uuid = |key: &str, value: Option<Uuid>| match value {
            Some(value) => self.set(key, &value.to_string()),
            None => self.remove(key),
        };
        uuid("ddb.uuid.image", meta.uuid);
        uuid("ddb.uuid.modification", meta.modification);
        uuid(
            "ddb.uuid.parent",
            Some(meta.parent.map(|p| p.uuid).unwrap_or_default()),
        );
        let modification = meta.parent.map(|p| p.modification).unwrap_or_default();
        uuid("ddb.uuid.parentmodification", Some(modification));
        if let Some(cid) = meta.cid {
            self.set("CID", &format!("{cid:08x}"));
        }
        match (meta.parent, self.parent_cid()) {
            (None, _) => self.set("parentCID", "ffffffff"),
            (Some(ParentLink { cid: Some(cid), .. }), _) => {
                self.set("parentCID", &format!("{:08x}", cid.min(NO_PARENT - 1)));
            }
            // A parent of another format, or one in any state: a number that says "there is one".
            (Some(_), None) => self.set("parentCID", "00000000"),
            (Some(_), Some(_)) => {}
        }
        let comment = meta.comment.replace('\\', "\\\\").replace('\n', "\\n");
        match comment.is_empty() {
            true => self.remove("ddb.comment"),
            false => self.set("ddb.comment", &comment),
        }
        for (keys, geometry) in [(PHYSICAL, meta.physical), (LOGICAL, meta.logical)] {
            let Geometry {
                cylinders,
                heads,
                sectors,
            } = geometry;
            for (key, value) in keys.into_iter().zip([cylinders, heads, sectors]) {
                match geometry == Geometry::default() {
                    true => self.remove(key),
                    false => self.set(key, &value.to_string()),
                }
            }
        }
    }

    /// The two halves of the medium variant.
    pub(super) fn variant(&self, path: &Path) -> Result<(Variant, Layout)> {
        let create_type = self
            .get("createType")
            .unwrap_or_default()
            .to_ascii_lowercase();
        let (variant, layout) = match create_type.as_str() {
            "monolithicsparse" => (Variant::Dynamic, Layout::Default),
            "monolithicflat" => (Variant::Fixed, Layout::Default),
            "twogbmaxextentsparse" => (Variant::Dynamic, Layout::Split2G),
            "twogbmaxextentflat" => (Variant::Fixed, Layout::Split2G),
            "streamoptimized" => (Variant::Dynamic, Layout::StreamOptimized),
            "vmfs" => (Variant::Fixed, Layout::Esx),
            "fulldevice" | "partitioneddevice" => (Variant::Fixed, Layout::RawDisk),
            other => {
                return Err(Error::unsupported(
                    path,
                    format!("VMDK images of type '{other}' are not supported"),
                ));
            }
        };
        match self.parent_cid() {
            Some(_) => Ok((Variant::Differencing, layout)),
            None => Ok((variant, layout)),
        }
    }

    /// The extents in the order in which they make the disk.
    pub(super) fn extents(&self, path: &Path) -> Result<Vec<ExtentLine>> {
        let mut all = Vec::new();
        let mut total = 0u64;
        for line in &self.lines {
            let Some(extent) = extent(line) else { continue };
            let extent = extent.map_err(|what| {
                Error::corrupt(path, "VMDK", 0, format!("the extent '{line}' {what}"))
            })?;
            total = total.saturating_add(extent.sectors);
            all.push(extent);
        }
        if all.is_empty() || total > 1 << 41 {
            return Err(Error::corrupt(
                path,
                "VMDK",
                0,
                format!("{} extents of {total} sectors make no disk", all.len()),
            ));
        }
        Ok(all)
    }

    /// Puts an extent behind the others.
    pub(super) fn add_extent(&mut self, line: String) {
        let title = |l: &String| l.trim_end() == "# Extent description";
        let at = match self.lines.iter().rposition(|l| extent(l).is_some()) {
            Some(last) => last + 1,
            None => self.lines.iter().position(title).map_or(1, |i| i + 1),
        };
        self.lines.insert(at, line);
    }

    /// Gives the last extent another size.
    pub(super) fn resize_last_extent(&mut self, sectors: u64) {
        let last = self.lines.iter_mut().rfind(|l| extent(l).is_some());
        if let Some(line) = last {
            let mut words: Vec<&str> = line.splitn(3, ' ').collect();
            let size = sectors.to_string();
            if let Some(word) = words.get_mut(1) {
                *word = &size;
            }
            *line = words.join(" ");
        }
    }
}

/// Undoes what comments are written with: `\\n` for a line break, `\\\\` for a backslash.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(other) => other,
                None => '\\',
            },
            c => c,
        });
    }
    plain
}

const PHYSICAL: [&str; 3] = [
    "ddb.geometry.cylinders",
    "ddb.geometry.heads",
    "ddb.geometry.sectors",
];

const LOGICAL: [&str; 3] = [
    "ddb.geometry.biosCylinders",
    "ddb.geometry.biosHeads",
    "ddb.geometry.biosSectors",
];

/// `RW 4192256 SPARSE "disk-s001.vmdk"`; `None` for lines of another kind.
fn extent(line: &str) -> Option<std::result::Result<ExtentLine, String>> {
    let mut words = line.splitn(4, ' ');
    let writable = match words.next()? {
        "RW" => true,
        "RDONLY" => false,
        "NOACCESS" => return Some(Err("cannot be accessed, by its own words".into())),
        _ => return None,
    };
    let parsed = |mut words: std::str::SplitN<'_, char>| {
        let sectors: u64 = words.next()?.parse().ok()?;
        let kind = words.next()?;
        if kind == "ZERO" {
            return Some(Ok((sectors, ExtentKind::Zero, String::new())));
        }
        let rest = words.next()?.strip_prefix('"')?;
        let (name, offset) = rest.split_once('"')?;
        let offset = match offset.trim() {
            "" => 0,
            digits => digits.split(' ').next()?.parse().ok()?,
        };
        let kind = match kind {
            "SPARSE" => ExtentKind::Sparse,
            "FLAT" | "VMFS" => ExtentKind::Flat(offset),
            other => {
                return Some(Err(format!(
                    "is of the kind {other}, which is not supported"
                )));
            }
        };
        Some(Ok((sectors, kind, name.to_owned())))
    };
    Some(match parsed(words) {
        None => Err("is not understood".into()),
        Some(Err(what)) => Err(what),
        Some(Ok((0, _, _))) => Err("has no sectors".into()),
        Some(Ok((sectors, _, _))) if sectors > 1 << 41 => Err("is too large".into()),
        Some(Ok((sectors, kind, name))) => Ok(ExtentLine {
            writable,
            sectors,
            kind,
            name,
        }),
    })
}

/// The geometry that VirtualBox gives a disk of this size in bytes.
pub(super) fn geometry_for(size: u64) -> Geometry {
    Geometry {
        cylinders: (size / SECTOR / (16 * 63)).clamp(1, 16383) as u32,
        heads: 16,
        sectors: 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_keeps_what_it_does_not_know() {
        let text = "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=deadbeef\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n# Extent description\nRW 4192256 FLAT \"a b-f001.vmdk\" 0\nRW 5 ZERO\n\n#DDB\nddb.toolsVersion = \"2147483647\" \n";
        let mut it = Descriptor::parse(Path::new("x"), text.as_bytes(), 0).unwrap();
        assert_eq!(it.encode(), text.as_bytes());
        let extents = it.extents(Path::new("x")).unwrap();
        assert_eq!(extents[0].name, "a b-f001.vmdk");
        assert_eq!(extents[1].kind, ExtentKind::Zero);
        let mut meta = it.meta();
        assert_eq!((meta.cid, meta.uuid), (Some(0xDEAD_BEEF), None));
        meta.uuid = Some(Uuid::from_u128(5));
        meta.comment = "two\nlines and a \\ and a \\n too".into();
        it.set_meta(&meta);
        let again = Descriptor::parse(Path::new("x"), &it.encode(), 0).unwrap();
        assert_eq!(again.meta().uuid, meta.uuid);
        assert_eq!(again.meta().comment, meta.comment);
        let text = String::from_utf8(again.encode()).unwrap();
        assert!(text.contains("ddb.toolsVersion = \"2147483647\" \n"));
        assert!(text.contains("encoding=\"UTF-8\"\n"));
    }

    #[test]
    fn a_descriptor_in_another_encoding_keeps_its_bytes() {
        let text = b"# Disk DescriptorFile\nencoding=\"windows-1252\"\nCID=00000001\ncreateType=\"vmfs\"\nRW 8 VMFS \"gr\xFCn-flat.vmdk\"\n";
        let mut it = Descriptor::parse(Path::new("x"), text, 0).unwrap();
        assert_eq!(it.encode(), text);
        assert_eq!(
            it.extents(Path::new("x")).unwrap()[0].name,
            "gr\u{FC}n-flat.vmdk"
        );
        it.add_extent("RW 16 VMFS \"b\" 0".into());
        it.resize_last_extent(24);
        let encoded = it.encode();
        assert!(encoded.starts_with(text));
        assert!(encoded.ends_with(b"RW 24 VMFS \"b\" 0\n"));
    }
}
