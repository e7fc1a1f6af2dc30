//! An open QCOW or QED file: reading, writing and the order in which things reach the file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

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
use crate::host::HostFile;
use crate::image::check_range;
use crate::zero::is_zero;

use super::counts::RefCounts;
use super::header::Dialect;
use super::header::Header;
use super::tables::Place;
use super::tables::Tables;

/// The file grows by this many clusters at a time, and by no more than so many bytes.
const GROW_CLUSTERS: u64 = 64;
const GROW_BYTES: u64 = 4 << 20;

/// Sectors of tables that wait in memory for a flush.
const PENDING: usize = 64;

pub(super) struct TableImage {
    file: HostFile,
    header: Header,
    tables: Tables,
    counts: Option<RefCounts>,
    /// File offset after everything in use; a number of clusters.
    next: u64,
    /// File offset up to which, from `next` on, everything is zero and counted, even after a power
    /// cut; `None` before the first allocation and after a failed one.
    ready: Option<u64>,
    /// Compressed bytes whose clusters lie elsewhere now, still counted.
    freed: Vec<(u64, u64)>,
    /// A write failed that decides what the file means: nothing more is written.
    broken: bool,
    /// The compressed cluster that was read last: its number and its bytes.
    unpacked: RefCell<Option<(u64, Vec<u8>)>>,
}

/// A part of one cluster, inside the disk.
#[derive(Clone, Copy)]
struct Part {
    cluster: u64,
    within: u64,
    len: u64,
}

fn parts(bits: u32, offset: u64, len: u64) -> impl Iterator<Item = Part> {
    let (end, size) = (offset + len, 1_u64 << bits);
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let part = Part {
                cluster: at >> bits,
                within: at % size,
                len: (size - at % size).min(end - at),
            };
            at += part.len;
            part
        })
    })
}

impl TableImage {
    pub(super) fn open(file: HostFile) -> Result<Self> {
        let header = Header::read(&file)?;
        if let (Some(why), OpenMode::ReadWrite) = (header.only_read, file.mode()) {
            return Err(Error::unsupported(
                file.path(),
                format!("this image can only be read: {why}"),
            ));
        }
        let tables = Tables::open(&file, &header)?;
        let counts = match header.counts {
            Some(place) => Some(RefCounts::open(&file, &header, place)?),
            None => None,
        };
        let mut this = Self {
            file,
            header,
            tables,
            counts,
            next: 0,
            ready: None,
            freed: Vec::new(),
            broken: false,
            unpacked: RefCell::new(None),
        };
        this.next = this.find_end()?;
        Ok(this)
    }

    /// Everything that is used once, sorted: offset and length.
    fn owned(&self) -> Vec<(u64, u64)> {
        let mut owned = self.tables.owned();
        owned.push((0, self.header.end));
        owned.push(self.header.name);
        owned.push((self.header.l1_at, 8 * self.header.l1_entries));
        owned.extend(self.counts.iter().flat_map(RefCounts::parts));
        owned.retain(|(_, len)| *len != 0);
        owned.sort_unstable();
        owned
    }

    /// The end of everything in use. In an image that is written nothing may lie on another thing.
    fn find_end(&self) -> Result<u64> {
        let owned = self.owned();
        let snapshots = self.header.only_read.is_some();
        for pair in owned.windows(2) {
            let [(at, len), (other, _)] = pair else { break };
            if at + len > *other && !snapshots {
                return Err(Error::corrupt(
                    self.file.path(),
                    self.format(),
                    *other,
                    format!("what is at {other:#x} lies on what is at {at:#x}"),
                ));
            }
        }
        let packed = self.tables.places().filter_map(|place| match place {
            Place::Packed(at, len) => Some((at, len)),
            _ => None,
        });
        let all = owned.iter().copied().chain(packed);
        let end = all.map(|(at, len)| at + len).max().unwrap_or(0);
        Ok(end.next_multiple_of(self.header.cluster()))
    }

    fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.file.path(), offset, len, self.header.size)
    }

    fn require_intact(&self) -> Result<()> {
        self.file.require_writable()?;
        if self.broken {
            return Err(Error::unsupported(
                self.file.path(),
                "writing its header failed, so nothing more is written: close the image and open it again",
            ));
        }
        Ok(())
    }

    fn is_child(&self) -> bool {
        self.header.parent.is_some()
    }

    /// Makes sure that `len` bytes from `next` on are in the file, hold zeros, are counted, and
    /// stay so after a power cut.
    fn reserve(&mut self, len: u64) -> Result<()> {
        if self.ready.is_some_and(|ready| self.next + len <= ready) {
            return Ok(());
        }
        let cluster = self.header.cluster();
        if self.ready.take().is_none() {
            // Whatever follows was left behind by a crash or a failed write.
            let end = self.file.len()?.next_multiple_of(cluster);
            if let Some(counts) = &self.counts {
                counts.clear(&self.file, self.next, end)?;
            }
            self.file.punch(self.next, end.saturating_sub(self.next))?;
        }
        let more = (GROW_CLUSTERS * cluster).min(GROW_BYTES).max(cluster);
        let wanted = (len + more).next_multiple_of(cluster);
        match &mut self.counts {
            None => {
                self.file.set_len(self.next + wanted)?;
                self.file.sync()?;
                self.ready = Some(self.next + wanted);
            }
            Some(counts) => {
                let bits = self.header.cluster_bits;
                let (from, wanted) = (self.next >> bits, wanted >> bits);
                let (next, ready) = counts.reserve(&self.file, from, wanted, &mut self.broken)?;
                self.next = next;
                self.ready = Some(ready);
            }
        }
        Ok(())
    }

    /// Gives `len` bytes a place at the end of the file and writes `data` at `within` of it.
    fn allocate(&mut self, len: u64, within: u64, data: &[u8]) -> Result<u64> {
        self.reserve(len)?;
        let at = self.next;
        if let Err(e) = self.file.write(at + within, data) {
            // No longer zero, and the next cluster to come here may be another.
            self.ready = None;
            return Err(e);
        }
        self.next += len.next_multiple_of(self.header.cluster());
        Ok(at)
    }

    fn require_table(&mut self, cluster: u64) -> Result<()> {
        if !self.tables.has_table(cluster) {
            let at = self.allocate(self.header.l2_len(), 0, &[])?;
            self.tables.add_table(cluster, at);
        }
        Ok(())
    }

    fn write_part(&mut self, part: Part, data: &[u8]) -> Result<()> {
        let cluster = self.header.cluster();
        let place = self.tables.place(part.cluster);
        let zero = is_zero(data);
        // The last cluster of the disk may reach beyond it.
        let start = part.cluster << self.header.cluster_bits;
        let whole = part.len == cluster.min(self.header.size - start);
        match place {
            Place::Data(at) => return self.file.write(at + part.within, data),
            Place::Zero(_) if zero => return Ok(()),
            Place::Absent if zero && !self.is_child() => return Ok(()),
            Place::Absent if self.is_child() && !whole => {
                return Err(Error::invalid(
                    self.file.path(),
                    "a cluster that the parent holds must be written whole",
                ));
            }
            Place::Absent if zero && self.header.dialect.has_zeros() => {
                self.require_table(part.cluster)?;
                self.tables.set(part.cluster, Place::Zero(None));
                return self.settle_if_due();
            }
            _ => {}
        }
        self.require_table(part.cluster)?;
        let at = match place {
            Place::Zero(Some(at)) => {
                self.file.punch(at, cluster)?;
                self.file.write(at + part.within, data)?;
                at
            }
            Place::Packed(..) if !whole => {
                let mut all = self.unpack(part.cluster, place)?;
                let from = part.within as usize;
                all[from..from + data.len()].copy_from_slice(data);
                self.allocate(cluster, 0, &all)?
            }
            // The rest of a new cluster is zero.
            _ => self.allocate(cluster, part.within, if zero { &[] } else { data })?,
        };
        if let Place::Packed(at, len) = place {
            self.freed.push((at, len));
        }
        self.tables.set(part.cluster, Place::Data(at));
        self.settle_if_due()
    }

    fn settle_if_due(&mut self) -> Result<()> {
        match self.tables.waiting() > PENDING {
            true => self.settle(),
            false => Ok(()),
        }
    }

    /// Writes the tables' entries that wait in memory, after what they lead to is on the disk.
    fn settle(&mut self) -> Result<()> {
        if self.tables.waiting() == 0 && self.freed.is_empty() {
            return Ok(());
        }
        self.file.sync()?;
        self.tables.write(&self.file, &self.header)?;
        if self.freed.is_empty() {
            return Ok(());
        }
        self.file.sync()?;
        for (at, len) in std::mem::take(&mut self.freed) {
            if let Some(counts) = &self.counts {
                counts.release(&self.file, at, len)?;
            }
        }
        Ok(())
    }

    /// The bytes of a compressed cluster.
    fn unpack(&self, cluster: u64, place: Place) -> Result<Vec<u8>> {
        let Place::Packed(at, len) = place else {
            return Ok(vec![0; self.header.cluster() as usize]);
        };
        if let Some((number, data)) = &*self.unpacked.borrow()
            && *number == cluster
        {
            return Ok(data.clone());
        }
        // The last sectors may be missing at the end of the file.
        let len = len.min(self.file.len()?.saturating_sub(at));
        let mut packed = vec![0; len as usize];
        self.file.read(at, &mut packed)?;
        let mut data = vec![0; self.header.cluster() as usize];
        let mut stream = flate2::Decompress::new(false);
        let done = stream.decompress(&packed, &mut data, flate2::FlushDecompress::Finish);
        // What follows the stream in its last sector belongs to another cluster.
        if done.is_err() || stream.total_out() != data.len() as u64 {
            return Err(Error::corrupt(
                self.file.path(),
                self.format(),
                at,
                format!("the compressed cluster {cluster} is damaged"),
            ));
        }
        *self.unpacked.borrow_mut() = Some((cluster, data.clone()));
        Ok(data)
    }

    /// Cuts unused space off the end of the file.
    fn trim(&mut self) -> Result<()> {
        let Some(ready) = self.ready.take() else {
            return Ok(());
        };
        if let Some(counts) = &self.counts {
            counts.clear(&self.file, self.next, ready)?;
        }
        self.file.set_len(self.next)
    }
}

impl Image for TableImage {
    fn format(&self) -> &'static str {
        self.header.dialect.name()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn mode(&self) -> OpenMode {
        self.file.mode()
    }

    fn variant(&self) -> Variant {
        super::variant(&self.header)
    }

    fn size(&self) -> u64 {
        self.header.size
    }

    fn block_size(&self) -> u32 {
        self.header.cluster() as u32
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.file.len()
    }

    fn meta(&self) -> Meta {
        Meta {
            parent: super::link(&self.header),
            ..Meta::default()
        }
    }

    fn parent_file(&self) -> Option<PathBuf> {
        let name = self.header.parent.as_ref()?;
        Some(self.path().parent()?.join(name))
    }

    fn set_meta(&mut self, meta: &Meta) -> Result<()> {
        if *meta == self.meta() {
            return Ok(());
        }
        Err(Error::unsupported(
            self.path(),
            format!(
                "a {} image has no place for UUIDs, comments or a geometry",
                self.format()
            ),
        ))
    }

    fn run_at(&self, offset: u64, len: u64) -> Result<Run> {
        self.check_range(offset, len)?;
        let mut run = Run {
            len: 0,
            state: RunState::Absent,
        };
        for part in parts(self.header.cluster_bits, offset, len) {
            let state = match self.tables.place(part.cluster) {
                Place::Absent => RunState::Absent,
                Place::Zero(_) => RunState::Zero,
                Place::Data(_) | Place::Packed(..) => RunState::Data,
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
        for part in parts(self.header.cluster_bits, offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at_mut(part.len as usize);
            buf = rest;
            let place = self.tables.place(part.cluster);
            match place {
                Place::Absent | Place::Zero(_) => piece.fill(0),
                // The last cluster of a file may be cut short.
                Place::Data(at) => self.file.read_padded(at + part.within, piece)?,
                Place::Packed(..) => {
                    let data = self.unpack(part.cluster, place)?;
                    piece.copy_from_slice(&data[part.within as usize..][..piece.len()]);
                }
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, mut buf: &[u8]) -> Result<()> {
        self.require_intact()?;
        self.check_range(offset, buf.len() as u64)?;
        *self.unpacked.borrow_mut() = None;
        for part in parts(self.header.cluster_bits, offset, buf.len() as u64) {
            let (piece, rest) = buf.split_at(part.len as usize);
            buf = rest;
            self.write_part(part, piece)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.file.mode() == OpenMode::ReadOnly {
            return Ok(());
        }
        self.require_intact()?;
        self.settle()?;
        self.file.sync()
    }

    fn discard(&mut self, offset: u64, len: u64) -> Result<()> {
        self.require_intact()?;
        self.check_range(offset, len)?;
        *self.unpacked.borrow_mut() = None;
        let zeros = vec![0; self.header.cluster().min(len) as usize];
        for part in parts(self.header.cluster_bits, offset, len) {
            match self.tables.place(part.cluster) {
                Place::Data(at) => self.file.punch(at + part.within, part.len)?,
                _ => self.write_part(part, &zeros[..part.len as usize])?,
            }
        }
        Ok(())
    }

    fn resize(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.require_intact()?;
        if size < self.header.size || !size.is_multiple_of(SECTOR) {
            return Err(Error::unsupported(
                self.path(),
                format!(
                    "cannot resize from {} to {size} bytes: a disk can only grow, by whole sectors",
                    self.header.size
                ),
            ));
        }
        self.settle()?;
        let mut header = self.header.clone();
        header.size = size;
        let entries = size.div_ceil(header.reach());
        let old = (header.l1_at, 8 * header.l1_entries);
        let moves = entries > header.l1_entries;
        if moves {
            // The size of the first table that the formats' readers still take.
            if header.dialect == Dialect::Qed || 8 * entries > 32 << 20 {
                return Err(Error::unsupported(
                    self.path(),
                    format!("an image with such clusters cannot have {size} bytes"),
                ));
            }
            header.l1_entries = entries;
            let raw = self.tables.larger_l1(entries);
            header.l1_at = self.allocate(raw.len() as u64, 0, &raw)?;
        }
        self.file.sync()?;
        let written = header.write_tables(&self.file);
        let written = written.and_then(|()| self.file.sync());
        self.broken |= written.is_err();
        written?;
        self.header = header;
        if moves {
            self.tables.grow(entries);
            if let Some(counts) = &self.counts {
                counts.release(&self.file, old.0, old.1)?;
            }
        }
        progress.report(1, 1)
    }

    fn compact(&mut self, _progress: &mut Progress<'_>) -> Result<()> {
        self.file.require_writable()?;
        Err(Error::unsupported(
            self.path(),
            format!("{} images cannot be compacted", self.format()),
        ))
    }

    fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let (mut used, bits) = (BTreeMap::new(), self.header.cluster_bits);
        let mut count = |at: u64, len: u64| {
            for cluster in at >> bits..=(at + len.max(1) - 1) >> bits {
                *used.entry(cluster).or_insert(0) += 1;
            }
        };
        for place in self.tables.places() {
            report.allocated += u64::from(matches!(place, Place::Data(_) | Place::Packed(..)));
            if let Place::Packed(at, len) = place {
                count(at, len);
            }
        }
        let Some(counts) = self
            .counts
            .as_ref()
            .filter(|_| self.header.only_read.is_none())
        else {
            return Ok(report);
        };
        self.owned().iter().for_each(|(at, len)| count(*at, *len));
        self.freed.iter().for_each(|(at, len)| count(*at, *len));
        if let Some(ready) = self.ready.filter(|ready| *ready > self.next) {
            count(self.next, ready - self.next);
        }
        let (low, high) = counts.compare(&self.file, &used)?;
        if low > 0 {
            report
                .errors
                .push(format!("{low} clusters are used more often than counted"));
        }
        if high > 0 {
            report
                .notes
                .push(format!("{high} clusters are counted more often than used"));
        }
        Ok(report)
    }
}

impl Drop for TableImage {
    fn drop(&mut self) {
        if self.broken || self.file.mode() == OpenMode::ReadOnly {
            return;
        }
        // What was not flushed may be lost, but need not be; the rest is tidiness.
        if self.settle().is_ok() {
            let _ = self.trim();
        }
    }
}
