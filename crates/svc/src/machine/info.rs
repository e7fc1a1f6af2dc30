//! Small questions about a machine: CPU switches, guest properties, extra data, logs, snapshots.

use super::MachineObject;
use crate::conv::{file_error, invalid, not_found};
use crate::state::Entry;
use crate::view::{View, When};
use api::types::*;
use api::{Val, Wire};
use settings::model::{Cpu, GuestProperty, Hardware, Machine, Snapshot};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The field behind a CPU property.
pub fn cpu_property(cpu: &mut Cpu, property: CPUPropertyType) -> api::Result<&mut bool> {
    use CPUPropertyType as P;
    Ok(match property {
        P::PAE => &mut cpu.pae,
        P::LongMode => &mut cpu.long_mode,
        P::TripleFaultReset => &mut cpu.triple_fault_reset,
        P::APIC => &mut cpu.apic,
        P::X2APIC => &mut cpu.x2apic,
        P::IBPBOnVMExit => &mut cpu.ibpb_on_vm_exit,
        P::IBPBOnVMEntry => &mut cpu.ibpb_on_vm_entry,
        P::HWVirt => &mut cpu.nested_hw_virt,
        P::SpecCtrl => &mut cpu.spec_ctrl,
        P::SpecCtrlByHost => &mut cpu.spec_ctrl_by_host,
        P::L1DFlushOnEMTScheduling => &mut cpu.l1d_flush_on_scheduling,
        P::L1DFlushOnVMEntry => &mut cpu.l1d_flush_on_vm_entry,
        P::MDSClearOnEMTScheduling => &mut cpu.mds_clear_on_scheduling,
        P::MDSClearOnVMEntry => &mut cpu.mds_clear_on_vm_entry,
        P::Null => return Err(invalid("Invalid CPU property")),
    })
}

/// The field behind a hardware virtualization property.
pub fn hw_virt_property(cpu: &mut Cpu, property: HWVirtExPropertyType) -> api::Result<&mut bool> {
    use HWVirtExPropertyType as P;
    Ok(match property {
        P::Enabled => &mut cpu.hw_virt,
        P::VPID => &mut cpu.vpid,
        P::NestedPaging => &mut cpu.nested_paging,
        P::UnrestrictedExecution => &mut cpu.unrestricted_execution,
        P::LargePages => &mut cpu.large_pages,
        P::Force => &mut cpu.hw_virt_force,
        P::UseNativeApi => &mut cpu.use_native_api,
        P::VirtVmsaveVmload => &mut cpu.virt_vmsave_vmload,
        P::Null => return Err(invalid("Invalid hardware virtualization property")),
    })
}

/// What `Default` means for this guest.
pub fn effective_paravirt(m: &Machine) -> ParavirtProvider {
    use settings::model::ParavirtProvider as P;
    match m.hardware.paravirt.provider {
        P::None => ParavirtProvider::None,
        P::Minimal => ParavirtProvider::Minimal,
        P::HyperV => ParavirtProvider::HyperV,
        P::Kvm => ParavirtProvider::KVM,
        P::Legacy => ParavirtProvider::None,
        P::Default => match crate::ostypes::find(&m.os_type).map(|t| t.family_id) {
            Some("Windows") => ParavirtProvider::HyperV,
            Some("Linux") => ParavirtProvider::KVM,
            Some("MacOS") => ParavirtProvider::Minimal,
            _ => ParavirtProvider::None,
        },
    }
}

pub fn count_snapshots(snapshot: &Snapshot) -> u32 {
    1 + snapshot.children.iter().map(count_snapshots).sum::<u32>()
}

/// A snapshot by UUID or name; the empty name is the first one.
pub fn find_snapshot(m: &Machine, name_or_id: &str) -> api::Result<Uuid> {
    let all = crate::media::snapshots(m);
    if all.is_empty() {
        return Err(not_found("This machine does not have any snapshots"));
    }
    let found = if name_or_id.is_empty() {
        all.first().copied()
    } else if let Some(id) = iprt::uuid::parse(name_or_id) {
        all.iter().copied().find(|s| s.uuid == id)
    } else {
        all.iter().copied().find(|s| s.name == name_or_id)
    };
    found
        .map(|s| s.uuid)
        .ok_or_else(|| not_found(format!("Could not find a snapshot named '{name_or_id}'")))
}

/// Names, values, timestamps and flags of the properties that match patterns like `/a/*|b?`.
pub fn enumerate(
    all: &[GuestProperty],
    patterns: &str,
) -> (Vec<String>, Vec<String>, Vec<i64>, Vec<String>) {
    let mut out = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for p in all {
        if patterns.is_empty()
            || patterns
                .split('|')
                .any(|w| wildcard(w.as_bytes(), p.name.as_bytes()))
        {
            out.0.push(p.name.clone());
            out.1.push(p.value.clone());
            out.2.push(i64::try_from(p.timestamp).unwrap_or(i64::MAX));
            out.3.push(p.flags.clone());
        }
    }
    out
}

/// `*` matches anything, `?` one byte. Linear in both, whatever the pattern.
fn wildcard(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((sp, st)) => {
                    star = Some((sp, st + 1));
                    p = sp + 1;
                    t = st + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

const FLAGS: &[&str] = &[
    "TRANSIENT",
    "TRANSRESET",
    "RDONLYGUEST",
    "RDONLYHOST",
    "READONLY",
];

/// Flags as they are stored, or a refusal.
fn checked_flags(flags: &str) -> api::Result<String> {
    let words: Vec<String> = flags
        .split(',')
        .map(|w| w.trim().to_uppercase())
        .filter(|w| !w.is_empty())
        .collect();
    match words.iter().find(|w| !FLAGS.contains(&w.as_str())) {
        Some(bad) => Err(invalid(format!("Invalid guest property flags: '{bad}'"))),
        None => Ok(words.join(", ")),
    }
}

/// Guest properties of a run that is over: transient ones go, the others are kept.
pub fn keep_guest_properties(entry: &mut Entry) {
    let Some(pending) = &entry.pending else {
        return;
    };
    let mut kept = pending.hardware.guest_properties.clone();
    drop_transient(&mut kept);
    if let Ok(settings) = entry.settings_mut() {
        settings.hardware.guest_properties = kept;
    }
}

/// Leaves what may be stored.
pub fn drop_transient(properties: &mut Vec<GuestProperty>) {
    properties.retain(|p| !p.flags.contains("TRANS"));
}

impl MachineObject {
    /// Reads guest properties: of a running machine the present ones, whoever asks.
    pub(super) fn properties<R>(&self, f: impl FnOnce(&Hardware) -> R) -> api::Result<R> {
        let running = self.0.entry(|e| Ok(e.vm.is_some()))?;
        let view = View {
            mutable: self.0.mutable || running,
            ..self.0.clone()
        };
        view.get(|m| f(&m.hardware))
    }

    pub(super) fn change_extra_data(&self, key: String, value: String) -> api::Result<()> {
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(invalid("Invalid extra data key"));
        }
        // Extra data is saved at once, session or not, and never shows in half-made settings.
        self.0.entry(|e| {
            let change = |m: &mut Machine| {
                if value.is_empty() {
                    m.extra_data.remove(&key);
                } else {
                    m.extra_data.insert(key.clone(), value.clone());
                }
            };
            change(e.settings_mut()?);
            if let Some(pending) = &mut e.pending {
                change(pending);
            }
            if e.registered { e.save() } else { Ok(()) }
        })?;
        self.0.svc.fire(
            VBoxEventType::OnExtraDataChanged,
            vec![
                ("machineId", self.0.id.to_string().into_val()),
                ("key", Val::Str(key)),
                ("value", Val::Str(value)),
            ],
        );
        Ok(())
    }

    /// An empty value deletes; `None` flags keep those there are; `None` timestamp is now.
    pub(super) fn change_guest_property(
        &self,
        name: &str,
        value: &str,
        flags: Option<&str>,
        timestamp: Option<u64>,
    ) -> api::Result<()> {
        if name.is_empty() || name.len() > 64 || value.len() > 1024 {
            return Err(invalid(
                "A guest property's name has 1 to 64 bytes, its value at most 1024",
            ));
        }
        let flags = flags.map(checked_flags).transpose()?;
        let since = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        };
        let timestamp =
            timestamp.unwrap_or_else(|| u64::try_from(since().as_nanos()).unwrap_or(u64::MAX));
        let stored = self.0.change(When::Any, |m| {
            let list = &mut m.hardware.guest_properties;
            let old = list.iter().position(|p| p.name == name);
            if value.is_empty() {
                if let Some(at) = old {
                    list.remove(at);
                }
                return Ok(String::new());
            }
            let kept = old.and_then(|at| list.get(at)).map(|p| p.flags.clone());
            let property = GuestProperty {
                name: name.to_owned(),
                value: value.to_owned(),
                timestamp,
                flags: flags.or(kept).unwrap_or_default(),
            };
            let shown = property.flags.clone();
            match old {
                Some(at) => list[at] = property,
                None => list.push(property),
            }
            Ok(shown)
        })?;
        self.0.svc.fire(
            VBoxEventType::OnGuestPropertyChanged,
            vec![
                ("machineId", self.0.id.to_string().into_val()),
                ("name", Val::from(name)),
                ("value", Val::from(value)),
                ("flags", Val::Str(stored)),
                ("FWasDeleted", Val::Bool(value.is_empty())),
            ],
        );
        Ok(())
    }

    /// `Logs/VBox.log`, `.1`, ...; none where there is no such file.
    pub(super) fn log_file(&self, index: u32) -> api::Result<Option<PathBuf>> {
        let logs = self.folder()?.join("Logs");
        let file = match index {
            0 => logs.join("VBox.log"),
            n => logs.join(format!("VBox.log.{n}")),
        };
        Ok(file.is_file().then_some(file))
    }

    pub(super) fn log_bytes(&self, index: u32, offset: i64, size: i64) -> api::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let (Ok(offset), Ok(size)) = (u64::try_from(offset), usize::try_from(size)) else {
            return Err(invalid("The offset and size must not be negative"));
        };
        let path = self
            .log_file(index)?
            .ok_or_else(|| file_error(format!("There is no log file number {index}")))?;
        // As in VirtualBox, one call gives at most this much.
        let mut data = vec![0; size.min(4 << 20)];
        let file = std::fs::File::open(&path)
            .map_err(|e| file_error(format!("{}: {e}", path.display())))?;
        let got = file
            .read_at(&mut data, offset)
            .map_err(|e| file_error(format!("{}: {e}", path.display())))?;
        data.truncate(got);
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::wildcard;

    #[test]
    fn wildcards() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("/VirtualBox/*/IP", "/VirtualBox/GuestInfo/IP", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "xaybzb", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(
                wildcard(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern} {text}"
            );
        }
    }
}
