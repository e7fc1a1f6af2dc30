//! One KVM virtual machine, with memory slots that follow the physical map.
#![allow(unsafe_code)] // memory slots are given by host address

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpu::bits::msr;
use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MEM_READONLY, KVM_MSR_EXIT_REASON_FILTER,
    KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_cpuid_entry2, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags, VmFd};
use pgm::PhysMap;

use crate::slots::{Slot, difference, wanted};
use crate::{Error, Probed, kick};

/// Where KVM may keep a task state segment and an identity page table on hosts that cannot run
/// real mode natively: below the firmware's top-of-memory image, above all device memory.
const IDENTITY_MAP: u64 = 0xfeff_c000;
const TASK_STATE: usize = 0xfeff_d000;

/// A KVM virtual machine over a physical map.
pub struct Vm {
    pub(crate) fd: VmFd,
    kvm: Kvm,
    phys: Arc<PhysMap>,
    slots: Mutex<Vec<Option<Slot>>>,
    probed: Probed,
}

impl Vm {
    /// Makes a virtual machine that shows what `phys` maps, now and after each change. `probed` is
    /// what [`crate::probe`] found.
    ///
    /// # Errors
    /// When `/dev/kvm` cannot be opened, lacks something, or refuses a call.
    pub fn new(phys: Arc<PhysMap>, probed: Probed) -> Result<Arc<Self>, Error> {
        kick::install();
        let kvm = Kvm::new().map_err(|e| Error::Open(e.to_string()))?;
        let needed = [
            (Cap::UserMemory, "memory slots"),
            (Cap::ReadonlyMem, "read-only memory slots"),
            (Cap::ImmediateExit, "immediate exits"),
            (Cap::VcpuEvents, "vCPU events"),
            (Cap::Xsave, "XSAVE state"),
            (Cap::Xcrs, "extended control registers"),
            (Cap::Debugregs, "debug registers"),
            (Cap::ExtCpuid, "extended CPUID"),
            (Cap::UserNmi, "NMI injection"),
            (Cap::X86UserSpaceMsr, "MSR exits"),
            (Cap::X86MsrFilter, "MSR filters"),
        ];
        if let Some((_, what)) = needed.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(Error::Missing(what));
        }
        let fd = kvm.create_vm().map_err(Error::call("KVM_CREATE_VM"))?;
        // Only Intel hosts want these two; others may refuse them.
        let _ = fd.set_identity_map_address(IDENTITY_MAP);
        let _ = fd.set_tss_address(TASK_STATE);
        let cap = kvm_enable_cap {
            cap: KVM_CAP_X86_USER_SPACE_MSR,
            args: [
                (KVM_MSR_EXIT_REASON_UNKNOWN
                    | KVM_MSR_EXIT_REASON_INVAL
                    | KVM_MSR_EXIT_REASON_FILTER)
                    .into(),
                0,
                0,
                0,
            ],
            ..Default::default()
        };
        fd.enable_cap(&cap).map_err(Error::call("KVM_ENABLE_CAP"))?;
        // These two live in the machine's local APIC. x2APIC registers cannot be filtered; KVM
        // does not know them without its own APIC and exits for them as unknown.
        let denied = |base| MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base,
            msr_count: 1,
            bitmap: &[0],
        };
        fd.set_msr_filter(
            MsrFilterDefaultAction::ALLOW,
            &[denied(msr::APIC_BASE), denied(msr::TSC_DEADLINE)],
        )
        .map_err(Error::call("KVM_X86_SET_MSR_FILTER"))?;
        let vm = Arc::new(Self {
            fd,
            kvm,
            phys: phys.clone(),
            slots: Mutex::default(),
            probed,
        });
        vm.update()?;
        phys.subscribe(Arc::new(Follow(Arc::downgrade(&vm))));
        Ok(vm)
    }

    /// Whether a triple fault is the guest's own and not a limit of this KVM.
    pub(crate) fn triple_faults_count(&self) -> bool {
        self.probed == Probed::Complete
    }

    pub(crate) fn phys(&self) -> &Arc<PhysMap> {
        &self.phys
    }

    /// CPUID leaves as this KVM can show them to guests: (leaf, subleaf, registers).
    ///
    /// # Errors
    /// When KVM does not say.
    pub fn supported_cpuid(&self) -> Result<Vec<(u32, u32, [u32; 4])>, Error> {
        let found = self
            .kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(Error::call("KVM_GET_SUPPORTED_CPUID"))?;
        let row = |e: &kvm_cpuid_entry2| (e.function, e.index, [e.eax, e.ebx, e.ecx, e.edx]);
        Ok(found.as_slice().iter().map(row).collect())
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Option<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the slots what the physical map says now.
    fn update(&self) -> Result<(), Error> {
        let mut now = self.locked();
        let wanted = wanted(&self.phys.memory_pieces());
        let (delete, set) = difference(&now, &wanted);
        for number in delete {
            if let Some(Some(slot)) = now.get(number).copied() {
                self.set(number, Slot { size: 0, ..slot })?;
                now[number] = None;
            }
        }
        for (number, slot) in set {
            self.set(number, slot)?;
            if now.len() <= number {
                now.resize(number + 1, None);
            }
            now[number] = Some(slot);
        }
        Ok(())
    }

    fn set(&self, number: usize, slot: Slot) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot: number as u32,
            flags: if slot.writable { 0 } else { KVM_MEM_READONLY },
            guest_phys_addr: slot.gpa,
            memory_size: slot.size,
            userspace_addr: self.phys.ram().base() as u64 + slot.offset,
        };
        // SAFETY: the physical map's pieces lie inside its RAM, which lives as long as `self.phys`,
        // and nothing in this process holds references into it.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(Error::call("KVM_SET_USER_MEMORY_REGION"))
    }
}

/// Tells the virtual machine of changes of the map, as long as it lives.
struct Follow(std::sync::Weak<Vm>);

impl pgm::Listener for Follow {
    fn mapping_changed(&self) {
        if let Some(vm) = self.0.upgrade()
            && let Err(e) = vm.update()
        {
            // Accesses to what is not mapped still arrive as MMIO exits and are served.
            tracing::error!(target: "HWACCM", "memory slots are stale: {e}");
        }
    }
    fn code_written(&self, _: u64, _: u64, _: u32) {}
}
