//! `IMachineDebugger`.

use std::fmt::Write;
use std::sync::Arc;

use api::types::{ResultCode, VMExecutionEngine};
use api::{Call, Error, Result, server};
use cpu::State;

use super::{Core, vm_error};

pub struct DebuggerObject(pub Arc<Core>);

/// Longest piece of memory given at once.
const MAX_READ: u32 = 16 << 20;

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEG: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// Names and values of the registers that debuggers ask for.
fn registers(s: &State) -> Vec<(String, String)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    let mut add = |name: &str, value: u64| all.push((name.to_owned(), value));
    for (name, value) in GPR.iter().zip(s.gpr) {
        add(name, value);
    }
    add("rip", s.rip);
    add("rflags", s.rflags);
    for (name, seg) in SEG.iter().zip(&s.seg) {
        add(name, seg.sel.into());
        add(&format!("{name}_base"), seg.base);
        add(&format!("{name}_lim"), seg.limit.into());
        add(&format!("{name}_attr"), seg.attr.into());
    }
    for (name, seg) in [("ldtr", &s.ldtr), ("tr", &s.tr)] {
        add(name, seg.sel.into());
        add(&format!("{name}_base"), seg.base);
    }
    add("gdtr_base", s.gdtr.base);
    add("gdtr_lim", s.gdtr.limit.into());
    add("idtr_base", s.idtr.base);
    add("idtr_lim", s.idtr.limit.into());
    for (name, value) in [
        ("cr0", s.cr0),
        ("cr2", s.cr2),
        ("cr3", s.cr3),
        ("cr4", s.cr4),
        ("efer", s.efer),
        ("dr6", s.dr[6]),
        ("dr7", s.dr[7]),
    ] {
        add(name, value);
    }
    let text = |(name, value)| (name, format!("0x{value:016x}"));
    all.into_iter().map(text).collect()
}

impl DebuggerObject {
    fn registers(&self, cpu: u32) -> Result<Vec<(String, String)>> {
        let state = self.0.vm()?.registers(cpu as usize).map_err(vm_error)?;
        Ok(registers(&state))
    }
}

impl server::IMachineDebugger for DebuggerObject {
    fn execution_engine(&self, _: &Call) -> Result<VMExecutionEngine> {
        Ok(match self.0.vm()?.engine_name().map_err(vm_error)? {
            "HWACCM" => VMExecutionEngine::HwVirt,
            "REM" => VMExecutionEngine::Emulated,
            _ => VMExecutionEngine::NotSet,
        })
    }
    fn uptime(&self, _: &Call) -> Result<i64> {
        let ms = self.0.vm()?.uptime_ns() / 1_000_000;
        Ok(i64::try_from(ms).unwrap_or(i64::MAX))
    }
    fn os_name(&self, _: &Call) -> Result<String> {
        Ok(String::new())
    }
    fn os_version(&self, _: &Call) -> Result<String> {
        Ok(String::new())
    }
    fn info(&self, _: &Call, name: String, args: String) -> Result<String> {
        self.0.vm()?.info(&name, &args).map_err(vm_error)
    }
    fn inject_nmi(&self, _: &Call) -> Result<()> {
        self.0.vm()?.inject_nmi(0);
        Ok(())
    }
    fn read_physical_memory(&self, _: &Call, address: i64, size: u32) -> Result<Vec<u8>> {
        if size > MAX_READ {
            return Err(Error::new(
                ResultCode::E_INVALIDARG,
                format!("At most {MAX_READ} bytes are read at once"),
            ));
        }
        let vm = self.0.vm()?;
        Ok(vm.read_memory(address.cast_unsigned(), size as usize))
    }
    fn get_register(&self, _: &Call, cpu_id: u32, name: String) -> Result<String> {
        let wanted = name.to_lowercase();
        let all = self.registers(cpu_id)?;
        let found = all.into_iter().find(|(n, _)| *n == wanted);
        found.map(|(_, value)| value).ok_or_else(|| {
            Error::new(
                ResultCode::VBOX_E_OBJECT_NOT_FOUND,
                format!("Register '{name}' not found"),
            )
        })
    }
    fn get_registers(&self, _: &Call, cpu_id: u32) -> Result<(Vec<String>, Vec<String>)> {
        Ok(self.registers(cpu_id)?.into_iter().unzip())
    }
    fn get_stats(&self, _: &Call, pattern: String, _: bool) -> Result<String> {
        let all = self.0.vm()?.statistics().map_err(vm_error)?;
        Ok(statistics(&all, &pattern))
    }
    fn dump_stats(&self, _: &Call, pattern: String) -> Result<()> {
        let all = self.0.vm()?.statistics().map_err(vm_error)?;
        for (name, value) in all.iter().filter(|(n, _)| matches(&pattern, n)) {
            tracing::info!(target: "STAM", "{name} {value}");
        }
        Ok(())
    }
}
api::object!(DebuggerObject: IMachineDebugger);

/// Counters as XML, as VirtualBox gives them.
fn statistics(all: &[(String, u64)], pattern: &str) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"no\"?>\n");
    out.push_str("<Statistics>\n");
    for (name, value) in all.iter().filter(|(n, _)| matches(pattern, n)) {
        let slash = if name.starts_with('/') { "" } else { "/" };
        let _ = writeln!(out, "<Counter c=\"{value}\" name=\"{slash}{name}\"/>");
    }
    out.push_str("</Statistics>\n");
    out
}

/// Patterns separated by `|`, with `*` for any text; empty means all.
fn matches(pattern: &str, name: &str) -> bool {
    let name = name.trim_start_matches('/');
    pattern.is_empty()
        || pattern
            .split('|')
            .any(|p| wild(p.trim_start_matches('/').as_bytes(), name.as_bytes()))
}

fn wild(pattern: &[u8], text: &[u8]) -> bool {
    // Position after the last `*` and the text position it is tried at.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(c) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, at)) => {
                    star = Some((after, at + 1));
                    p = after;
                    t = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_pick_counters() {
        assert!(matches("", "/REM/x"));
        assert!(matches("/REM/*", "/REM/TLB/Flushes"));
        assert!(matches("*Flushes|*Walks", "/REM/TLB/Walks"));
        assert!(matches("*/TLB/*s", "/REM/TLB/Walks"));
        assert!(!matches("/HWACCM/*", "/REM/TLB/Walks"));
        assert!(!matches("REM", "/REM/TLB"));
    }

    #[test]
    fn registers_have_names_and_values() {
        let all = registers(&State::reset(0));
        let get = |n: &str| all.iter().find(|(name, _)| name == n).unwrap().1.clone();
        assert_eq!(get("rip"), "0x000000000000fff0");
        assert_eq!(get("cs_base"), "0x00000000ffff0000");
    }
}
