//! Bringing changed settings into the tree of the file they came from.
//!
//! A file can hold more than the model: newer or foreign elements, comments, settings spelled out
//! that are left out by default. So a file is not written anew. The model as it was read and the
//! model as it is now are both turned into trees, `old` and `new`; what differs between those two is
//! done to the tree of the file, `file`, and everything else in it stays as and where it is.

use std::collections::{HashMap, HashSet};

use crate::dom::{Element, Node};

/// What an element is told apart from its siblings of the same name by.
const IDENTITY: &[(&str, &[&str])] = &[
    ("ExtraDataItem", &["name"]),
    ("GuestProperty", &["name"]),
    ("Property", &["name"]),
    ("SharedFolder", &["name"]),
    ("StorageController", &["name"]),
    ("AttachedDevice", &["port", "device"]),
    ("Adapter", &["slot"]),
    ("Port", &["slot"]),
    ("Order", &["position"]),
    ("Forwarding", &["name"]),
    ("DeviceFilter", &["name"]),
    ("Controller", &["name"]),
    ("BandwidthGroup", &["name"]),
    ("Group", &["name"]),
    ("Device", &["guest"]),
    ("CpuIdLeaf", &["id", "subleaf"]),
    ("Cpu", &["id"]),
    ("HardDisk", &["uuid"]),
    ("Image", &["uuid"]),
    ("Snapshot", &["uuid"]),
    ("MachineEntry", &["uuid"]),
    ("DHCPServer", &["networkName"]),
    ("NATNetwork", &["networkName", "name"]),
    ("Option", &["name"]),
    ("Loopback4", &["address"]),
    ("HostOnlyNetwork", &["name"]),
    ("CloudNetwork", &["name"]),
    ("USBDeviceSource", &["id"]),
];

/// Elements whose mere presence is a setting: gone from the model, nothing of them may stay.
const PRESENCE: &[&str] = &[
    "NAT",
    "BridgedInterface",
    "InternalNetwork",
    "HostOnlyInterface",
    "GenericInterface",
    "HostOnlyNetwork",
    "CloudNetwork",
    "HostDrive",
    "CpuTree",
    "USBController",
];

/// Name, identity, and which one of those that have both the same.
type Key = (String, String, usize);

fn identity(element: &Element) -> Option<String> {
    let (_, names) = IDENTITY.iter().find(|(name, _)| *name == element.name)?;
    let values: Vec<&str> = names
        .iter()
        .map(|name| element.attribute(name).map_or("", |a| a.value.as_str()))
        .collect();
    Some(values.join("\n"))
}

/// The key of each child; comments have none. All text of an element is one thing.
fn keys(children: &[Node]) -> Vec<Option<Key>> {
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    let mut keyed = |name: &str, id: String| {
        let count = seen.entry((name.to_owned(), id.clone())).or_default();
        *count += 1;
        Some((name.to_owned(), id, *count))
    };
    children
        .iter()
        .map(|node| match node {
            Node::Element(e) => keyed(&e.name, identity(e).unwrap_or_default()),
            Node::Text(_) => keyed("#text", String::new()),
            Node::Raw(_) => None,
        })
        .collect()
}

/// `file` with what changed from `old` to `new`.
///
/// With `complete`, everything in `new` is written out: for a raised format version, in which
/// something left out can mean something else.
pub(crate) fn merge(file: &Element, old: &Element, new: &Element, complete: bool) -> Element {
    if old == new && !complete {
        return file.clone();
    }
    let mut out = Element {
        name: new.name.clone(),
        ..Element::default()
    };
    merge_attributes(&mut out, file, old, new, complete);
    out.children = merge_children(&file.children, &old.children, &new.children, complete);
    out
}

fn merge_attributes(
    out: &mut Element,
    file: &Element,
    old: &Element,
    new: &Element,
    complete: bool,
) {
    for attribute in &file.attributes {
        let name = attribute.name.as_str();
        let (was, is) = (old.attribute(name), new.attribute(name));
        match is {
            // Unchanged: the file's own spelling stays.
            Some(_) if was == is => out.attributes.push(attribute.clone()),
            Some(is) => out.attributes.push(is.clone()),
            None if was.is_some() => {}
            None => out.attributes.push(attribute.clone()),
        }
    }
    for (n, attribute) in new.attributes.iter().enumerate() {
        let unchanged = old.attribute(&attribute.name) == Some(attribute);
        if out.attribute(&attribute.name).is_some() || (unchanged && !complete) {
            continue;
        }
        let before = new.attributes[..n].iter().rev();
        let place = before
            .filter_map(|b| out.attributes.iter().position(|a| a.name == b.name))
            .next()
            .map_or(if n == 0 { 0 } else { out.attributes.len() }, |at| at + 1);
        out.attributes.insert(place, attribute.clone());
    }
}

fn merge_children(file: &[Node], old: &[Node], new: &[Node], complete: bool) -> Vec<Node> {
    let index = |nodes: &[Node]| -> HashMap<Key, usize> {
        keys(nodes)
            .into_iter()
            .enumerate()
            .filter_map(|(n, k)| Some((k?, n)))
            .collect()
    };
    let (was, is) = (index(old), index(new));
    let empty = Element::default();
    let element_at = |nodes: &'_ [Node], at: Option<&usize>| -> Option<Element> {
        match nodes.get(*at?)? {
            Node::Element(e) => Some(e.clone()),
            _ => None,
        }
    };

    let mut out: Vec<(Option<Key>, Node)> = Vec::new();
    for (key, node) in keys(file).into_iter().zip(file) {
        let Some(k) = &key else {
            out.push((None, node.clone()));
            continue;
        };
        let before = was.get(k).and_then(|n| old.get(*n));
        match (node, is.get(k).and_then(|n| new.get(*n))) {
            (Node::Element(theirs), Some(Node::Element(ours))) => {
                let before = element_at(old, was.get(k)).unwrap_or_else(|| empty.clone());
                out.push((key, Node::Element(merge(theirs, &before, ours, complete))));
            }
            (_, Some(ours)) if before == Some(ours) => out.push((key, node.clone())),
            (_, Some(ours)) => out.push((key, ours.clone())),
            (Node::Element(theirs), None) => match before {
                Some(Node::Element(before)) => {
                    // A setting went back to its default: what else is on the element stays.
                    let whole = identity(theirs).is_some() || PRESENCE.contains(&&*theirs.name);
                    let bare = Element::new(&theirs.name);
                    let rest = merge(theirs, before, &bare, false);
                    if !whole && !rest.is_empty() && !theirs.is_empty() {
                        out.push((key, Node::Element(rest)));
                    }
                }
                _ => out.push((key, node.clone())),
            },
            (_, None) if before.is_some() => {}
            (_, None) => out.push((key, node.clone())),
        }
    }

    let order = keys(new);
    insert_new(&mut out, &order, old, new, &was, complete);
    if reordered(&keys(old), &order) {
        reorder(&mut out, &order);
    }
    out.into_iter().map(|(_, node)| node).collect()
}

/// Adds what is new, each behind the sibling it follows in `new`.
fn insert_new(
    out: &mut Vec<(Option<Key>, Node)>,
    order: &[Option<Key>],
    old: &[Node],
    new: &[Node],
    was: &HashMap<Key, usize>,
    complete: bool,
) {
    let mut present: HashSet<Key> = out.iter().filter_map(|(k, _)| k.clone()).collect();
    let mut predecessor: Option<&Key> = None;
    for (key, node) in order.iter().zip(new) {
        let Some(k) = key else { continue };
        let unchanged = was.get(k).and_then(|n| old.get(*n)) == Some(node);
        if !present.contains(k) {
            if unchanged && !complete {
                continue;
            }
            let behind = predecessor
                .and_then(|p| out.iter().position(|(have, _)| have.as_ref() == Some(p)))
                .map(|at| at + 1);
            // The first one goes in front of what it precedes, else to the end.
            let ahead = || {
                let later: HashSet<&Key> = order
                    .iter()
                    .flatten()
                    .skip_while(|other| *other != k)
                    .collect();
                out.iter()
                    .position(|(have, _)| have.as_ref().is_some_and(|h| later.contains(h)))
            };
            let place = behind.or_else(ahead).unwrap_or(out.len());
            out.insert(place, (key.clone(), node.clone()));
            present.insert(k.clone());
        }
        predecessor = Some(k);
    }
}

/// Whether what is in both trees is in another order.
fn reordered(old: &[Option<Key>], new: &[Option<Key>]) -> bool {
    let in_old: HashSet<&Key> = old.iter().flatten().collect();
    let in_new: HashSet<&Key> = new.iter().flatten().collect();
    let a = old.iter().flatten().filter(|k| in_new.contains(k));
    let b = new.iter().flatten().filter(|k| in_old.contains(k));
    !a.eq(b)
}

/// Puts what the model knows into the model's order; everything else keeps its place.
fn reorder(out: &mut [(Option<Key>, Node)], order: &[Option<Key>]) {
    let rank: HashMap<&Key, usize> = order.iter().flatten().zip(0..).collect();
    let rank_of = |key: &Option<Key>| key.as_ref().and_then(|k| rank.get(k).copied());
    let slots: Vec<usize> = (0..out.len())
        .filter(|n| rank_of(&out[*n].0).is_some())
        .collect();
    let mut known: Vec<(Option<Key>, Node)> = slots.iter().map(|n| out[*n].clone()).collect();
    known.sort_by_key(|(key, _)| rank_of(key));
    for (slot, entry) in slots.into_iter().zip(known) {
        out[slot] = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dom::{Document, parse, write};

    fn run(file: &str, old: &str, new: &str) -> String {
        let root = |text: &str| parse(text).unwrap().root;
        let root = merge(&root(file), &root(old), &root(new), false);
        let text = write(&Document {
            prolog: vec![],
            root,
            epilog: vec![],
        });
        text.lines().skip(1).map(str::trim).collect()
    }

    #[test]
    fn only_differences_are_applied() {
        assert_eq!(
            run("<a z='1' b='1'><y/></a>", "<a b='1'/>", "<a b='1'/>"),
            r#"<a z="1" b="1"><y/></a>"#
        );
        assert_eq!(
            run(
                "<a z='1' b='1'><y/><c d='0'/></a>",
                "<a b='1'/>",
                "<a b='2'><c d='3'/><e/></a>"
            ),
            r#"<a z="1" b="2"><y/><c d="3"/><e/></a>"#
        );
        assert_eq!(
            run(
                "<a><c d='1' z='1'/><e f='1'/></a>",
                "<a><c d='1'/><e f='1'/></a>",
                "<a/>"
            ),
            r#"<a><c z="1"/></a>"#
        );
    }

    #[test]
    fn list_items_go_whole_and_keep_their_places() {
        let file = "<a><Group name='1' z='1'/><!--x--><Group name='2' z='2'/></a>";
        let old = "<a><Group name='1'/><Group name='2'/></a>";
        assert_eq!(
            run(file, old, "<a><Group name='2'/></a>"),
            r#"<a><!--x--><Group name="2" z="2"/></a>"#
        );
        assert_eq!(
            run(file, old, "<a><Group name='2'/><Group name='1'/></a>"),
            r#"<a><Group name="2" z="2"/><!--x--><Group name="1" z="1"/></a>"#
        );
        assert_eq!(
            run(
                file,
                old,
                "<a><Group name='0'/><Group name='1'/><Group name='3'/><Group name='2'/></a>"
            ),
            r#"<a><Group name="0"/><Group name="1" z="1"/><Group name="3"/><!--x--><Group name="2" z="2"/></a>"#
        );
    }

    #[test]
    fn text_is_replaced() {
        assert_eq!(run("<a>b</a>", "<a>b</a>", "<a>c</a>"), "<a>c</a>");
        assert_eq!(run("<a>b</a>", "<a>b</a>", "<a/>"), "<a/>");
        assert_eq!(run("<a/>", "<a/>", "<a>c</a>"), "<a>c</a>");
    }
}
