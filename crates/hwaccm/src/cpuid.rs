//! The machine's CPUID answers as a KVM table.

use cpu::Bus;
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::Error;

/// Leaves whose answer depends on ECX, with the most subleaves they may have.
fn subleaves(leaf: u32) -> Option<u32> {
    match leaf {
        4 | 0x8000_001d => Some(8),
        7 => Some(2),
        0xb | 0x1f => Some(3),
        0xd => Some(3),
        _ => None,
    }
}

/// All leaves of vCPU `cpu`.
pub(crate) fn table(bus: &dyn Bus, cpu: usize) -> Result<CpuId, Error> {
    let mut rows = Vec::new();
    for base in [0, 0x4000_0000, 0x8000_0000u32] {
        let last = bus.cpuid(cpu, base, 0)[0];
        if last < base || last - base > 0x100 {
            continue;
        }
        for leaf in base..=last {
            for sub in 0..subleaves(leaf).unwrap_or(1) {
                let [eax, ebx, ecx, edx] = bus.cpuid(cpu, leaf, sub);
                rows.push(kvm_cpuid_entry2 {
                    function: leaf,
                    index: sub,
                    flags: match subleaves(leaf) {
                        Some(_) => KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                        None => 0,
                    },
                    eax,
                    ebx,
                    ecx,
                    edx,
                    ..Default::default()
                });
            }
        }
    }
    CpuId::from_entries(&rows).map_err(|e| Error::Call {
        call: "KVM_SET_CPUID2",
        reason: format!("{e:?}"),
    })
}
