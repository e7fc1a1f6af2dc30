//! One vCPU on KVM.
#![allow(unsafe_code)] // the kick writes one byte of the shared page from other threads

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use cpu::bits::msr;
use cpu::{Bus, Engine, Exit, RunState, Signals, State, signal};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::event::{Event, handle};
use crate::{Error, Vm, cpuid, ioctl, kick, regs};

/// Guest-visible TSC jumps smaller than this (cycles) are reading jitter, not the guest's doing.
const TSC_JITTER: u64 = 1 << 22;

/// A vCPU behind the engine trait.
pub struct Kvm {
    cpu: usize,
    vm: Arc<Vm>,
    bus: Arc<dyn Bus>,
    vcpu: VcpuFd,
    run_size: usize,
    /// KVM does not hold the state: put all of it in before running.
    stale: bool,
    /// [`Bus::tsc_delta`] for which the guest's TSC was set.
    tsc_delta: Option<u64>,
    /// Exact setting of the TSC offset works.
    exact_tsc: bool,
    /// An exit was served whose result KVM takes over at the next entry.
    unfinished: bool,
    /// State components of the host.
    components: u64,
    /// MSRs that this KVM keeps.
    msrs: Vec<kvm_msr_entry>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    runs: u64,
    exits: u64,
    port: u64,
    mmio: u64,
    halts: u64,
    interrupts: u64,
    loads: u64,
    stores: u64,
}

impl Kvm {
    /// Makes vCPU number `cpu` of `vm`.
    ///
    /// # Errors
    /// When KVM refuses the vCPU or its CPUID table.
    pub fn new(cpu: usize, vm: &Arc<Vm>, bus: Arc<dyn Bus>) -> Result<Self, Error> {
        let vcpu = vm
            .fd
            .create_vcpu(cpu as u64)
            .map_err(Error::call("KVM_CREATE_VCPU"))?;
        vcpu.set_cpuid2(&cpuid::table(bus.as_ref(), cpu)?)
            .map_err(Error::call("KVM_SET_CPUID2"))?;
        let components = u64::from(bus.cpuid(cpu, 0xd, 0)[0]) & 7 | 3;
        let mut engine = Self {
            cpu,
            vm: vm.clone(),
            bus,
            vcpu,
            run_size: vm.fd.run_size(),
            stale: true,
            tsc_delta: None,
            exact_tsc: true,
            unfinished: false,
            components,
            msrs: Vec::new(),
            counters: Counters::default(),
        };
        engine.msrs = engine.kept_msrs()?;
        Ok(engine)
    }

    /// Of the MSRs of [`State`], those this KVM reads and writes.
    fn kept_msrs(&self) -> Result<Vec<kvm_msr_entry>, Error> {
        let mut kept = Vec::new();
        for entry in regs::msr_list() {
            let mut one = msr_vec(&[entry])?;
            if self.vcpu.get_msrs(&mut one).is_ok_and(|n| n == 1) {
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    fn load(&mut self, s: &mut State) -> Result<(), Error> {
        self.counters.loads += 1;
        let apic_base = self
            .bus
            .apic_msr_read(self.cpu, msr::APIC_BASE)
            .unwrap_or(0xfee0_0800);
        let cr8 = self.bus.cr8(self.cpu);
        self.vcpu
            .set_sregs(&regs::sregs_in(s, cr8, apic_base))
            .map_err(Error::call("KVM_SET_SREGS"))?;
        self.vcpu
            .set_regs(&regs::regs_in(s))
            .map_err(Error::call("KVM_SET_REGS"))?;
        let mut xcrs = kvm_bindings::kvm_xcrs {
            nr_xcrs: 1,
            ..Default::default()
        };
        xcrs.xcrs[0].value = s.xcr0;
        self.vcpu
            .set_xcrs(&xcrs)
            .map_err(Error::call("KVM_SET_XCRS"))?;
        ioctl::set_xsave(&self.vcpu, &regs::xsave_in(s, self.components))?;
        self.vcpu
            .set_debug_regs(&regs::debug_in(s))
            .map_err(Error::call("KVM_SET_DEBUGREGS"))?;
        let values = regs::msrs_in(s);
        let kept: Vec<_> = values
            .into_iter()
            .filter(|v| self.msrs.iter().any(|m| m.index == v.index))
            .collect();
        self.set_msrs(&kept)?;
        let mut events = self
            .vcpu
            .get_vcpu_events()
            .map_err(Error::call("KVM_GET_VCPU_EVENTS"))?;
        events.exception.injected = 0;
        events.exception.pending = 0;
        events.interrupt.injected = 0;
        events.interrupt.shadow = s.shadow.into();
        events.nmi.injected = 0;
        events.nmi.pending = 0;
        events.nmi.masked = s.nmi_blocked.into();
        events.flags = kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING
            | kvm_bindings::KVM_VCPUEVENT_VALID_SHADOW;
        self.vcpu
            .set_vcpu_events(&events)
            .map_err(Error::call("KVM_SET_VCPU_EVENTS"))?;
        self.stale = false;
        self.tsc_delta = None;
        Ok(())
    }

    /// Sets MSRs one by one behind the first that is refused: hosts differ in reserved bits.
    fn set_msrs(&self, values: &[kvm_msr_entry]) -> Result<(), Error> {
        let mut rest = values;
        while !rest.is_empty() {
            let done = self
                .vcpu
                .set_msrs(&msr_vec(rest)?)
                .map_err(Error::call("KVM_SET_MSRS"))?;
            if done < rest.len() {
                tracing::debug!(target: "HWACCM", "KVM refuses MSR {:#x}", rest[done].index);
            }
            rest = &rest[(done + 1).min(rest.len())..];
        }
        Ok(())
    }

    fn store(&mut self, s: &mut State) -> Result<(), Error> {
        self.counters.stores += 1;
        let r = self.vcpu.get_regs().map_err(Error::call("KVM_GET_REGS"))?;
        regs::regs_out(&r, s);
        let sregs = self
            .vcpu
            .get_sregs()
            .map_err(Error::call("KVM_GET_SREGS"))?;
        regs::sregs_out(&sregs, s);
        regs::load_pdpte(s, self.vm.phys());
        let x = self
            .vcpu
            .get_xsave()
            .map_err(Error::call("KVM_GET_XSAVE"))?;
        regs::xsave_out(&x, s);
        let xcrs = self.vcpu.get_xcrs().map_err(Error::call("KVM_GET_XCRS"))?;
        s.xcr0 = xcrs.xcrs[0].value;
        let d = self
            .vcpu
            .get_debug_regs()
            .map_err(Error::call("KVM_GET_DEBUGREGS"))?;
        regs::debug_out(&d, s);
        let mut list = self.msrs.clone();
        list.push(entry(msr::TSC, 0));
        list.push(entry(msr::TSC_ADJUST, 0));
        let mut found = msr_vec(&list)?;
        let n = self
            .vcpu
            .get_msrs(&mut found)
            .map_err(Error::call("KVM_GET_MSRS"))?;
        let found = &found.as_slice()[..n];
        regs::msrs_out(found, s);
        if let Some(m) = found.iter().find(|m| m.index == msr::TSC_ADJUST) {
            s.tsc_adjust = m.data;
        }
        if let Some(m) = found.iter().find(|m| m.index == msr::TSC) {
            let offset = m.data.wrapping_sub(self.bus.tsc());
            let moved = offset.wrapping_sub(s.tsc_offset) as i64;
            if moved.unsigned_abs() > TSC_JITTER {
                s.tsc_offset = offset;
            }
        }
        let events = self
            .vcpu
            .get_vcpu_events()
            .map_err(Error::call("KVM_GET_VCPU_EVENTS"))?;
        s.shadow = events.interrupt.shadow != 0;
        s.nmi_blocked = events.nmi.masked != 0;
        if events.nmi.pending != 0 || events.nmi.injected != 0 {
            self.take_back_events()?;
            self.signals().raise(signal::NMI);
        }
        if events.interrupt.injected != 0 && events.interrupt.soft == 0 {
            self.take_back_events()?;
            self.bus.interrupt_return(self.cpu, events.interrupt.nr);
        }
        Ok(())
    }

    /// Clears what is queued in KVM for delivery; an exception that was under way comes again when
    /// its instruction is executed again.
    fn take_back_events(&self) -> Result<(), Error> {
        let mut events = self
            .vcpu
            .get_vcpu_events()
            .map_err(Error::call("KVM_GET_VCPU_EVENTS"))?;
        events.interrupt.injected = 0;
        events.nmi.injected = 0;
        events.nmi.pending = 0;
        events.flags = kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING;
        self.vcpu
            .set_vcpu_events(&events)
            .map_err(Error::call("KVM_SET_VCPU_EVENTS"))
    }

    /// The guest's TSC follows the machine's after pauses and loads.
    fn align_tsc(&mut self, s: &State) -> Result<(), Error> {
        let delta = self.bus.tsc_delta();
        if delta == self.tsc_delta && delta.is_some() {
            return Ok(());
        }
        if let Some(delta) = delta {
            let offset = delta.wrapping_add(s.tsc_offset);
            if self.exact_tsc && ioctl::set_tsc_offset(&self.vcpu, offset).is_ok() {
                self.tsc_delta = Some(delta);
                return Ok(());
            }
            self.exact_tsc = false;
        }
        if self.tsc_delta.is_none() || delta.is_some() {
            let value = self.bus.tsc().wrapping_add(s.tsc_offset);
            self.set_msrs(&[entry(msr::TSC, value)])?;
        }
        // Without a usable host TSC the guest's is set once and runs at the host's rate.
        self.tsc_delta = delta.or(Some(0));
        Ok(())
    }

    fn signals(&self) -> &Arc<Signals> {
        self.bus.signals(self.cpu)
    }

    /// Lets other threads interrupt KVM_RUN on this thread.
    fn set_kick(&mut self) {
        let thread = kick::this_thread();
        let flag = FlagPtr(&raw mut self.vcpu.get_kvm_run().immediate_exit);
        self.signals().set_kick(Some(Box::new(move || {
            flag.set();
            kick::interrupt(thread);
        })));
    }

    /// Lets KVM take over the result of the exit that was just served, without running the guest.
    fn finish(&mut self) {
        if self.unfinished {
            self.vcpu.set_kvm_immediate_exit(1);
            let _ = self.vcpu.run();
            self.unfinished = false;
        }
    }

    /// Hands a vector or NMI over if one waits; asks for a window otherwise.
    fn inject(&mut self) -> Result<(), Error> {
        let bits = self.signals().get();
        if bits & signal::NMI != 0 && self.signals().take(signal::NMI) != 0 {
            self.vcpu.nmi().map_err(Error::call("KVM_NMI"))?;
        }
        let mut window = 0;
        if bits & signal::INTR != 0 && self.bus.interrupt_pending(self.cpu) {
            let run = self.vcpu.get_kvm_run();
            if run.ready_for_interrupt_injection != 0 && run.if_flag != 0 {
                if let Some(vector) = self.bus.interrupt_acknowledge(self.cpu) {
                    self.counters.interrupts += 1;
                    ioctl::interrupt(&self.vcpu, vector)?;
                }
                window = u8::from(self.bus.interrupt_pending(self.cpu));
            } else {
                window = 1;
            }
        }
        self.vcpu.get_kvm_run().request_interrupt_window = window;
        Ok(())
    }

    fn execute(&mut self, s: &mut State) -> Result<Exit, Error> {
        if self.stale {
            self.load(s)?;
            // What can be injected is known after KVM looked at the new state once.
            self.unfinished = true;
            self.align_tsc(s)?;
            self.finish();
        } else {
            self.align_tsc(s)?;
        }
        let bus = self.bus.clone();
        let vm = self.vm.clone();
        loop {
            self.vcpu.set_kvm_immediate_exit(0);
            // Kickers raise their bit first and set the flag after: seen here or ends KVM_RUN.
            fence(Ordering::SeqCst);
            let signals = self.bus.signals(self.cpu);
            let bits = signals.get();
            if bits & signal::LEAVE != 0 {
                return Ok(Exit::Signalled);
            }
            if bits & signal::SMI != 0 {
                return Ok(Exit::EngineSwitch(
                    "system management mode is not done with KVM".into(),
                ));
            }
            if bits & (signal::FLUSH | signal::CODE) != 0 {
                // Memory slots are changed by whoever changed the map.
                signals.take(signal::FLUSH | signal::CODE);
            }
            self.inject()?;
            let cr8 = u64::from(self.bus.cr8(self.cpu));
            self.vcpu.get_kvm_run().cr8 = cr8;
            self.counters.runs += 1;
            let failed = self.vcpu.run().err().map(|e| e.errno());
            self.unfinished = false;
            let run = self.vcpu.get_kvm_run();
            if run.cr8 != cr8 {
                self.bus.set_cr8(self.cpu, run.cr8 as u8);
            }
            match failed {
                None => {}
                Some(libc::EINTR | libc::EAGAIN) => continue,
                Some(errno) => {
                    let e = std::io::Error::from_raw_os_error(errno);
                    return Ok(Exit::EngineSwitch(format!("KVM_RUN failed: {e}")));
                }
            }
            self.counters.exits += 1;
            let event = ioctl::decode(run, self.run_size);
            match &event {
                Event::PortIn { .. } | Event::PortOut { .. } => self.counters.port += 1,
                Event::MmioRead { .. } | Event::MmioWrite { .. } => self.counters.mmio += 1,
                Event::Halt => self.counters.halts += 1,
                _ => {}
            }
            self.unfinished = !matches!(event, Event::Halt | Event::Interrupted);
            if let Some(exit) = handle(event, self.cpu, bus.as_ref(), vm.phys()) {
                self.unfinished = false;
                return Ok(match exit {
                    Exit::TripleFault if !vm.triple_faults_count() => Exit::EngineSwitch(
                        "KVM: a triple fault that may be this KVM's own limit".into(),
                    ),
                    other => other,
                });
            }
        }
    }
}

impl Engine for Kvm {
    fn name(&self) -> &'static str {
        "HWACCM"
    }

    fn run(&mut self, state: &mut State) -> Exit {
        self.set_kick();
        let exit = self.execute(state);
        self.finish();
        let stored = self.store(state);
        self.signals().set_kick(None);
        match (exit, stored) {
            (Ok(exit), Ok(())) => {
                match exit {
                    Exit::Halted => state.run = RunState::Halted,
                    Exit::TripleFault => state.run = RunState::Shutdown,
                    _ => {}
                }
                exit
            }
            // Nothing was executed since the state was given: the next engine has all of it.
            (Err(e), _) if self.stale => Exit::EngineSwitch(e.to_string()),
            (Err(e), Ok(())) => Exit::EngineSwitch(e.to_string()),
            (_, Err(e)) => Exit::Fatal(e.to_string()),
        }
    }

    fn state_changed(&mut self) {
        self.stale = true;
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let c = &self.counters;
        [
            ("runs", c.runs),
            ("exits", c.exits),
            ("exits/port", c.port),
            ("exits/mmio", c.mmio),
            ("exits/hlt", c.halts),
            ("interrupts", c.interrupts),
            ("state/loads", c.loads),
            ("state/stores", c.stores),
        ]
        .into_iter()
        .map(|(name, value)| (format!("HWACCM/CPU{}/{name}", self.cpu), value))
        .collect()
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        self.signals().set_kick(None);
    }
}

/// `immediate_exit` of the vCPU's shared page.
struct FlagPtr(*mut u8);

// SAFETY: points into the shared mapping of the vCPU, which the engine keeps until after it took
// the kick away; all threads access the byte atomically.
unsafe impl Send for FlagPtr {}
// SAFETY: see `Send`.
unsafe impl Sync for FlagPtr {}

impl FlagPtr {
    fn set(&self) {
        // SAFETY: valid for the life of the kick (see `Send`); one byte is always aligned.
        unsafe { AtomicU8::from_ptr(self.0) }.store(1, Ordering::SeqCst);
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

fn msr_vec(entries: &[kvm_msr_entry]) -> Result<Msrs, Error> {
    Msrs::from_entries(entries).map_err(|e| Error::Call {
        call: "KVM MSR list",
        reason: format!("{e:?}"),
    })
}
