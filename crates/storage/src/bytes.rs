//! Numbers and UUIDs inside sectors, in either byte order. Offsets are the formats' own constants,
//! inside buffers whose length is fixed.

use uuid::Uuid;

/// The `N` bytes at `at`; zeros where the buffer ends before them.
fn array<const N: usize>(raw: &[u8], at: usize) -> [u8; N] {
    raw.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

pub(crate) fn le16(raw: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(raw, at))
}

pub(crate) fn le32(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(raw, at))
}

pub(crate) fn le64(raw: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(raw, at))
}

pub(crate) fn be16(raw: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(raw, at))
}

pub(crate) fn be32(raw: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(raw, at))
}

pub(crate) fn be64(raw: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(raw, at))
}

/// A UUID as VirtualBox keeps it in memory and in files: its first three fields little-endian.
pub(crate) fn uuid(raw: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array(raw, at))
}

/// Writes `bytes` at `at`.
pub(crate) fn put(raw: &mut [u8], at: usize, bytes: &[u8]) {
    raw[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Reads `count` numbers of 32 bits each.
pub(crate) fn u32s(raw: &[u8], from: fn([u8; 4]) -> u32) -> impl Iterator<Item = u32> + '_ {
    raw.chunks_exact(4)
        .map(move |b| from([b[0], b[1], b[2], b[3]]))
}
