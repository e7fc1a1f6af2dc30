//! CFGM: the configuration tree of one VM. Main builds it, devices read their own node.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// A value of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number; booleans are 0 and 1.
    Int(u64),
    /// Text.
    Str(String),
    /// Raw bytes.
    Bytes(Vec<u8>),
}

impl From<u64> for Value {
    fn from(v: u64) -> Self {
        Self::Int(v)
    }
}
impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Self::Int(v.into())
    }
}
impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Self::Str(v.to_owned())
    }
}
impl From<String> for Value {
    fn from(v: String) -> Self {
        Self::Str(v)
    }
}
impl From<Vec<u8>> for Value {
    fn from(v: Vec<u8>) -> Self {
        Self::Bytes(v)
    }
}

/// A node: named values and named children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    values: BTreeMap<String, Value>,
    children: BTreeMap<String, Node>,
}

impl Node {
    /// Sets a value of this node.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.values.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a value by path; `a/b/Key` makes the nodes `a` and `a/b` where missing. This is how
    /// `VBoxInternal/...` extra data lands in the tree.
    pub fn set_path(&mut self, path: &str, value: impl Into<Value>) {
        match path.split_once('/') {
            Some((child, rest)) => self.child_mut(child).set_path(rest, value),
            None => {
                self.set(path, value);
            }
        }
    }

    /// The child, made where missing.
    pub fn child_mut(&mut self, name: &str) -> &mut Node {
        self.children.entry(name.to_owned()).or_default()
    }

    /// The child by path (`a/b`), if there.
    pub fn child(&self, path: &str) -> Option<&Node> {
        path.split('/')
            .try_fold(self, |node, name| node.children.get(name))
    }

    /// All children in name order.
    pub fn children(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.children.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// All values in name order.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The raw value, if there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A number, or `default` when absent.
    ///
    /// # Errors
    /// [`Error::Config`] when the value is there but no number (text in decimal or 0x form counts).
    pub fn int(&self, key: &str, default: u64) -> Result<u64> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Int(v)) => Ok(*v),
            Some(Value::Str(s)) => parse_int(s).ok_or_else(|| bad(key, "not a number")),
            Some(Value::Bytes(_)) => Err(bad(key, "bytes where a number is expected")),
        }
    }

    /// A number in `range`, or `default` when absent.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no number or out of range.
    pub fn int_in(
        &self,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64> {
        let v = self.int(key, default)?;
        if range.contains(&v) {
            Ok(v)
        } else {
            Err(bad(
                key,
                &format!("{v} is not in {} to {}", range.start(), range.end()),
            ))
        }
    }

    /// A truth value, or `default` when absent.
    ///
    /// # Errors
    /// [`Error::Config`] when the value is no number.
    pub fn bool(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.int(key, default.into())? != 0)
    }

    /// Text, or `default` when absent. Numbers are given in decimal.
    pub fn str(&self, key: &str, default: &str) -> String {
        match self.get(key) {
            None => default.to_owned(),
            Some(Value::Str(s)) => s.clone(),
            Some(Value::Int(v)) => v.to_string(),
            Some(Value::Bytes(b)) => String::from_utf8_lossy(b).into_owned(),
        }
    }

    /// Bytes, if the value is there; text counts as its UTF-8.
    pub fn bytes(&self, key: &str) -> Option<Vec<u8>> {
        match self.get(key)? {
            Value::Bytes(b) => Some(b.clone()),
            Value::Str(s) => Some(s.clone().into_bytes()),
            Value::Int(_) => None,
        }
    }

    /// The whole tree as text, for `debugvm info cfgm`.
    pub fn dump(&self, out: &mut dyn std::fmt::Write, indent: usize) -> std::fmt::Result {
        for (k, v) in &self.values {
            writeln!(out, "{:indent$}{k} = {v:?}", "")?;
        }
        for (k, n) in &self.children {
            writeln!(out, "{:indent$}[{k}]", "")?;
            n.dump(out, indent + 2)?;
        }
        Ok(())
    }
}

fn parse_int(s: &str) -> Option<u64> {
    let s = s.trim();
    match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => s.parse().ok(),
    }
}

fn bad(key: &str, reason: &str) -> Error {
    Error::Config {
        key: key.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_make_nodes_and_types_are_checked() {
        let mut root = Node::default();
        root.set_path("Devices/vga/0/Config/VRamSize", 16u64);
        root.set_path("Devices/vga/0/Config/Name", "0x10");
        let node = root.child("Devices/vga/0/Config").unwrap();
        assert_eq!(node.int("VRamSize", 0).unwrap(), 16);
        assert_eq!(node.int("Name", 0).unwrap(), 16);
        assert!(node.int_in("VRamSize", 0, 0..=8).is_err());
        assert_eq!(node.int("Absent", 3).unwrap(), 3);
    }
}
