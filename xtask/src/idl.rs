//! Reader of `crates/api/idl/*.xidl`. One declaration or member per line; `#` starts a comment,
//! and comments directly above something become its documentation.

use anyhow::{Context, Result, bail};
use std::path::Path;

#[derive(Debug, Default)]
pub struct Idl {
    pub interfaces: Vec<Interface>,
    pub enums: Vec<Enum>,
    pub structs: Vec<Struct>,
    pub results: Vec<(String, u32)>,
}

#[derive(Debug)]
pub struct Interface {
    pub name: String,
    pub doc: Vec<String>,
    pub extends: Option<String>,
    /// The `VBoxEventType` of an event interface.
    pub event: Option<String>,
    pub members: Vec<Member>,
}

#[derive(Debug)]
pub enum Member {
    Attribute {
        name: String,
        doc: Vec<String>,
        ty: Type,
        writable: bool,
    },
    Method {
        name: String,
        doc: Vec<String>,
        ins: Vec<Param>,
        outs: Vec<Param>,
    },
}

#[derive(Debug)]
pub struct Param {
    pub name: String,
    pub ty: Type,
}

#[derive(Debug)]
pub struct Enum {
    pub name: String,
    pub values: Vec<(String, u32)>,
}

#[derive(Debug)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Param>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    pub name: String,
    pub array: bool,
    pub nullable: bool,
}

impl Idl {
    /// Reads all files of a folder in the order of their names.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
            .filter_map(|e| e.ok().map(|e| e.path()))
            .filter(|p| p.extension().is_some_and(|x| x == "xidl"))
            .collect();
        files.sort();
        let mut idl = Self::default();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            idl.parse(&text)
                .with_context(|| format!("in {}", file.display()))?;
        }
        Ok(idl)
    }

    fn parse(&mut self, text: &str) -> Result<()> {
        let mut doc = Vec::new();
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let line = line.trim();
            let context = || format!("line {}: {line}", number + 1);
            if let Some(comment) = line.strip_prefix('#') {
                doc.push(comment.trim().to_owned());
                continue;
            }
            let doc = std::mem::take(&mut doc);
            if line.is_empty() {
                continue;
            }
            let (keyword, rest) = line.split_once(' ').with_context(context)?;
            if keyword == "result" {
                let (name, value) = name_value(rest).with_context(context)?;
                self.results.push((name, value));
                continue;
            }
            let head = rest.strip_suffix('{').with_context(context)?.trim();
            let mut body = Vec::new();
            for (_, line) in lines.by_ref() {
                match line.trim() {
                    "}" => break,
                    "" => {}
                    line => body.push(line),
                }
            }
            match keyword {
                "enum" => self.enums.push(Enum {
                    name: head.to_owned(),
                    values: body.iter().map(|l| name_value(l)).collect::<Result<_>>()?,
                }),
                "struct" => self.structs.push(Struct {
                    name: head.to_owned(),
                    fields: body.iter().map(|l| param(l)).collect::<Result<_>>()?,
                }),
                "interface" => self.interfaces.push(interface(head, doc, &body)?),
                _ => bail!("{}: unknown declaration", context()),
            }
        }
        Ok(())
    }

    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// An interface and what it extends, most derived first.
    pub fn lineage<'a>(&'a self, interface: &'a Interface) -> Vec<&'a Interface> {
        let mut all = vec![interface];
        while let Some(base) = all[all.len() - 1].extends.as_deref() {
            match self.interface(base) {
                Some(base) => all.push(base),
                None => break,
            }
        }
        all
    }
}

fn interface(head: &str, doc: Vec<String>, body: &[&str]) -> Result<Interface> {
    let (head, event) = match head.split_once(" event ") {
        Some((head, event)) => (head, Some(event.trim().to_owned())),
        None => (head, None),
    };
    let (name, extends) = match head.split_once(':') {
        Some((name, base)) => (name.trim(), Some(base.trim().to_owned())),
        None => (head.trim(), None),
    };
    let mut members = Vec::new();
    let mut doc_lines = Vec::new();
    for line in body {
        if let Some(comment) = line.strip_prefix('#') {
            doc_lines.push(comment.trim().to_owned());
            continue;
        }
        members.push(
            member(line, std::mem::take(&mut doc_lines))
                .with_context(|| format!("in interface {name}: {line}"))?,
        );
    }
    Ok(Interface {
        name: name.to_owned(),
        doc,
        extends,
        event,
        members,
    })
}

fn member(line: &str, doc: Vec<String>) -> Result<Member> {
    let (keyword, rest) = line.split_once(' ').context("a member needs a name")?;
    match keyword {
        "attribute" | "readonly" => {
            let Param { name, ty } = param(rest)?;
            Ok(Member::Attribute {
                name,
                doc,
                ty,
                writable: keyword == "attribute",
            })
        }
        "method" => {
            let (name, rest) = rest.split_once('(').context("'(' expected")?;
            let (ins, outs) = rest.split_once(')').context("')' expected")?;
            let outs = match outs.trim().strip_prefix("->").map(str::trim) {
                None => Vec::new(),
                Some(list) if list.starts_with('(') => {
                    params(list.trim_start_matches('(').trim_end_matches(')'))?
                }
                Some(single) => vec![Param {
                    name: "returnval".to_owned(),
                    ty: ty(single)?,
                }],
            };
            Ok(Member::Method {
                name: name.to_owned(),
                doc,
                ins: params(ins)?,
                outs,
            })
        }
        _ => bail!("unknown kind of member"),
    }
}

fn params(list: &str) -> Result<Vec<Param>> {
    list.split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(param)
        .collect()
}

fn param(text: &str) -> Result<Param> {
    let (name, t) = text
        .split_once(':')
        .with_context(|| format!("'name: type' expected: {text}"))?;
    Ok(Param {
        name: name.trim().to_owned(),
        ty: ty(t)?,
    })
}

fn ty(text: &str) -> Result<Type> {
    let text = text.trim();
    let (text, nullable) = text.strip_suffix('?').map_or((text, false), |t| (t, true));
    let (text, array) = text.strip_suffix("[]").map_or((text, false), |t| (t, true));
    if text.is_empty() || !text.chars().all(char::is_alphanumeric) {
        bail!("not a type: {text}");
    }
    Ok(Type {
        name: text.to_owned(),
        array,
        nullable,
    })
}

fn name_value(text: &str) -> Result<(String, u32)> {
    let (name, value) = text
        .split_once('=')
        .with_context(|| format!("'name = value': {text}"))?;
    let value = value.trim();
    let number = match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16)?,
        None => value.parse()?,
    };
    Ok((name.trim().to_owned(), number))
}
