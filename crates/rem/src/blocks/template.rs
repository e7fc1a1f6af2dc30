//! What the translations of the same code at different addresses share.
//!
//! A *template* is what the translator found out about a piece of code, with code offsets from the
//! start of the translation and guest addresses for the place where it was translated. A block is
//! the code itself, for one address. Where the same page of RAM is mapped elsewhere (each program
//! that starts gets its libraries at addresses of its own), the block is made by copying the code of
//! the first one and changing what depends on the address.

use crate::mode::Mode;
use crate::site::{Exec, Link, Mark, Site};
use crate::translate::Translation;

/// Bits of a call's argument that count a block's sites, execs or links; those above are the
/// block's number.
pub const INDEX_BITS: u32 = 11;

/// The block that a call's argument names, and the number of its entry there.
pub fn split(arg: u32) -> (u32, usize) {
    (arg >> INDEX_BITS, (arg & ((1 << INDEX_BITS) - 1)) as usize)
}

/// Some entries of a list that all templates share.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn put<T: Copy>(list: &mut Vec<T>, entries: &[T]) -> Self {
        let start = list.len() as u32;
        list.extend_from_slice(entries);
        Self {
            start,
            len: entries.len() as u32,
        }
    }

    fn of<T>(self, list: &[T]) -> &[T] {
        &list[self.start as usize..][..self.len as usize]
    }
}

/// See the module.
pub struct Template {
    /// Offset in CS that the code was translated for.
    pub rip: u64,
    /// Where the cache has the code for that place: it stays there, and is changed in nothing but
    /// what [`Fixes`] name and the wiring of jumps.
    pub start: u32,
    /// Bytes of it.
    pub len: u32,
    /// Number of the first jump out of that.
    pub first_link: u32,
    /// See [`Translation::calls`].
    pub calls: bool,
    /// Entries, see [`Translation::entries`].
    pub entries: [u32; 3],
    /// Bytes of guest code.
    pub guest_len: u32,
    /// RAM offset of the second page that these lie on, if they do.
    pub second: Option<u64>,
    sites: Span,
    execs: Span,
    links: Span,
    args: Span,
    rips: Span,
    map: Span,
    marks: Span,
    peeks: Span,
}

/// Places in a translation's code that are its own.
pub struct Fixes<'a> {
    /// See [`Translation::args`].
    pub args: &'a [u32],
    /// See [`Translation::rips`].
    pub rips: &'a [u32],
    /// Jumps out.
    pub links: &'a [Link],
}

/// All templates.
#[derive(Default)]
pub struct Templates {
    all: Vec<Template>,
    sites: Vec<Site>,
    execs: Vec<Exec>,
    links: Vec<Link>,
    args: Vec<u32>,
    rips: Vec<u32>,
    map: Vec<(u32, u16)>,
    marks: Vec<(u32, Mark)>,
    peeks: Vec<(u16, u16)>,
}

impl Templates {
    /// Adds what was found out about the code at offset `rip`, whose translation is at `start` of
    /// the cache and has its jumps out from number `first_link` on; see [`Template::second`].
    pub fn add(
        &mut self,
        rip: u64,
        start: u32,
        first_link: u32,
        second: Option<u64>,
        t: &Translation,
    ) -> u32 {
        self.all.push(Template {
            rip,
            start,
            first_link,
            calls: t.calls,
            len: t.code.len() as u32,
            entries: t.entries,
            guest_len: t.guest_len,
            second,
            sites: Span::put(&mut self.sites, &t.sites),
            execs: Span::put(&mut self.execs, &t.execs),
            links: Span::put(&mut self.links, &t.links),
            args: Span::put(&mut self.args, &t.args),
            rips: Span::put(&mut self.rips, &t.rips),
            map: Span::put(&mut self.map, &t.map),
            marks: Span::put(&mut self.marks, &t.marks),
            peeks: Span::put(&mut self.peeks, &t.peeks),
        });
        self.all.len() as u32 - 1
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.all.clear();
        self.sites.clear();
        self.execs.clear();
        self.links.clear();
        self.args.clear();
        self.rips.clear();
        self.map.clear();
        self.marks.clear();
        self.peeks.clear();
    }

    /// The template numbered `n`.
    pub fn get(&self, n: u32) -> &Template {
        &self.all[n as usize]
    }

    /// What is to be changed in a copy of its code.
    pub fn fixes(&self, n: u32) -> Fixes<'_> {
        let t = self.get(n);
        Fixes {
            args: t.args.of(&self.args),
            rips: t.rips.of(&self.rips),
            links: t.links.of(&self.links),
        }
    }

    /// One of its memory accesses.
    pub fn site(&self, n: u32, index: usize) -> Site {
        self.get(n).sites.of(&self.sites)[index]
    }

    /// One of its helper calls.
    pub fn exec(&self, n: u32, index: usize) -> Exec {
        self.get(n).execs.of(&self.execs)[index]
    }

    /// See [`Translation::map`].
    pub fn map(&self, n: u32) -> &[(u32, u16)] {
        self.get(n).map.of(&self.map)
    }

    /// See [`Translation::marks`].
    pub fn marks(&self, n: u32) -> &[(u32, Mark)] {
        self.get(n).marks.of(&self.marks)
    }

    /// See [`Translation::peeks`].
    pub fn peeks(&self, n: u32) -> &[(u16, u16)] {
        self.get(n).peeks.of(&self.peeks)
    }
}

/// Changes copied code into the same for guest addresses that are `by` higher.
pub fn relocate(code: &mut [u8], rips: &[u32], mode: &Mode, by: u64) {
    let bytes = if mode.code64() { 8 } else { 4 };
    for at in rips {
        let place = &mut code[*at as usize..][..bytes];
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(place);
        let value = u64::from_le_bytes(value).wrapping_add(by).to_le_bytes();
        place.copy_from_slice(&value[..bytes]);
    }
}

/// Writes a 32-bit number at `at`.
pub fn put(code: &mut [u8], at: u32, value: u32) {
    code[at as usize..][..4].copy_from_slice(&value.to_le_bytes());
}

/// The 32-bit number at `at`.
pub fn get(code: &[u8], at: u32) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&code[at as usize..][..4]);
    u32::from_le_bytes(b)
}
