//! `vbox:Machine`: a machine's settings inside a descriptor.
//!
//! What a settings file has below its root, with the file's version as an attribute and without
//! media. This module moves the text between the two places and leaves its meaning to whoever
//! reads settings.

use crate::error::{Error, Result};
use crate::read::parse_xml;
use crate::write::escape_attribute;

/// The namespace that the prefix `vbox` stands for.
pub(crate) const VBOX_NAMESPACE: &str = "http://www.virtualbox.org/ovf/machine";
/// The namespace of settings files.
const SETTINGS_NAMESPACE: &str = "http://www.virtualbox.org/";
/// Of descriptors that do not say (VirtualBox 5.0 and its like).
const DEFAULT_VERSION: &str = "1.15-linux";

/// Settings of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineExtension {
    /// The attributes, in order, without those of other namespaces.
    pub attributes: Vec<(String, String)>,
    /// What is inside the element, as text.
    pub inner: String,
    /// Prefixes that the text uses, and what they stand for.
    pub namespaces: Vec<(String, String)>,
}

impl MachineExtension {
    /// Takes the machine out of a settings file's text.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_settings(text: &str) -> Result<Self> {
        let document = parse_xml(text)?;
        let root = document.root_element();
        let machine = root
            .children()
            .find(|n| n.is_element() && n.tag_name().name() == "Machine")
            .ok_or_else(|| Error::descriptor("these settings have no machine"))?;
        let mut extension = Self::from_node(machine, text);
        let version = root.attribute("version").unwrap_or(DEFAULT_VERSION);
        extension
            .attributes
            .insert(0, ("version".to_owned(), version.to_owned()));
        Ok(extension)
    }

    pub(crate) fn from_node(node: roxmltree::Node<'_, '_>, text: &str) -> Self {
        let attributes = node.attributes().filter(|a| a.namespace().is_none());
        let pair = |a: roxmltree::Attribute<'_, '_>| (a.name().to_owned(), a.value().to_owned());
        let foreign = |n: &roxmltree::Node<'_, '_>| {
            n.is_element()
                && (n.tag_name().name() == "Info" || n.tag_name().name() == "MediaRegistry")
        };
        let inner: String = node
            .children()
            .filter(|n| !foreign(n))
            .filter_map(|n| text.get(n.range()))
            .collect();
        let namespaces = node.namespaces().filter_map(|n| {
            let prefix = n.name().filter(|p| *p != "xml")?;
            let used = inner.contains(&format!("{prefix}:"));
            used.then(|| (prefix.to_owned(), n.uri().to_owned()))
        });
        Self {
            attributes: attributes.map(pair).collect(),
            namespaces: namespaces.collect(),
            inner: inner.trim().to_owned(),
        }
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(n, _)| n == name);
        found.map(|(_, v)| v.as_str())
    }

    /// The text of a settings file with this machine.
    pub fn to_settings(&self) -> String {
        let version = self.attribute("version").unwrap_or(DEFAULT_VERSION);
        let mut out = String::from("<?xml version=\"1.0\"?>\n<VirtualBox");
        let mut put = |name: &str, value: &str| {
            out.push_str(&format!(" {name}=\"{}\"", escape_attribute(value)));
        };
        put("xmlns", SETTINGS_NAMESPACE);
        for (prefix, uri) in &self.namespaces {
            put(&format!("xmlns:{prefix}"), uri);
        }
        put("version", version);
        out.push_str(">\n  <Machine");
        for (name, value) in self.attributes.iter().filter(|(n, _)| n != "version") {
            out.push_str(&format!(" {name}=\"{}\"", escape_attribute(value)));
        }
        out.push_str(&format!(">\n{}\n  </Machine>\n</VirtualBox>\n", self.inner));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "<?xml version=\"1.0\"?>\n\
        <VirtualBox xmlns=\"http://www.virtualbox.org/\" version=\"1.19-linux\">\n\
        <Machine uuid=\"{8b7c6a55-1111-2222-3333-444455556666}\" name=\"a &amp; b\">\n\
        <MediaRegistry><HardDisks/></MediaRegistry>\n\
        <Description>x &lt; y</Description>\n\
        <Hardware><Memory RAMSize=\"64\"/></Hardware>\n\
        </Machine>\n</VirtualBox>\n";

    #[test]
    fn settings_there_and_back() {
        let extension = MachineExtension::from_settings(SETTINGS).expect("settings");
        assert_eq!(extension.attribute("version"), Some("1.19-linux"));
        assert_eq!(extension.attribute("name"), Some("a & b"));
        assert!(!extension.inner.contains("MediaRegistry"));
        let text = extension.to_settings();
        let again = MachineExtension::from_settings(&text).expect("settings");
        assert_eq!(again, extension);
        assert!(text.contains("<Description>x &lt; y</Description>"));
    }

    #[test]
    fn settings_without_a_machine_are_refused() {
        let global = "<VirtualBox xmlns=\"http://www.virtualbox.org/\"><Global/></VirtualBox>";
        assert!(MachineExtension::from_settings(global).is_err());
        assert!(MachineExtension::from_settings("nonsense").is_err());
    }
}
