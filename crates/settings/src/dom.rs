//! XML as a plain tree, read with positions for error texts and written in VirtualBox's look.

use std::fmt::Write as _;

/// Largest settings file that is read. Real ones with 19 snapshots are below 1 MiB.
pub(crate) const MAX_SIZE: usize = 16 << 20;
/// Deepest nesting that is read: 250 snapshots, each two levels deep, and what is below them.
pub(crate) const MAX_DEPTH: usize = 520;
/// Most nodes, attributes of one element, and namespace declarations in a file. The XML parser's
/// time is quadratic in the latter two.
const MAX_NODES: u32 = 1 << 20;
const MAX_ATTRIBUTES: usize = 256;
const MAX_NAMESPACES: usize = 64;

/// What is wrong with a file, at a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub offset: usize,
    pub message: String,
}

impl Fault {
    pub fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            offset,
            message: message.into(),
        }
    }
}

/// Line and column, both from 1, columns in characters.
pub(crate) fn position(text: &str, offset: usize) -> (u32, u32) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    (line as u32, column as u32)
}

/// A whole file. What precedes and follows the root element is comments and the like, verbatim.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub prolog: Vec<Node>,
    pub root: Element,
    pub epilog: Vec<Node>,
}

/// Anything between two tags.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Element(Element),
    /// Unescaped.
    Text(String),
    /// A comment or processing instruction, verbatim.
    Raw(String),
}

/// An element. Names carry their prefix, if any; prefixed names are never ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Element {
    pub name: String,
    pub attributes: Vec<Attribute>,
    pub children: Vec<Node>,
    pub offset: usize,
}

/// An attribute, its value unescaped.
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub name: String,
    pub value: String,
    pub offset: usize,
}

// Where something was read from is no part of what it is.

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.attributes, &self.children)
            == (&other.name, &other.attributes, &other.children)
    }
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.value) == (&other.name, &other.value)
    }
}

impl Element {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }

    pub fn set(&mut self, name: &str, value: String) {
        match self.attributes.iter_mut().find(|a| a.name == name) {
            Some(attribute) => attribute.value = value,
            None => self.attributes.push(Attribute {
                name: name.to_owned(),
                value,
                offset: 0,
            }),
        }
    }

    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            _ => None,
        })
    }

    /// The first child of that name in our namespace.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.elements().find(|e| e.is(name))
    }

    /// The first child of that name in our namespace.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find_map(|node| match node {
            Node::Element(e) if e.is(name) => Some(e),
            _ => None,
        })
    }

    /// The first child of that name, added at the end if there is none.
    pub fn child_or_new(&mut self, name: &str) -> &mut Self {
        let at = self.position(name).unwrap_or_else(|| {
            let mut child = Self::new(name);
            child.offset = self.offset;
            self.children.push(Node::Element(child));
            self.children.len() - 1
        });
        match &mut self.children[at] {
            Node::Element(e) => e,
            _ => unreachable!("positions are those of elements"),
        }
    }

    /// Where the first child of that name is among the children.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.children
            .iter()
            .position(|node| matches!(node, Node::Element(e) if e.is(name)))
    }

    /// Takes the first child of that name out.
    pub fn take_child(&mut self, name: &str) -> Option<Self> {
        match self.children.remove(self.position(name)?) {
            Node::Element(e) => Some(e),
            _ => None,
        }
    }

    /// Takes an attribute out.
    pub fn take_attribute(&mut self, name: &str) -> Option<Attribute> {
        let at = self.attributes.iter().position(|a| a.name == name)?;
        Some(self.attributes.remove(at))
    }

    /// The value of an attribute, empty if there is none.
    pub fn value(&self, name: &str) -> &str {
        self.attribute(name).map_or("", |a| a.value.as_str())
    }

    /// Whether this is our element of that name. One that declares a namespace of its own is not.
    pub fn is(&self, name: &str) -> bool {
        self.name == name && self.attribute("xmlns").is_none()
    }

    /// All text directly inside.
    pub fn text(&self) -> String {
        self.children
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && self.children.is_empty()
    }
}

/// Reads a file. No document type definitions, and with them no entities but the predefined five.
pub(crate) fn parse(text: &str) -> Result<Document, Fault> {
    check_shape(text)?;
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..roxmltree::ParsingOptions::default()
    };
    let tree = roxmltree::Document::parse_with_options(text, options).map_err(|e| {
        let pos = e.pos();
        let mut message = e.to_string();
        // The position goes in front in our own form.
        for known in [format!(" at {pos}"), format!(" at {}:{}", pos.row, pos.col)] {
            message = message.replace(&known, "");
        }
        Fault::new(offset_of(text, pos.row, pos.col), message)
    })?;

    let mut prolog = Vec::new();
    let mut root = None;
    let mut epilog = Vec::new();
    for node in tree.root().children() {
        if node.is_element() {
            root = Some(convert(node, None, text, 0)?);
        } else if !node.is_text() {
            let raw = Node::Raw(text[node.range()].to_owned());
            if root.is_none() {
                &mut prolog
            } else {
                &mut epilog
            }
            .push(raw);
        }
    }
    let root = root.ok_or_else(|| Fault::new(0, "there is no root element"))?;
    Ok(Document {
        prolog,
        root,
        epilog,
    })
}

/// The byte offset of a line and column.
fn offset_of(text: &str, line: u32, column: u32) -> usize {
    let start = match line {
        0 | 1 => 0,
        _ => text
            .match_indices('\n')
            .nth(line as usize - 2)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    let skip = (column as usize).saturating_sub(1);
    text[start..]
        .char_indices()
        .nth(skip)
        .map_or(text.len(), |(at, _)| start + at)
}

/// Refuses what is well-formed but would cost the parser out of proportion.
fn check_shape(text: &str) -> Result<(), Fault> {
    if text.len() > MAX_SIZE {
        return Err(Fault::new(
            0,
            format!("the file is larger than {} MiB", MAX_SIZE >> 20),
        ));
    }
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut namespaces) = (0, 0usize, 0);
    let until = |from: usize, end: &str| {
        text.get(from..)
            .and_then(|t| t.find(end))
            .map_or(bytes.len(), |n| from + n + end.len())
    };
    while let Some(open) = bytes[at..].iter().position(|b| *b == b'<').map(|n| at + n) {
        let rest = &bytes[open..];
        at = if rest.starts_with(b"<!--") {
            until(open + 4, "-->")
        } else if rest.starts_with(b"<![CDATA[") {
            until(open + 9, "]]>")
        } else if rest.starts_with(b"<?") {
            until(open + 2, "?>")
        } else if rest.starts_with(b"</") {
            depth = depth.saturating_sub(1);
            until(open, ">")
        } else {
            let (end, attributes, declared) = scan_tag(bytes, open);
            namespaces += declared;
            if attributes > MAX_ATTRIBUTES || namespaces > MAX_NAMESPACES {
                return Err(Fault::new(
                    open,
                    "too many attributes or namespace declarations",
                ));
            }
            if bytes.get(end.wrapping_sub(2)) != Some(&b'/') {
                depth += 1;
            }
            if depth > MAX_DEPTH {
                return Err(Fault::new(
                    open,
                    format!("elements nest deeper than {MAX_DEPTH}"),
                ));
            }
            end
        };
    }
    Ok(())
}

/// The end of a start tag, and how many attributes and namespace declarations it has.
fn scan_tag(bytes: &[u8], open: usize) -> (usize, usize, usize) {
    let (mut attributes, mut declared) = (0, 0);
    let mut quote = None;
    for (n, b) in bytes.iter().enumerate().skip(open + 1) {
        match (quote, b) {
            (Some(q), b) if q == *b => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(*b),
            (None, b'=') => attributes += 1,
            (None, b'x') if bytes[n..].starts_with(b"xmlns") => declared += 1,
            (None, b'>') => return (n + 1, attributes, declared),
            _ => {}
        }
    }
    (bytes.len(), attributes, declared)
}

fn convert(
    node: roxmltree::Node<'_, '_>,
    parent: Option<roxmltree::Node<'_, '_>>,
    text: &str,
    depth: usize,
) -> Result<Element, Fault> {
    let offset = node.range().start;
    if depth > MAX_DEPTH {
        return Err(Fault::new(
            offset,
            format!("elements nest deeper than {MAX_DEPTH}"),
        ));
    }
    let mut element = Element {
        name: raw_name(text, offset),
        offset,
        ..Element::default()
    };

    // Declarations made on this element: what is in scope here and was not in the parent.
    let outer = |prefix| {
        parent
            .and_then(|p| p.lookup_namespace_uri(prefix))
            .unwrap_or_default()
    };
    if node.lookup_namespace_uri(None).unwrap_or_default() != outer(None) {
        element.set(
            "xmlns",
            node.lookup_namespace_uri(None)
                .unwrap_or_default()
                .to_owned(),
        );
    }
    for namespace in node.namespaces() {
        if let Some(prefix) = namespace.name().filter(|p| *p != "xml")
            && outer(Some(prefix)) != namespace.uri()
        {
            element.set(&format!("xmlns:{prefix}"), namespace.uri().to_owned());
        }
    }
    for attribute in node.attributes() {
        let range = attribute.range_qname();
        let name = text.get(range.clone()).unwrap_or_default();
        if name.len() > 1000 {
            return Err(Fault::new(range.start, "an attribute's name is too long"));
        }
        element.attributes.push(Attribute {
            name: name.to_owned(),
            value: attribute.value().to_owned(),
            offset: range.start,
        });
    }

    for child in node.children() {
        element.children.push(if child.is_element() {
            Node::Element(convert(child, Some(node), text, depth + 1)?)
        } else if child.is_text() {
            Node::Text(child.text().unwrap_or_default().to_owned())
        } else {
            Node::Raw(text[child.range()].to_owned())
        });
    }
    // White space between elements is layout; beside real text, or alone, it is content.
    let blank = |n: &Node| matches!(n, Node::Text(t) if t.trim().is_empty());
    let has_text = element
        .children
        .iter()
        .any(|n| matches!(n, Node::Text(_)) && !blank(n));
    if !has_text && element.children.iter().any(|n| !matches!(n, Node::Text(_))) {
        element.children.retain(|n| !blank(n));
    }
    Ok(element)
}

/// The name after `<`, with its prefix.
fn raw_name(text: &str, offset: usize) -> String {
    let after = text.get(offset + 1..).unwrap_or_default();
    let end = after.find(|c: char| c.is_ascii_whitespace() || c == '/' || c == '>');
    after[..end.unwrap_or(after.len())].to_owned()
}

/// Writes a file: two spaces per level, `"` around values, everything beyond ASCII as references.
pub(crate) fn write(document: &Document) -> String {
    let mut out = String::from("<?xml version=\"1.0\"?>\n");
    for node in &document.prolog {
        write_node(&mut out, node);
        out.push('\n');
    }
    write_element(&mut out, &document.root, 0);
    out.push('\n');
    for node in &document.epilog {
        write_node(&mut out, node);
        out.push('\n');
    }
    out
}

fn write_node(out: &mut String, node: &Node) {
    match node {
        Node::Element(element) => write_element(out, element, usize::MAX),
        Node::Text(text) => escape(out, text, false),
        Node::Raw(raw) => out.push_str(raw),
    }
}

/// `level` is `usize::MAX` inside text, where line breaks would be content.
fn write_element(out: &mut String, element: &Element, level: usize) {
    let _ = write!(out, "<{}", element.name);
    for attribute in &element.attributes {
        let _ = write!(out, " {}=\"", attribute.name);
        escape(out, &attribute.value, true);
        out.push('"');
    }
    if element.children.is_empty() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    let inline = level == usize::MAX || element.children.iter().any(|n| matches!(n, Node::Text(_)));
    for node in &element.children {
        if inline {
            write_node(out, node);
            continue;
        }
        indent(out, level + 1);
        match node {
            Node::Element(child) => write_element(out, child, level + 1),
            other => write_node(out, other),
        }
    }
    if !inline {
        indent(out, level);
    }
    let _ = write!(out, "</{}>", element.name);
}

fn indent(out: &mut String, level: usize) {
    out.push('\n');
    for _ in 0..level {
        out.push_str("  ");
    }
}

fn escape(out: &mut String, text: &str, attribute: bool) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' if attribute => out.push_str("&quot;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' => out.push(c),
            // XML 1.0 has no way to write these; guests can put them into their properties.
            '\0'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => out.push('?'),
            '\u{20}'..'\u{7f}' => out.push(c),
            c => {
                let _ = write!(out, "&#x{:X};", u32::from(c));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> (u32, u32, String) {
        let fault = parse(text).unwrap_err();
        let (line, column) = position(text, fault.offset);
        (line, column, fault.message)
    }

    #[test]
    fn writes_what_it_read() {
        let text = concat!(
            "<?xml version=\"1.0\"?>\n<!--\n** x\n-->\n<a xmlns=\"n\" b=\"&quot;&#xEA;&#10;&lt;\">\n",
            "  <c/>\n  <!-- note -->\n  <d>text &amp; \"more\"\n  <e x=\"1\"><f/></e></d>\n",
            "  <p:q xmlns:p=\"o\" p:r=\"s\"/>\n  <t xmlns=\"\">\n    <u/>\n  </t>\n</a>\n<!-- end -->\n"
        );
        let document = parse(text).unwrap();
        assert_eq!(write(&document), text);
        let nested = document.root.child("d").unwrap();
        assert_eq!(nested.text(), "text & \"more\"\n  ");
        assert!(
            document.root.child("t").is_none(),
            "in no namespace, so not ours"
        );
    }

    #[test]
    fn faults_have_positions() {
        let (line, column, message) = fault("<a>\n  <b>\n</a>");
        assert_eq!(line, 3, "{column} {message}");
        assert_eq!(fault("<a>\n <b c=\"1\" c=\"2\"/></a>").0, 2);
        assert_eq!(fault("").0, 1);
        let (_, _, message) = fault("<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>");
        assert!(message.contains("DTD"), "{message}");
        assert!(fault("<a>&nope;</a>").2.contains("nope"));
    }

    #[test]
    fn costs_are_bounded() {
        let deep = format!("{}{}", "<a>".repeat(MAX_DEPTH), "</a>".repeat(MAX_DEPTH));
        parse(&deep).unwrap();
        let (_, _, message) = fault(&"<a>".repeat(1_000_000));
        assert!(message.contains("deeper"), "{message}");
        let wide: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
        assert!(fault(&format!("<a{wide}/>")).2.contains("too many"));
        let spaces: String = (0..100).map(|n| format!("<a xmlns:b{n}='c{n}'>")).collect();
        assert!(fault(&spaces).2.contains("too many"));
        assert!(fault(&" ".repeat(MAX_SIZE + 1)).2.contains("larger"));
        assert!(
            fault(&format!("<a {}=''/>", "n".repeat(100_000)))
                .2
                .contains("too long")
        );
        parse(&format!("<a b='{}'/>", "v".repeat(4 << 20))).unwrap();
    }
}
