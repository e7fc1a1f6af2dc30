//! Growing. A table without room for the new blocks gets a new place at the end of the file; one
//! sector of the header then switches to it.

use crate::Error;
use crate::Progress;
use crate::Result;
use crate::SECTOR;

use super::footer::FOOTER_LEN;
use super::footer::FREE;
use super::footer::Footer;
use super::image::VhdImage;
use super::image::write_table;

impl VhdImage {
    pub(super) fn grow(&mut self, size: u64, progress: &mut Progress<'_>) -> Result<()> {
        self.require_intact()?;
        if size < self.footer.size {
            return Err(Error::unsupported(
                self.file.path(),
                format!(
                    "cannot resize from {} to {size} bytes: a disk can only grow",
                    self.footer.size
                ),
            ));
        }
        let footer = self.footer.with_size(self.file.path(), size)?;
        if size == self.footer.size {
            return progress.report(1, 1);
        }
        self.settle()?;
        match self.blocks.is_some() {
            true => self.grow_table(size)?,
            false => self.grow_data(&footer)?,
        }
        self.put_footer(footer)?;
        progress.report(1, 1)
    }

    /// A fixed image: the new footer is there before the old one becomes data, and is taken back
    /// when there is no room for the data.
    fn grow_data(&mut self, footer: &Footer) -> Result<()> {
        let old = self.footer.size;
        self.file.write(footer.size, &footer.encode())?;
        self.file.sync()?;
        // The old footer may reach into the new one, which is written again after this.
        let end = (old + FOOTER_LEN as u64).min(footer.size);
        let room = self
            .file
            .allocate(old, footer.size - old)
            .and_then(|()| self.file.zero_kept(old, end - old));
        if room.is_err() {
            self.file.write(old, &self.footer.encode())?;
            self.file.sync()?;
            self.file.set_len(old + FOOTER_LEN as u64)?;
        }
        room
    }

    fn grow_table(&mut self, size: u64) -> Result<()> {
        let Some(blocks) = &mut self.blocks else {
            return Ok(());
        };
        let needed = size.div_ceil(blocks.header.block_size);
        let needed = u32::try_from(needed)
            .map_err(|_| Error::unsupported(self.file.path(), "the disk has too many blocks"))?;
        if needed <= blocks.header.entries {
            return Ok(());
        }
        let mut header = blocks.header.clone();
        header.entries = needed;
        let mut table = blocks.table.clone();
        table.resize(needed as usize, FREE);
        let raw = |from: usize| -> Vec<u8> {
            let entries = table.get(from..).unwrap_or_default();
            let mut raw: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
            let end = (4 * from + raw.len()).next_multiple_of(SECTOR as usize) - 4 * from;
            raw.resize(end, u8::MAX);
            raw
        };
        if header.table_len() == blocks.header.table_len() {
            let old = blocks.table.len();
            write_table(&self.file, header.table_at + 4 * old as u64, &raw(old))?;
        } else {
            blocks.reserve(&self.file, &self.footer, header.table_len())?;
            header.table_at = blocks.next;
            // Taken even if the switch fails: the file may then have either table.
            blocks.next += header.table_len();
            write_table(&self.file, header.table_at, &raw(0))?;
        }
        self.file.sync()?;
        let written = header.write(&self.file, self.footer.header_at);
        self.broken |= written.is_err();
        written?;
        blocks.header = header;
        blocks.table = table;
        Ok(())
    }
}
