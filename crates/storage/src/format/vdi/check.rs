//! Contradictions that an image can be opened with.

use crate::CheckReport;
use crate::Result;

use super::header::ZERO;
use super::image::VdiImage;

impl VdiImage {
    /// Opening has already refused bad offsets, entries outside the file and shared slots.
    pub(super) fn examine(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let allocated = self.map.iter().filter(|slot| **slot < ZERO).count() as u64;
        report.allocated = allocated;
        if u64::from(self.next) != allocated {
            report.notes.push(format!(
                "{} slots up to the last one in use are unused",
                u64::from(self.next) - allocated
            ));
        }
        match self.header.allocated {
            count if count > self.next => report.notes.push(format!(
                "the header counts {count} slots, {} are in use",
                self.next
            )),
            // A program that trusts the count would write over the last blocks.
            count if count < self.next => report.errors.push(format!(
                "the header counts {count} slots, {} are in use",
                self.next
            )),
            _ => {}
        }
        let end = self.header.slot_at(self.next.into());
        let len = self.file.len()?;
        if len > end {
            report
                .notes
                .push(format!("{} bytes after the last block", len - end));
        }
        Ok(report)
    }
}
