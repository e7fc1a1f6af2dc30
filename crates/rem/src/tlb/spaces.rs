//! Address spaces that are not in use: with PCIDs, a load of CR3 leaves their translations valid
//! (SDM vol. 3, 4.10.1), so what the tables held of them is set aside and put back when they come
//! again.

use crate::ctx::{TLB_SIZE, Tables};

use super::{Fetch, Meta, Mmu, NO_FETCH, NO_RANGE};

/// Address spaces that are remembered besides the current one.
const SPACES: usize = 8;
/// Entries that are remembered of one: the latest. Putting one back costs a hundredth of a walk, but
/// a space that has many more runs long enough to find them anew.
const ENTRIES: usize = 512;

/// What the tables held of an address space.
#[derive(Default)]
pub(super) struct Space {
    /// Its CR3.
    cr3: u64,
    /// Number of the entry, tag, host address.
    entries: Vec<(u32, u64, u64)>,
    large: [(u64, u64); 2],
    fetches: Vec<(u16, Fetch)>,
}

impl Mmu {
    /// Takes the entries of the current address space, whose CR3 is `cr3`, out of the tables and
    /// keeps them.
    pub fn leave_space(&mut self, tables: &mut Tables, cr3: u64) {
        let mut space = if self.spaces.len() < SPACES {
            Space::default()
        } else {
            self.spaces.remove(0)
        };
        space.cr3 = cr3;
        space.entries.clear();
        space.fetches.clear();
        let mut used = std::mem::take(&mut self.used[0]);
        let old = used.len().saturating_sub(ENTRIES);
        for (k, n) in used.drain(..).enumerate() {
            let at = n as usize;
            self.listed[at] &= !1;
            if self.meta[at] != Meta::Local {
                continue;
            }
            if k >= old {
                let (t, i) = (at / TLB_SIZE, at % TLB_SIZE);
                let table = &tables[t / 2][t % 2];
                space.entries.push((n, table.tag[i], table.host[i]));
            }
            self.drop_entry(tables, at);
        }
        self.used[0] = used;
        space.large = std::mem::replace(&mut self.large[0], [NO_RANGE; 2]);
        for slot in self.local_fetches.drain(..) {
            let f = &mut self.fetches[usize::from(slot)];
            f.listed = false;
            if !f.global {
                space.fetches.push((slot, *f));
                *f = NO_FETCH;
            }
        }
        self.spaces.push(space);
    }

    /// Puts back what is known of the address space with this CR3; the tables have no local entries.
    pub fn enter_space(&mut self, tables: &mut Tables, cr3: u64) {
        let Some(at) = self.spaces.iter().position(|s| s.cr3 == cr3) else {
            return;
        };
        let space = self.spaces.remove(at);
        for (n, tag, host) in &space.entries {
            let at = *n as usize;
            if self.meta[at] != Meta::Empty {
                continue;
            }
            let (t, i) = (at / TLB_SIZE, at % TLB_SIZE);
            let table = &mut tables[t / 2][t % 2];
            table.tag[i] = *tag;
            table.host[i] = *host;
            self.meta[at] = Meta::Local;
            if self.listed[at] & 1 == 0 {
                self.listed[at] |= 1;
                self.used[0].push(*n);
            }
        }
        self.large[0] = space.large;
        for (slot, f) in &space.fetches {
            let here = &mut self.fetches[usize::from(*slot)];
            if here.tag == NO_FETCH.tag {
                *here = Fetch { listed: true, ..*f };
                self.local_fetches.push(*slot);
            }
        }
    }

    /// Forgets the address spaces whose CR3 `which` names.
    pub fn forget_spaces(&mut self, which: impl Fn(u64) -> bool) {
        self.spaces.retain(|s| !which(s.cr3));
    }

    /// [`Mmu::flush_writes`] for the spaces that are not in use; `None`: all entries for writing.
    pub(super) fn forget_writes(&mut self, host: Option<u64>) {
        for space in &mut self.spaces {
            space.entries.retain(|(n, _, at)| {
                let write = *n as usize / TLB_SIZE % 2 == 1;
                !(write && host.is_none_or(|h| h == *at))
            });
        }
    }
}
