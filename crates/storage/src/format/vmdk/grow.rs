//! Growing, of base images only: the last extent grows first, then a split image gets more of them,
//! and the descriptor tells of it last.
//!
//! In a sparse extent new grain tables and directories get a place at the end of the file; the
//! header, one sector, then switches to them.

use std::path::PathBuf;

use crate::Error;
use crate::Layout;
use crate::Progress;
use crate::Result;
use crate::SECTOR;
use crate::bytes::put;
use crate::host::sync_folder_of;

use super::create::PART;
use super::create::Style;
use super::create::new_extent;
use super::create::part_name;
use super::create::plain_name;
use super::header::CAPACITY_AT;
use super::header::DIRECTORY_AT;
use super::header::GRAIN;
use super::header::HEADER_LEN;
use super::header::MAX_SPARSE;
use super::header::MAX_TABLES;
use super::header::REDUNDANT_AT;
use super::image::Extent;
use super::image::Kind;
use super::image::VmdkImage;
use super::sparse::Place;
use super::sparse::SparseExtent;

impl VmdkImage {
    pub(super) fn grow(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.require_writable()?;
        let old = self.total();
        let refuse = |why: &str| {
            Err(Error::unsupported(
                &self.path,
                format!("cannot resize from {old} to {size} bytes: {why}"),
            ))
        };
        if size < old || !size.is_multiple_of(SECTOR) || size / SECTOR > 1 << 41 {
            return refuse("a disk can only grow, by whole sectors");
        }
        if size == old {
            return progress.report(1, 1);
        }
        if self.is_child() {
            return refuse("differencing VMDK images keep their size");
        }
        if matches!(self.layout, Layout::RawDisk | Layout::StreamOptimized) {
            return refuse("VMDK images of this kind keep their size: clone it first");
        }
        let mut made = Vec::new();
        let grown = self.grow_extents(size, &mut made);
        if grown.is_err() {
            for file in made {
                // The first error is the one to report.
                let _ = std::fs::remove_file(file);
            }
        }
        grown?;
        progress.report(1, 1)
    }

    fn grow_extents(&mut self, size: u64, made: &mut Vec<PathBuf>) -> Result<()> {
        let name = plain_name(&self.path)?;
        let refused = self.read_only_extent();
        self.announce()?;
        let mut descriptor = self.descriptor.clone();
        let (mut start, sectors) = (self.total(), size / SECTOR);
        let count = self.extents.len();
        let Some(last) = self.extents.last_mut().filter(|e| e.writable) else {
            return Err(refused);
        };
        let limit = match self.layout {
            Layout::Split2G => PART,
            _ => u64::MAX,
        };
        let used = last.len / SECTOR;
        let wanted = limit.max(used).min(sectors - last.start / SECTOR);
        let style = match &mut last.kind {
            Kind::Sparse(sparse) => {
                sparse.grow(wanted)?;
                Style::Sparse
            }
            Kind::Flat(file, 0) => {
                // A growth that did not come to its end may have left something behind.
                file.set_len(last.len)?;
                if wanted > used {
                    file.allocate(last.len, (wanted - used) * SECTOR)?;
                }
                file.sync()?;
                Style::Flat
            }
            Kind::Flat(..) | Kind::Zero => return Err(refused),
        };
        descriptor.resize_last_extent(wanted);
        let last_len = wanted * SECTOR;
        start += last_len - last.len;
        let mut added = Vec::new();
        while start < size {
            let number = count + added.len() + 1;
            let len = PART.min((size - start) / SECTOR);
            let part = part_name(&name, style, number);
            let (file, line) = new_extent(&self.path, &part, style, len, made, |_| Ok(()))?;
            descriptor.add_extent(line);
            let len = len * SECTOR;
            added.push(Extent {
                start,
                len,
                writable: true,
                kind: match style {
                    Style::Sparse => Kind::Sparse(Box::new(SparseExtent::open(file)?)),
                    Style::Flat | Style::Esx => Kind::Flat(file, 0),
                },
            });
            start += len;
        }
        if !added.is_empty() {
            sync_folder_of(&self.path)?;
        }
        self.put_descriptor(descriptor)?;
        if let Some(last) = self.extents.last_mut() {
            last.len = last_len;
        }
        self.extents.append(&mut added);
        Ok(())
    }
}

impl SparseExtent {
    /// Makes room for more sectors; how many of them are used is up to the descriptor. Nothing is
    /// changed when this fails, but for grains that moved.
    pub(super) fn grow(&mut self, sectors: u64) -> Result<()> {
        // A growth that was interrupted before the descriptor said so.
        if sectors <= self.header.capacity {
            return Ok(());
        }
        self.require_uncompressed()?;
        let mut header = self.header.clone();
        header.capacity = sectors;
        if sectors > MAX_SPARSE || header.tables() > MAX_TABLES || self.directory.contains(&0) {
            return Err(Error::unsupported(
                self.file.path(),
                format!("an extent like this cannot grow to {sectors} sectors"),
            ));
        }
        self.mark_unclean()?;
        self.settle(true)?;
        self.move_last_grain()?;
        let new = header.tables() - self.header.tables();
        let (mut directory, mut redundant) = (self.directory.clone(), self.redundant.clone());
        let mut end = self.next;
        if new > 0 {
            self.tail = None;
            self.file.set_len(self.next)?;
            if let Some(redundant) = &mut redundant {
                header.redundant_at = end / SECTOR;
                end = self.plan(redundant, end, header.tables())?;
            }
            header.directory_at = end / SECTOR;
            end = self.plan(&mut directory, end, header.tables())?;
            end = end.next_multiple_of(GRAIN);
            self.file.set_len(end)?;
            for (at, entries) in redundant
                .iter()
                .map(|r| (header.redundant_at, r))
                .chain([(header.directory_at, &directory)])
            {
                let raw: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
                self.file.write(at * SECTOR, &raw)?;
            }
            self.file.sync()?;
        }
        let mut raw = [0; HEADER_LEN];
        self.file.read(0, &mut raw)?;
        put(&mut raw, CAPACITY_AT, &header.capacity.to_le_bytes());
        put(&mut raw, REDUNDANT_AT, &header.redundant_at.to_le_bytes());
        put(&mut raw, DIRECTORY_AT, &header.directory_at.to_le_bytes());
        self.file.write(0, &raw)?;
        self.file.sync()?;
        self.tables
            .resize(directory.len(), Some(vec![0; header.per_table as usize]));
        (self.directory, self.redundant) = (directory, redundant);
        (self.header, self.next) = (header, end);
        Ok(())
    }

    /// Adds to a directory, which moves to `at`, the places of tables that lie behind it. Returns
    /// where those end.
    fn plan(&self, directory: &mut Vec<u32>, at: u64, tables: u64) -> Result<u64> {
        let mut end = at + (4 * tables).next_multiple_of(SECTOR);
        for _ in directory.len() as u64..tables {
            let sector = u32::try_from(end / SECTOR)
                .map_err(|_| Error::unsupported(self.file.path(), "the image is full"))?;
            directory.push(sector);
            end += self.header.table_sectors() * SECTOR;
        }
        Ok(end)
    }

    /// Other programs may have put something behind a last grain that is not whole: it gets a place
    /// of its own, where the rest is zero.
    fn move_last_grain(&mut self) -> Result<()> {
        let len = self.header.capacity * SECTOR;
        let (grain, used) = (len / self.header.grain, len % self.header.grain);
        let Place::At(at) = self.place(grain) else {
            return Ok(());
        };
        if used == 0 {
            return Ok(());
        }
        let mut data = vec![0; used as usize];
        self.file.read(at, &mut data)?;
        self.allocate(grain, 0, &data)?;
        self.settle(true)
    }
}
