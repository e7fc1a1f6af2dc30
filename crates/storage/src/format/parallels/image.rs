//! An open Parallels image: reading, writing and the order in which things reach the file.

use std::collections::BTreeSet;
use std::path::Path;

use crate::CheckReport;
use crate::Error;
use crate::Image;
use crate::Meta;
use crate::OpenMode;
use crate::Progress;
use crate::Result;
use crate::Run;
use crate::RunState;
use crate::SECTOR;
use crate::Variant;
use crate::bytes;
use crate::host::HostFile;
use crate::image::check_range;
use crate::zero::is_zero;

use super::header::HEADER_LEN;
use super::header::Header;

/// The file grows by this many clusters at a time, and by no more than so many bytes.
const GROW_CLUSTERS: u64 = 8;
const GROW_BYTES: u64 = 8 << 20;

/// Entries per sector of the table, which begins in the middle of a sector.
const PER_SECTOR: usize = (SECTOR / 4) as usize;

pub(super) struct ParallelsImage {
    file: HostFile,
    header: Header,
    /// Where each cluster is, in the header's units; 0 for nowhere.
    table: Vec<u32>,
    /// File offset after everything in use.
    next: u64,
    /// File offset up to which, from `next` on, everything is zero even after a power cut; `None`
    /// before the first allocation and after a failed one.
    ready: Option<u64>,
    /// Groups of entries that the file does not have yet.
    dirty: BTreeSet<usize>,
}

/// A part of one cluster, inside the disk.
#[derive(Clone, Copy)]
struct Part {
    cluster: usize,
    within: u64,
    len: u64,
}

impl ParallelsImage {
    /// Reads the table and refuses clusters outside the file and ones that overlap.
    pub(super) fn open(file: HostFile) -> Result<Self> {
        let header = Header::read(&file)?;
        if file.mode() == OpenMode::ReadWrite && (header.has_extensions || header.empty) {
            return Err(Error::unsupported(
                file.path(),
                "this image can only be read: it has extensions of Parallels' own",
            ));
        }
        let mut raw = vec![0; 4 * header.entries as usize];
        file.read(HEADER_LEN, &mut raw)?;
        let mut table: Vec<u32> = bytes::u32s(&raw, u32::from_le_bytes).collect();
        if header.empty {
            table.fill(0);
        }
        let len = file.len()?;
        let bad = |index: usize, what: String| {
            Error::corrupt(
                file.path(),
                "Parallels",
                HEADER_LEN + 4 * index as u64,
                what,
            )
        };
        let used = table.iter().enumerate().filter(|(_, unit)| **unit != 0);
        let mut owners: Vec<(u32, usize)> = used.map(|(index, unit)| (*unit, index)).collect();
        owners.sort_unstable();
        let mut end = header.data_at;
        for &(unit, index) in &owners {
            let at = u64::from(unit) * header.unit();
            if at < header.data_at || at >= len {
                return Err(bad(
                    index,
                    format!("cluster {index} at {at:#x} is not among the file's data"),
                ));
            }
            if at < end {
                return Err(bad(index, format!("cluster {index} lies on another")));
            }
            end = at + header.cluster;
        }
        // Programs expect clusters at whole numbers of them after the first.
        let next = header.data_at + (end - header.data_at).next_multiple_of(header.cluster);
        Ok(Self {
            file,
            header,
            table,
            next,
            ready: None,
            dirty: BTreeSet::new(),
        })
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.file.path(), offset, len, self.header.size)
    }

    fn parts(&self, offset: u64, len: u64) -> impl Iterator<Item = Part> + use<> {
        let (end, size) = (offset + len, self.header.cluster);
        let mut at = offset;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let part = Part {
                    cluster: (at / size) as usize,
                    within: at % size,
                    len: (size - at % size).min(end - at),
                };
                at += part.len;
                part
            })
        })
    }

    /// File offset of a cluster that is there.
    fn place(&self, cluster: usize) -> Option<u64> {
        match self.table.get(cluster) {
            None | Some(0) => None,
            Some(unit) => Some(u64::from(*unit) * self.header.unit()),
        }
    }

    /// Makes sure that the cluster at `next` is in the file and holds zeros, even after a power
    /// cut.
    fn reserve(&mut self) -> Result<()> {
        let cluster = self.header.cluster;
        if self.ready.is_some_and(|ready| self.next + cluster <= ready) {
            return Ok(());
        }
        if self.ready.take().is_none() {
            // Whatever follows was left behind by a crash or a failed write.
            let end = self.file.len()?;
            self.file.punch(self.next, end.saturating_sub(self.next))?;
        }
        let more = (GROW_CLUSTERS * cluster).min(GROW_BYTES).max(cluster);
        let end = self.next + more.next_multiple_of(cluster);
        self.file.set_len(end)?;
        self.file.sync()?;
        self.ready = Some(end);
        Ok(())
    }

    fn write_part(&mut self, part: Part, data: &[u8]) -> Result<()> {
        if let Some(at) = self.place(part.cluster) {
            return self.file.write(at + part.within, data);
        }
        if is_zero(data) {
            return Ok(());
        }
        let unit = u32::try_from(self.next / self.header.unit())
            .map_err(|_| Error::unsupported(self.file.path(), "the image is full"))?;
        self.reserve()?;
        self.header.clear_in_use(&self.file)?;
        if let Err(e) = self.file.write(self.next + part.within, data) {
            // No longer zero, and the next cluster to come here may be another.
            self.ready = None;
            return Err(e);
        }
        if let Some(entry) = self.table.get_mut(part.cluster) {
            *entry = unit;
            self.next += self.header.cluster;
            self.dirty.insert(part.cluster / PER_SECTOR);
        }
        Ok(())
    }

    /// Writes the table's entries that wait in memory. The clusters were zero before, on the disk
    /// as well, so that the order does not matter.
    fn settle(&mut self) -> Result<()> {
        while let Some(&group) = self.dirty.first() {
            let first = group * PER_SECTOR;
            let entries = self.table.iter().skip(first).take(PER_SECTOR);
            let raw: Vec<u8> = entries.flat_map(|e| e.to_le_bytes()).collect();
            self.file.write(HEADER_LEN + 4 * first as u64, &raw)?;
            self.dirty.remove(&group);
        }
        Ok(())
    }
}

impl Image for ParallelsImage {
    fn format(&self) -> &'static str {
        "Parallels"
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        self.file.mode()
    }

    fn variant(&self) -> Variant {
        Variant::Dynamic
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u32 {
        self.header.cluster as u32
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.len()
    }

    fn meta(&self) -> Meta {
        Meta {
            physical: self.header.geometry,
            ..Meta::default()
        }
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        if *meta == self.meta() {
            return Ok(());
        }
        Err(Error::unsupported(
            self.path(),
            "a Parallels image has no place for UUIDs, comments or another geometry",
        ))
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        let mut run = Run {
            len: 0,
            state: RunState::Absent,
        };
        for part in self.parts(offset, len) {
            let state = match self.place(part.cluster) {
                Some(_) => RunState::Data,
                None => RunState::Absent,
            };
            if run.len > 0 && run.state != state {
                break;
            }
            run.state = state;
            run.len += part.len;
        }
        Ok(run)
    }

    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len() as u64)?;
        for part in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at_mut(part.len as usize);
            buf = rest;
            match self.place(part.cluster) {
                // The last cluster of a file may be cut short.
                Some(at) => self.file.read_padded(at + part.within, piece)?,
                None => piece.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, buf.len() as u64)?;
        let mut written = Ok(());
        for part in self.parts(offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(part.len as usize);
            buf = rest;
            written = self.write_part(part, piece);
            if written.is_err() {
                break;
            }
        }
        self.settle()?;
        written
    }

    fn flush(&mut self) -> Result<()> {
        if self.file.mode() == OpenMode::ReadOnly {
            return Ok(());
        }
        self.settle()?;
        self.file.sync()
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.file.require_writable()?;
        self.check_range(offset, len)?;
        for part in self.parts(offset, len) {
            if let Some(at) = self.place(part.cluster) {
                self.file.punch(at + part.within, part.len)?;
            }
        }
        Ok(())
    }

    /// Grows as far as the table has room, which is up to where the data begin.
    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        let mut header = self.header.clone();
        let entries = size.div_ceil(header.cluster);
        let room = (header.data_at - HEADER_LEN) / 4;
        let large = !header.extended && size / SECTOR > u32::MAX.into();
        if size < header.size || !size.is_multiple_of(SECTOR) || large || entries > room {
            return Err(Error::unsupported(
                self.path(),
                format!(
                    "cannot resize from {} to {size} bytes: a disk can only grow, by whole sectors, and this image's table up to {} bytes",
                    header.size,
                    room * header.cluster
                ),
            ));
        }
        if entries > header.entries.into() {
            // What is between table and data may be anything.
            let from = HEADER_LEN + 4 * u64::from(header.entries);
            let zeros = vec![0; (HEADER_LEN + 4 * entries - from) as usize];
            self.file.write(from, &zeros)?;
            self.file.sync()?;
            header.entries = entries as u32;
        }
        header.size = size;
        // Number of entries and size are in one sector, and nothing else changes.
        self.file.write(0, &header.encode())?;
        self.file.sync()?;
        self.table.resize(header.entries as usize, 0);
        self.header = header;
        progress.report(1, 1)
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        Err(Error::unsupported(
            self.path(),
            "Parallels images cannot be compacted",
        ))
    }

    fn check(&self) -> Result<CheckReport> {
        Ok(CheckReport {
            allocated: self.table.iter().filter(|unit| **unit != 0).count() as u64,
            ..CheckReport::default()
        })
    }
}

impl Drop for ParallelsImage {
    fn drop(&mut self) {
        // Entries that could not be written are lost; the rest is tidiness.
        if self.file.mode() == OpenMode::ReadWrite && self.settle().is_ok() && self.ready.is_some()
        {
            let _ = self.file.set_len(self.next);
        }
    }
}
