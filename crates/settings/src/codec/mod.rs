//! Between the model and the XML tree. Each setting is described once, in one function per element
//! that serves for reading and for writing; what belongs to newer format versions says `since`.
//!
//! Other differences between versions are the named questions in [`crate::version`].

mod global;
mod hardware;
mod machine;
mod network;
mod storage;

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::dom::{Attribute, Element, Fault, Node};
use crate::model::{Global, Machine};
use crate::value::Value;
use crate::version::Version;

/// Result of describing an element; only reading fails.
pub(crate) type Done = Result<(), Fault>;

/// What a settings file can be about.
pub(crate) trait Content: Clone + Default + PartialEq {
    /// Name of its element below the root.
    const ELEMENT: &'static str;
    /// The version a new file starts at.
    const NEW: Version;
    /// Describes its element.
    fn describe(&mut self, x: &mut Xml<'_>) -> Done;
}

impl Content for Machine {
    const ELEMENT: &'static str = "Machine";
    const NEW: Version = Version::NEW_MACHINE;

    fn describe(&mut self, x: &mut Xml<'_>) -> Done {
        machine::machine(x, self)
    }
}

impl Content for Global {
    const ELEMENT: &'static str = "Global";
    const NEW: Version = Version::NEW_GLOBAL;

    fn describe(&mut self, x: &mut Xml<'_>) -> Done {
        global::global(x, self)
    }
}

/// Reads the content's element as format `version` has it.
pub(crate) fn read<T: Content>(element: &Element, version: Version) -> Result<T, Fault> {
    let mut content = T::default();
    let needs = Cell::new(Version::OLDEST);
    content.describe(&mut Xml::new(Side::Read(Some(element)), version, &needs))?;
    Ok(content)
}

/// Writes the content's element as format `version` has it; also the oldest version that can
/// express it.
pub(crate) fn write<T: Content>(content: &T, version: Version) -> (Element, Version) {
    let mut element = Element::new(T::ELEMENT);
    let needs = Cell::new(Version::OLDEST_WRITTEN);
    let side = Side::Write(&mut element);
    let written = content
        .clone()
        .describe(&mut Xml::new(side, version, &needs));
    debug_assert!(written.is_ok(), "writing does not fail: {written:?}");
    (element, needs.get())
}

/// Which way data flows.
enum Side<'a> {
    /// From an element, or from none: then everything gets its default.
    Read(Option<&'a Element>),
    Write(&'a mut Element),
}

/// One element being described.
pub(crate) struct Xml<'a> {
    side: Side<'a>,
    version: Version,
    needs: &'a Cell<Version>,
    /// Everything in this element is at least this new.
    since: Version,
    /// For the next item only.
    next_since: Option<Version>,
}

impl<'a> Xml<'a> {
    fn new(side: Side<'a>, version: Version, needs: &'a Cell<Version>) -> Self {
        Self {
            side,
            version,
            needs,
            since: Version::OLDEST,
            next_since: None,
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn reading(&self) -> bool {
        matches!(self.side, Side::Read(_))
    }

    /// The next item exists from that version on: set, it raises a file to it.
    pub fn since(&mut self, version: Version) -> &mut Self {
        self.next_since = Some(version);
        self
    }

    /// Notes that what is being written needs that version.
    pub fn need(&self, version: Version) {
        self.needs.set(self.needs.get().max(version));
    }

    /// Notes that if `condition`, what is being written needs that version.
    pub fn need_if(&self, condition: bool, version: Version) {
        if condition && !self.reading() {
            self.need(version);
        }
    }

    fn take_since(&mut self) -> Version {
        self.next_since.take().unwrap_or(self.since).max(self.since)
    }

    fn source(&self, name: &str) -> Option<&'a Attribute> {
        match self.side {
            Side::Read(Some(element)) => element.attribute(name),
            _ => None,
        }
    }

    /// A fault at an attribute, or at the element.
    pub fn fault(&self, name: &str, reason: &str) -> Fault {
        let Side::Read(Some(element)) = self.side else {
            return Fault::new(0, reason);
        };
        match element.attribute(name) {
            Some(a) => {
                let shown: String = a.value.chars().take(80).collect();
                let message = format!("{}/@{name}: '{shown}' {reason}", element.name);
                Fault::new(a.offset, message)
            }
            None => Fault::new(element.offset, format!("{}: {reason}", element.name)),
        }
    }

    fn read_value<T: Value>(&self, name: &str) -> Result<Option<T>, Fault> {
        match self.source(name) {
            None => Ok(None),
            Some(a) => T::parse(&a.value)
                .map(Some)
                .map_err(|why| self.fault(name, &why)),
        }
    }

    fn emit(&mut self, name: &str, value: String) {
        if let Side::Write(element) = &mut self.side {
            element.set(name, value);
        }
    }

    /// An attribute, left out at its default where the version does that. Empty text is always
    /// left out.
    pub fn attr<T: Value + PartialEq>(&mut self, name: &str, value: &mut T, default: T) -> Done {
        let since = self.take_since();
        if self.reading() {
            *value = self.read_value(name)?.unwrap_or(default);
        } else if *value != default {
            self.need(since);
            self.emit(name, value.text());
        } else if !self.version.omits_defaults() && self.version >= since {
            let text = value.text();
            if !text.is_empty() {
                self.emit(name, text);
            }
        }
        Ok(())
    }

    /// An attribute that no version writes at its default.
    pub fn rare<T: Value + PartialEq>(&mut self, name: &str, value: &mut T, default: T) -> Done {
        let since = self.take_since();
        if self.reading() {
            *value = self.read_value(name)?.unwrap_or(default);
        } else if *value != default {
            self.need(since);
            self.emit(name, value.text());
        }
        Ok(())
    }

    /// An attribute that every version writes, from the one it exists in.
    pub fn explicit<T: Value + PartialEq>(
        &mut self,
        name: &str,
        value: &mut T,
        default: T,
    ) -> Done {
        let since = self.take_since();
        if self.reading() {
            *value = self.read_value(name)?.unwrap_or(default);
        } else if *value != default || self.version >= since {
            self.need_if(*value != default, since);
            self.emit(name, value.text());
        }
        Ok(())
    }

    /// An attribute that must be there.
    pub fn required<T: Value>(&mut self, name: &str, value: &mut T) -> Done {
        if self.reading() {
            let missing = || self.fault(name, &format!("required attribute '{name}' is missing"));
            *value = self.read_value(name)?.ok_or_else(missing)?;
        } else {
            self.emit(name, value.text());
        }
        Ok(())
    }

    /// An attribute that is there or not; empty is not there.
    pub fn optional<T: Value>(&mut self, name: &str, value: &mut Option<T>) -> Done {
        let since = self.take_since();
        if self.reading() {
            *value = match self.source(name) {
                Some(a) if !a.value.is_empty() => self.read_value(name)?,
                _ => None,
            };
        } else if let Some(value) = value {
            let text = value.text();
            self.need(since);
            self.emit(name, text);
        }
        Ok(())
    }

    /// An attribute that every version writes, in hexadecimal.
    pub fn hex(&mut self, name: &str, value: &mut u32, default: u32) -> Done {
        if self.reading() {
            *value = self.read_value(name)?.unwrap_or(default);
        } else {
            self.emit(name, format!("{value:#x}"));
        }
        Ok(())
    }

    /// A switch that every version writes, as 0 or 1.
    pub fn bit(&mut self, name: &str, value: &mut bool) -> Done {
        if self.reading() {
            *value = self.read_value(name)?.unwrap_or(*value);
        } else {
            self.emit(name, u32::from(*value).to_string());
        }
        Ok(())
    }

    /// Refuses a number outside of what the setting can be.
    pub fn range(&self, name: &str, value: u32, range: std::ops::RangeInclusive<u32>) -> Done {
        if self.reading() && !range.contains(&value) {
            let why = format!("must be from {} to {}", range.start(), range.end());
            return Err(self.fault(name, &why));
        }
        Ok(())
    }

    /// A child that is a switch: `<PAE enabled="true"/>`.
    pub fn flag(&mut self, name: &str, value: &mut bool, default: bool) -> Done {
        self.child(name, |x| x.attr("enabled", value, default))
    }

    /// A child left out when there is nothing in it.
    pub fn child(&mut self, name: &str, f: impl FnOnce(&mut Xml<'_>) -> Done) -> Done {
        self.inside(name, false, f)
    }

    /// A child that versions before 1.16 write even with nothing in it.
    pub fn container(&mut self, name: &str, f: impl FnOnce(&mut Xml<'_>) -> Done) -> Done {
        let since = self.next_since.unwrap_or(self.since);
        let keep = !self.version.omits_defaults() && self.version >= since;
        self.inside(name, keep, f)
    }

    /// A child that is always written.
    pub fn always(&mut self, name: &str, f: impl FnOnce(&mut Xml<'_>) -> Done) -> Done {
        self.inside(name, true, f)
    }

    fn inside(
        &mut self,
        name: &str,
        keep_empty: bool,
        f: impl FnOnce(&mut Xml<'_>) -> Done,
    ) -> Done {
        let (since, version, needs) = (self.take_since(), self.version, self.needs);
        let inner = |side| Xml {
            side,
            version,
            needs,
            since,
            next_since: None,
        };
        match &mut self.side {
            Side::Read(element) => f(&mut inner(Side::Read(element.and_then(|e| e.child(name))))),
            Side::Write(parent) => {
                let mut element = Element::new(name);
                f(&mut inner(Side::Write(&mut element)))?;
                if keep_empty || !element.is_empty() {
                    parent.children.push(Node::Element(element));
                }
                Ok(())
            }
        }
    }

    /// Whether a child is there, when reading.
    pub fn has(&self, name: &str) -> bool {
        matches!(self.side, Side::Read(Some(e)) if e.child(name).is_some())
    }

    /// Children of one name, each an item.
    pub fn list<T: Default>(
        &mut self,
        name: &str,
        items: &mut Vec<T>,
        f: impl Fn(&mut Xml<'_>, &mut T) -> Done,
    ) -> Done {
        let (since, version, needs) = (self.take_since(), self.version, self.needs);
        match &mut self.side {
            Side::Read(element) => {
                items.clear();
                let found = element
                    .iter()
                    .flat_map(|e| e.elements())
                    .filter(|e| e.is(name));
                for child in found {
                    let mut item = T::default();
                    let side = Side::Read(Some(child));
                    f(
                        &mut Xml {
                            side,
                            version,
                            needs,
                            since,
                            next_since: None,
                        },
                        &mut item,
                    )?;
                    items.push(item);
                }
            }
            Side::Write(parent) => {
                for item in items {
                    needs.set(needs.get().max(since));
                    let mut element = Element::new(name);
                    let side = Side::Write(&mut element);
                    f(
                        &mut Xml {
                            side,
                            version,
                            needs,
                            since,
                            next_since: None,
                        },
                        item,
                    )?;
                    parent.children.push(Node::Element(element));
                }
            }
        }
        Ok(())
    }

    /// `<NAME name="key" value="value"/>` children, sorted.
    pub fn map(&mut self, name: &str, map: &mut BTreeMap<String, String>) -> Done {
        let mut pairs: Vec<(String, String)> = std::mem::take(map).into_iter().collect();
        self.list(name, &mut pairs, |x, (key, value)| {
            x.required("name", key)?;
            x.explicit("value", value, String::new())
        })?;
        *map = pairs.into_iter().collect();
        Ok(())
    }

    /// A child that holds only text, left out if empty.
    pub fn text(&mut self, name: &str, text: &mut String) -> Done {
        match &mut self.side {
            Side::Read(element) => {
                *text = element
                    .and_then(|e| e.child(name))
                    .map(Element::text)
                    .unwrap_or_default();
            }
            Side::Write(parent) if !text.is_empty() => {
                let mut element = Element::new(name);
                element.children.push(Node::Text(text.clone()));
                parent.children.push(Node::Element(element));
            }
            Side::Write(_) => {}
        }
        Ok(())
    }
}
