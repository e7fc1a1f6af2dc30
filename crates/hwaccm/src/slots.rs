//! What memory KVM's slots must show, from the pieces of the physical map.

use pgm::PAGE_SIZE;

/// One memory slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub gpa: u64,
    /// RAM offset of the first byte.
    pub offset: u64,
    pub size: u64,
    pub writable: bool,
}

/// Slots for `pieces` (as [`pgm::PhysMap::memory_pieces`] gives them): whole pages only; what is
/// left out arrives as MMIO exits and is answered from the physical map.
pub(crate) fn wanted(pieces: &[(u64, u64, u64, bool)]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    for &(gpa, offset, size, writable) in pieces {
        let start = gpa.next_multiple_of(PAGE_SIZE);
        let end = (gpa + size) & !(PAGE_SIZE - 1);
        if start >= end || !(offset + (start - gpa)).is_multiple_of(PAGE_SIZE) {
            continue;
        }
        let next = Slot {
            gpa: start,
            offset: offset + (start - gpa),
            size: end - start,
            writable,
        };
        match slots.last_mut() {
            Some(last)
                if last.gpa + last.size == next.gpa
                    && last.offset + last.size == next.offset
                    && last.writable == next.writable =>
            {
                last.size += next.size;
            }
            _ => slots.push(next),
        }
    }
    slots
}

/// What to do to get from the slots in `now` (by slot number) to `wanted`: numbers to delete, then
/// (number, slot) to set.
pub(crate) fn difference(
    now: &[Option<Slot>],
    wanted: &[Slot],
) -> (Vec<usize>, Vec<(usize, Slot)>) {
    let delete: Vec<usize> = now
        .iter()
        .enumerate()
        .filter(|(_, s)| s.is_some_and(|s| !wanted.contains(&s)))
        .map(|(i, _)| i)
        .collect();
    let mut free = (0..).filter(|i| delete.contains(i) || now.get(*i).is_none_or(Option::is_none));
    let set = wanted
        .iter()
        .filter(|w| !now.contains(&Some(**w)))
        .map(|w| (free.next().unwrap_or(usize::MAX), *w))
        .collect();
    (delete, set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_odd_edges_cut() {
        let slots = wanted(&[
            (0, 0, 0x1000, true),
            (0x1000, 0x1000, 0x1000, true),
            (0x2000, 0x2000, 0x1000, false),
            (0x5800, 0x5800, 0x1800, true),
            (0x9000, 0x9000, 0x800, true),
        ]);
        let slot = |gpa, size, writable| Slot {
            gpa,
            offset: gpa,
            size,
            writable,
        };
        assert_eq!(
            slots,
            [
                slot(0, 0x2000, true),
                slot(0x2000, 0x1000, false),
                slot(0x6000, 0x1000, true)
            ]
        );
    }

    #[test]
    fn only_what_changed_is_touched() {
        let slot = |gpa| Slot {
            gpa,
            offset: gpa,
            size: 0x1000,
            writable: true,
        };
        let now = [Some(slot(0)), Some(slot(0x1000)), None];
        let (delete, set) = difference(&now, &[slot(0), slot(0x3000), slot(0x5000)]);
        assert_eq!(delete, [1]);
        assert_eq!(set, [(1, slot(0x3000)), (2, slot(0x5000))]);
    }
}
