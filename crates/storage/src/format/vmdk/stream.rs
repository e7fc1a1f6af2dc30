//! Writing a stream-optimised extent: compressed grains in rising order, and at the end the
//! tables, the directory and a footer that says where they are.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::Error;
use crate::Result;
use crate::SECTOR;
use crate::bytes::put;
use crate::zero::is_zero;

use super::sparse::SparseExtent;

const MARKER_END: u32 = 0;
const MARKER_TABLE: u32 = 1;
const MARKER_DIRECTORY: u32 = 2;
const MARKER_FOOTER: u32 = 3;

/// The grain that is being collected.
#[derive(Default)]
pub(super) struct Stream {
    grain: u64,
    /// Empty before the first byte.
    data: Vec<u8>,
}

impl Stream {
    /// The bytes of a grain that is not in the file yet.
    pub(super) fn data_of(&self, grain: u64) -> Option<&[u8]> {
        (grain == self.grain && !self.data.is_empty()).then_some(self.data.as_slice())
    }
}

/// A sector that announces metadata of some sectors.
fn marker(kind: u32, sectors: u64) -> [u8; SECTOR as usize] {
    let mut raw = [0; SECTOR as usize];
    put(&mut raw, 0, &sectors.to_le_bytes());
    put(&mut raw, 12, &kind.to_le_bytes());
    raw
}

impl SparseExtent {
    /// Takes bytes of the current grain or of a later one.
    pub(super) fn write_stream(&mut self, mut offset: u64, mut buf: &[u8]) -> Result<()> {
        let size = self.header.grain;
        while !buf.is_empty() {
            let (grain, within) = (offset / size, offset % size);
            let len = (size - within).min(buf.len() as u64);
            let (piece, rest) = buf.split_at(len as usize);
            let current = self.stream.as_ref().map_or(0, |stream| stream.grain);
            if grain < current {
                return Err(Error::unsupported(
                    self.file.path(),
                    "a stream-optimised image is written once, from start to end",
                ));
            }
            if grain > current {
                self.put_grain()?;
            }
            if let Some(stream) = &mut self.stream {
                stream.grain = grain;
                stream.data.resize(size as usize, 0);
                stream.data[within as usize..][..piece.len()].copy_from_slice(piece);
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    fn append(&mut self, data: &[u8]) -> Result<u32> {
        let sector = u32::try_from(self.next / SECTOR)
            .map_err(|_| Error::unsupported(self.file.path(), "the image is full"))?;
        self.file.write(self.next, data)?;
        self.next = (self.next + data.len() as u64).next_multiple_of(SECTOR);
        Ok(sector)
    }

    /// Compresses and writes the collected grain, unless it is zero.
    fn put_grain(&mut self) -> Result<()> {
        let Some(Stream { grain, data }) = &self.stream else {
            return Ok(());
        };
        let grain = *grain;
        if !data.is_empty() && !is_zero(data) {
            let start = grain * (self.header.grain / SECTOR);
            let mut raw = start.to_le_bytes().to_vec();
            raw.extend([0; 4]);
            let mut encoder = ZlibEncoder::new(raw, Compression::default());
            let packed = encoder.write_all(data).and_then(|()| encoder.finish());
            let mut raw =
                packed.map_err(|e| Error::host(self.file.path(), "compress", self.next, e))?;
            let len = (raw.len() - 12) as u32;
            put(&mut raw, 8, &len.to_le_bytes());
            raw.resize(raw.len().next_multiple_of(SECTOR as usize), 0);
            let sector = self.append(&raw)?;
            let per_table = u64::from(self.header.per_table);
            if let Some(table) = self.tables.get_mut((grain / per_table) as usize) {
                let table = table.get_or_insert_with(|| vec![0; per_table as usize]);
                table[(grain % per_table) as usize] = sector;
            }
        }
        if let Some(stream) = &mut self.stream {
            stream.data.clear();
        }
        Ok(())
    }

    /// Writes what a reader finds the grains by. After this, the image is never written again.
    pub(super) fn finish_stream(&mut self) -> Result<()> {
        if self.stream.is_none() {
            return Ok(());
        }
        self.put_grain()?;
        let begin = self.next;
        let written = self.put_metadata();
        if written.is_err() {
            // Written over when the call is repeated.
            self.next = begin;
            return written;
        }
        self.file.sync()?;
        self.stream = None;
        Ok(())
    }

    fn put_metadata(&mut self) -> Result<()> {
        let mut directory: Vec<u8> = Vec::new();
        for index in 0..self.tables.len() {
            let Some(table) = &self.tables[index] else {
                directory.extend([0; 4]);
                continue;
            };
            let raw: Vec<u8> = table.iter().flat_map(|e| e.to_le_bytes()).collect();
            self.append(&marker(MARKER_TABLE, self.header.table_sectors()))?;
            let sector = self.append(&raw)?;
            directory.extend(sector.to_le_bytes());
        }
        directory.resize(directory.len().next_multiple_of(SECTOR as usize), 0);
        let sectors = directory.len() as u64 / SECTOR;
        self.append(&marker(MARKER_DIRECTORY, sectors))?;
        let mut footer = self.header.clone();
        footer.directory_at = self.append(&directory)?.into();
        self.append(&marker(MARKER_FOOTER, 1))?;
        self.append(&footer.encode())?;
        self.append(&marker(MARKER_END, 0))?;
        Ok(())
    }
}
