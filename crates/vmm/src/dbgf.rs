//! DBGF: looking at a machine: information by name, registers, memory, statistics.

use std::fmt::Write;

use cpu::{Bus, Seg, State, attr};

use crate::machine::Machine;
use crate::{Error, Vm};

/// Longest piece of memory given at once.
const MAX_READ: usize = 16 << 20;

impl Vm {
    /// What `debugvm info NAME ARGS` prints: a device's CFGM name (with instance, `serial1`, where
    /// there are several) or one of `help`, `cfgm`, `ioport`, `mem`, `pci`, `timers`, `clocks`,
    /// `cpum`, `cpuid`.
    ///
    /// # Errors
    /// [`Error::NoInfo`] for other names.
    pub fn info(&self, name: &str, args: &str) -> Result<String, Error> {
        let machine = self.machine();
        let mut out = String::new();
        let written = match name {
            "help" => help(machine, &mut out),
            "cfgm" => machine.config.dump(&mut out, 0),
            "ioport" => ports(machine, &mut out),
            "mem" => memory_map(machine, &mut out),
            "pci" => pci(machine, &mut out),
            "timers" => timers(machine, &mut out),
            "clocks" => clocks(machine, &mut out),
            "cpuid" => cpuid(machine, &mut out),
            "cpum" => {
                let cpu = args.trim().parse().unwrap_or(0);
                out = registers_text(&*self.registers(cpu)?);
                Ok(())
            }
            _ => device(machine, name, args, &mut out)
                .ok_or_else(|| Error::NoInfo(name.to_owned()))?,
        };
        // Writing into a String does not fail.
        let _ = written;
        Ok(out)
    }

    /// The registers of a vCPU, which is held for the moment.
    ///
    /// # Errors
    /// [`Error::NoInfo`] for a vCPU that is not there.
    pub fn registers(&self, cpu: usize) -> Result<Box<State>, Error> {
        self.held(move |held| held.vcpus.get(cpu).map(|v| v.inner.lock().state.clone()))?
            .ok_or_else(|| Error::NoInfo(format!("cpu{cpu}")))
    }

    /// Guest-physical memory, registers of devices excepted (all ones there).
    pub fn read_memory(&self, gpa: u64, len: usize) -> Vec<u8> {
        let phys = &self.machine().phys;
        let mut data = vec![0xff; len.min(MAX_READ)];
        let mut done = 0;
        while done < data.len() {
            let at = gpa.wrapping_add(done as u64);
            let step = (pgm::PAGE_SIZE - at % pgm::PAGE_SIZE) as usize;
            let end = (done + step).min(data.len());
            if let pgm::Target::Ram(offset) = phys.lookup(at).read {
                phys.ram().read(offset, &mut data[done..end]);
            }
            done = end;
        }
        data
    }

    /// Raises an NMI on a vCPU. False: no such vCPU.
    pub fn inject_nmi(&self, cpu: usize) -> bool {
        let signals = self.machine().trpm.cpus.signals.get(cpu);
        signals.inspect(|s| s.raise(cpu::signal::NMI)).is_some()
    }

    /// Virtual nanoseconds since power-on, pauses not counted.
    pub fn uptime_ns(&self) -> u64 {
        self.machine().tm.now()
    }

    /// Counters of all engines by name.
    ///
    /// # Errors
    /// [`Error::Ended`] after the end.
    pub fn statistics(&self) -> Result<Vec<(String, u64)>, Error> {
        self.held(|held| {
            let mut all = Vec::new();
            for vcpu in held.vcpus {
                if let Some(engine) = &vcpu.inner.lock().engine {
                    all.extend(engine.statistics());
                }
            }
            all
        })
    }

    /// The engine that runs vCPU 0, `REM` or `HWACCM`; empty before the first run.
    ///
    /// # Errors
    /// [`Error::Ended`] after the end.
    pub fn engine_name(&self) -> Result<&'static str, Error> {
        self.held(|held| {
            held.vcpus
                .first()
                .and_then(|v| v.inner.lock().engine.as_ref().map(|e| e.name()))
                .unwrap_or("")
        })
    }
}

fn help(machine: &Machine, out: &mut String) -> std::fmt::Result {
    for name in [
        "cfgm", "clocks", "cpuid", "cpum", "ioport", "mem", "pci", "timers",
    ] {
        writeln!(out, "{name}")?;
    }
    for slot in &machine.slots {
        writeln!(
            out,
            "{}{}  {}",
            slot.reg.name, slot.instance, slot.reg.description
        )?;
    }
    Ok(())
}

fn device(machine: &Machine, name: &str, args: &str, out: &mut String) -> Option<std::fmt::Result> {
    let slot = machine
        .slots
        .iter()
        .find(|s| s.reg.name == name || format!("{}{}", s.reg.name, s.instance) == name)?;
    slot.with(|d| d.info(args, out))
}

fn ports(machine: &Machine, out: &mut String) -> std::fmt::Result {
    for (first, count, device) in machine.ports.list() {
        let last = u32::from(first) + u32::from(count) - 1;
        let name = machine.slots.get(device).map_or("", |s| s.reg.name);
        writeln!(out, "{first:04x}-{last:04x}  {name}")?;
    }
    Ok(())
}

fn memory_map(machine: &Machine, out: &mut String) -> std::fmt::Result {
    for (gpa, offset, size, writable) in machine.phys.memory_pieces() {
        let kind = if writable { "RAM" } else { "ROM" };
        let last = gpa + size - 1;
        writeln!(out, "{gpa:016x}-{last:016x}  {kind} at {offset:#x}")?;
    }
    Ok(())
}

fn pci(machine: &Machine, out: &mut String) -> std::fmt::Result {
    for (devfn, c) in machine.pci.functions() {
        let word = |at: usize| u16::from_le_bytes([c[at], c[at + 1]]);
        writeln!(
            out,
            "00:{:02x}.{}  {:04x}:{:04x} class {:02x}{:02x}{:02x} command {:04x} line {}",
            devfn >> 3,
            devfn & 7,
            word(0),
            word(2),
            c[11],
            c[10],
            c[9],
            word(4),
            c[0x3c]
        )?;
    }
    Ok(())
}

fn timers(machine: &Machine, out: &mut String) -> std::fmt::Result {
    writeln!(out, "now {}", machine.tm.now())?;
    for (name, device, deadline) in machine.tm.list() {
        let owner = machine.slots.get(device).map_or("", |s| s.reg.name);
        match deadline {
            Some(at) => writeln!(out, "{owner}/{name}: {at}")?,
            None => writeln!(out, "{owner}/{name}: stopped")?,
        }
    }
    Ok(())
}

fn clocks(machine: &Machine, out: &mut String) -> std::fmt::Result {
    let tm = &machine.tm;
    writeln!(out, "virtual {} ns", tm.now())?;
    writeln!(out, "wall    {} ns", tm.wall_ns())?;
    writeln!(out, "tsc     {} at {} Hz", tm.tsc(), tm.tsc_hz())?;
    match tm.tsc_delta() {
        Some(delta) => writeln!(out, "        host + {delta:#x}"),
        None => writeln!(out, "        computed from the virtual clock"),
    }
}

fn cpuid(machine: &Machine, out: &mut String) -> std::fmt::Result {
    for base in [0, 0x4000_0000, 0x8000_0000u32] {
        let last = machine.cpuid(0, base, 0)[0].clamp(base, base + 0x20);
        for leaf in base..=last {
            let [a, b, c, d] = machine.cpuid(0, leaf, 0);
            writeln!(out, "{leaf:08x}: {a:08x} {b:08x} {c:08x} {d:08x}")?;
        }
    }
    Ok(())
}

/// Registers as text.
fn registers_text(s: &State) -> String {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let mut out = String::new();
    for (i, (name, value)) in NAMES.iter().zip(s.gpr).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { " " };
        let _ = write!(out, "{name:>3}={value:016x}{end}");
    }
    let _ = writeln!(
        out,
        "rip={:016x} rflags={:08x} {:?}{}",
        s.rip,
        s.rflags,
        s.run,
        if s.shadow { " shadow" } else { "" }
    );
    for (name, seg) in [
        ("es", Seg::Es),
        ("cs", Seg::Cs),
        ("ss", Seg::Ss),
        ("ds", Seg::Ds),
        ("fs", Seg::Fs),
        ("gs", Seg::Gs),
    ] {
        let r = &s.seg[seg as usize];
        let _ = writeln!(
            out,
            "{name}={:04x} base={:016x} limit={:08x} attr={:05x}{}",
            r.sel,
            r.base,
            r.limit,
            r.attr,
            if r.attr & attr::UNUSABLE != 0 {
                " null"
            } else {
                ""
            }
        );
    }
    for (name, r) in [("ldtr", &s.ldtr), ("tr", &s.tr)] {
        let _ = writeln!(
            out,
            "{name}={:04x} base={:016x} limit={:08x} attr={:05x}",
            r.sel, r.base, r.limit, r.attr
        );
    }
    let _ = writeln!(
        out,
        "gdtr={:016x}:{:04x} idtr={:016x}:{:04x}",
        s.gdtr.base, s.gdtr.limit, s.idtr.base, s.idtr.limit
    );
    let _ = writeln!(
        out,
        "cr0={:08x} cr2={:016x} cr3={:016x} cr4={:08x} efer={:x} xcr0={:x}",
        s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.xcr0
    );
    let _ = writeln!(
        out,
        "dr0={:x} dr1={:x} dr2={:x} dr3={:x} dr6={:x} dr7={:x}",
        s.dr[0], s.dr[1], s.dr[2], s.dr[3], s.dr[6], s.dr[7]
    );
    out
}
