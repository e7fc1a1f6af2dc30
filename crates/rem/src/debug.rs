//! What the debug registers watch (SDM vol. 3, 17.2).
//!
//! Data: a page with a watched byte has no TLB entry, so each access comes to Rust and is compared.
//! One that hits is made again in a block of one instruction, after which the trap is raised.
//! Code: instructions of a page with a breakpoint run in blocks of one, with a look before each.
//! Ports are compared where they are accessed, in [`crate::sys`].

/// Enabled breakpoints on memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watches {
    points: [Option<Point>; 4],
    /// Some breakpoint watches data.
    pub data: bool,
    /// Some breakpoint watches code.
    pub code: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    kind: Kind,
    start: u64,
    len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Execute,
    Write,
    Access,
}

/// Whether breakpoint `n` of DR7 is enabled, its R/W field, and its length in bytes.
pub fn control(dr7: u64, n: usize) -> (bool, u64, u64) {
    let enabled = dr7 >> (2 * n) & 3 != 0;
    let rw = dr7 >> (16 + 4 * n) & 3;
    let len = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 3) as usize];
    (enabled, rw, len)
}

impl Watches {
    /// Those of debug registers `dr`. `long`: linear addresses have 64 bits.
    pub fn of(dr: &[u64; 8], long: bool) -> Self {
        let mut w = Self::default();
        for (n, point) in w.points.iter_mut().enumerate() {
            let (enabled, rw, len) = control(dr[7], n);
            let kind = match rw {
                0 => Kind::Execute,
                1 => Kind::Write,
                3 => Kind::Access,
                _ => continue,
            };
            if enabled {
                let start = dr[n] & if long { u64::MAX } else { 0xffff_ffff };
                *point = Some(Point {
                    kind,
                    // Low bits that the length covers are ignored.
                    start: start & !(len - 1),
                    len,
                });
                w.code |= kind == Kind::Execute;
                w.data |= kind != Kind::Execute;
            }
        }
        w
    }

    fn bits(&self, hit: impl Fn(&Point) -> bool) -> u64 {
        let points = self.points.iter().enumerate();
        points
            .filter(|(_, p)| p.as_ref().is_some_and(&hit))
            .fold(0, |bits, (n, _)| bits | 1 << n)
    }

    /// DR6 bits of the breakpoints that an access to `len` bytes at `linear` hits.
    pub fn hits(&self, linear: u64, len: u64, write: bool) -> u64 {
        self.bits(|p| {
            let kind = p.kind == Kind::Access || p.kind == Kind::Write && write;
            // Differences, so that a range may end at the top of memory.
            kind && (p.start.wrapping_sub(linear) < len || linear.wrapping_sub(p.start) < p.len)
        })
    }

    /// DR6 bits of the breakpoints on the instruction at `linear`.
    pub fn at(&self, linear: u64) -> u64 {
        self.bits(|p| p.kind == Kind::Execute && p.start == linear)
    }

    /// Whether data on the page of `linear` is watched.
    pub fn data_on_page(&self, linear: u64) -> bool {
        self.data && self.bits(|p| p.kind != Kind::Execute && p.start >> 12 == linear >> 12) != 0
    }

    /// Whether there is a breakpoint on code of the page of `linear`.
    pub fn code_on_page(&self, linear: u64) -> bool {
        self.code && self.bits(|p| p.kind == Kind::Execute && p.start >> 12 == linear >> 12) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dr(dr7: u64) -> [u64; 8] {
        [0x1003, 0x2006, 0xffff_fff8, 0x3000, 0, 0, 0, dr7]
    }

    #[test]
    fn accesses_hit_what_they_touch() {
        // 0: write, 4 bytes; 1: access, 2 bytes; 2: access, 8 bytes; 3: execute; all enabled.
        let w = Watches::of(&dr(0xff | 0xd << 16 | 0x7 << 20 | 0xb << 24), false);
        assert!(w.data && w.code);
        assert_eq!(w.hits(0x1000, 1, true), 1, "DR0 counts from 0x1000");
        assert_eq!(w.hits(0x1000, 1, false), 0, "it does not watch reads");
        assert_eq!(w.hits(0x1004, 4, true), 0);
        assert_eq!(w.hits(0xfff, 2, true), 1);
        assert_eq!(w.hits(0x2005, 2, false), 2);
        assert_eq!(w.hits(0x2008, 8, false), 0);
        assert_eq!(w.hits(0xffff_fff0, 16, false), 4);
        assert_eq!(w.hits(0x3000, 4, true), 0, "DR3 watches execution");
        assert_eq!(w.at(0x3000), 8);
        assert_eq!(w.at(0x3001), 0);
        assert!(w.code_on_page(0x3fff) && !w.code_on_page(0x1000));
        assert!(w.data_on_page(0x1fff) && !w.data_on_page(0x3000));
    }

    #[test]
    fn what_is_off_or_a_port_watches_nothing() {
        assert_eq!(Watches::of(&dr(0), true), Watches::default());
        // R/W 2 is a port.
        assert_eq!(Watches::of(&dr(1 | 2 << 16), true), Watches::default());
    }
}
