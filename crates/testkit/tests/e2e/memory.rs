//! What the memory of a machine's process is used for.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;

/// The memory of a process, in MiB, each page counted once.
pub struct Memory {
    pub guest: f64,
    pub code: f64,
    /// What is neither guest RAM nor translated code.
    pub own: f64,
}

impl Memory {
    pub fn read(process: Pid) -> Result<Memory> {
        let path = format!("/proc/{}/smaps", process.as_raw_nonzero());
        let text = fs::read_to_string(&path).with_context(|| path)?;
        let (mut guest, mut code, mut own) = (0.0, 0.0, 0.0);
        let mut mapping = "";
        for line in text.lines() {
            if let Some(size) = line.strip_prefix("Pss:") {
                let kib: f64 = size.trim().trim_end_matches(" kB").parse()?;
                let class = match mapping {
                    m if m.contains("oxbox-guest-ram") => &mut guest,
                    // The code cache is the only memory to write and to execute.
                    m if m.contains("oxbox-code") || m.contains(" rwxp ") => &mut code,
                    _ => &mut own,
                };
                *class += kib / 1024.0;
            } else if !line.starts_with(|first: char| first.is_ascii_uppercase()) {
                // The names of a mapping's figures are capitalised, its first line is an address.
                mapping = line;
            }
        }
        ensure!(guest > 0.0, "no guest RAM among the mappings");
        Ok(Memory { guest, code, own })
    }

    /// What the machine takes besides guest RAM.
    pub fn added(&self) -> f64 {
        self.code + self.own
    }
}
