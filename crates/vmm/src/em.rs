//! EM: the thread of each vCPU, and what to do when an engine comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpu::bits::rflags;
use cpu::{Bus, Engine, Exit, RunState, State, signal};
use parking_lot::{Condvar, Mutex};

use crate::engines::Engines;
use crate::machine::Machine;
use crate::vm::{Request, seldom};

/// One vCPU: locked by its own thread while it runs, by the VM's thread while it is held.
pub(crate) struct Vcpu {
    pub inner: Mutex<VcpuInner>,
}

pub(crate) struct VcpuInner {
    pub state: Box<State>,
    pub engine: Option<Box<dyn Engine>>,
    pub triple_faults: u64,
}

/// Holds all vCPU threads still, or lets them run.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
    end: AtomicBool,
}

#[derive(Default)]
struct GateState {
    open: bool,
    waiting: usize,
}

impl Gate {
    /// A vCPU thread waits until the gate is open. False: the thread ends.
    fn pass(&self) -> bool {
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while !state.open && !self.end.load(Ordering::SeqCst) {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
        !self.end.load(Ordering::SeqCst)
    }

    /// Closes the gate and waits until all vCPU threads stand before it.
    pub fn hold(&self, machine: &Machine) {
        let mut state = self.state.lock();
        state.open = false;
        let all = machine.trpm.cpus.signals.len();
        while state.waiting < all {
            for s in &machine.trpm.cpus.signals {
                s.raise(signal::REQUEST);
            }
            // Raised again: a thread on its way to sleep may have taken the bit with another.
            self.changed
                .wait_for(&mut state, std::time::Duration::from_millis(100));
        }
    }

    /// A vCPU thread will never come (it panicked): do not wait for it.
    pub fn lost(&self) {
        self.state.lock().waiting += 1;
        self.changed.notify_all();
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.state.lock().open = true;
        self.changed.notify_all();
    }

    /// Lets all vCPU threads, held or not, end.
    pub fn end(&self, machine: &Machine) {
        self.end.store(true, Ordering::SeqCst);
        {
            let _state = self.state.lock();
            self.changed.notify_all();
        }
        for s in &machine.trpm.cpus.signals {
            s.raise(signal::REQUEST);
        }
    }
}

/// What an exit asks of EM.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look at signals and the run state, then go on.
    GoOn,
    /// Reset the machine.
    Reset,
    /// Another engine goes on from here.
    Switch(String),
    /// The VM is stuck.
    Stop(String),
}

/// What to do about `exit`.
pub(crate) fn dispatch(exit: Exit) -> Action {
    match exit {
        Exit::Signalled | Exit::Halted => Action::GoOn,
        Exit::TripleFault => Action::Reset,
        Exit::Debug => Action::GoOn,
        Exit::EngineSwitch(reason) => Action::Switch(reason),
        Exit::Fatal(reason) => Action::Stop(reason),
    }
}

/// Which signals wake `state` from HLT.
pub(crate) fn wakers(state: &State) -> u32 {
    match state.run {
        RunState::Halted if state.rflags & rflags::IF == 0 => signal::WAKE & !signal::INTR,
        RunState::Running | RunState::Halted => signal::WAKE,
        RunState::WaitForSipi | RunState::Shutdown => signal::LEAVE,
    }
}

/// Everything a vCPU thread works with.
pub(crate) struct Em {
    pub cpu: usize,
    pub machine: Arc<Machine>,
    pub engines: Arc<Engines>,
    pub gate: Arc<Gate>,
    pub vcpu: Arc<Vcpu>,
}

impl Em {
    /// The thread of one vCPU, until the VM ends.
    pub fn run(self) {
        precise_sleep();
        // A request raised before this thread was there is answered by standing at the gate.
        while self.gate.pass() {
            let mut inner = self.vcpu.inner.lock();
            self.until_request(&mut inner);
        }
        // Engines belong to the thread that used them.
        self.vcpu.inner.lock().engine = None;
    }

    /// Executes until the VM wants the thread.
    fn until_request(&self, inner: &mut VcpuInner) {
        let signals = self.machine.signals(self.cpu).clone();
        loop {
            let bits = signals.take(signal::LEAVE);
            if bits & signal::REQUEST != 0 {
                // What else was taken is not lost.
                signals.raise(bits & !signal::REQUEST);
                return;
            }
            if self.cpu == 0 && self.machine.tm.due() {
                self.machine.run_timers();
            }
            if bits & signal::INIT != 0 {
                // The local APIC that passed it on has reset itself.
                inner.state.init(self.cpu);
                self.changed(inner);
            }
            if bits & signal::SIPI != 0 {
                inner.state.sipi(signals.sipi_vector());
                self.changed(inner);
            }
            match inner.state.run {
                // An SMI is taken as it is: after it the processor is halted again.
                run if run == RunState::Running || self.smi(&inner.state) => {
                    match self.execute(inner) {
                        Action::GoOn => {}
                        Action::Reset => {
                            inner.state.run = RunState::Shutdown;
                            inner.triple_faults += 1;
                            if seldom(inner.triple_faults) {
                                let cpu = self.cpu;
                                tracing::info!(target: "EM", "vCPU {cpu}: triple fault, the machine is reset");
                            }
                            self.request(Request::Device(pdm::VmRequest::Reset));
                        }
                        Action::Switch(reason) => self.switch(inner, &reason),
                        Action::Stop(reason) => self.stuck(inner, reason),
                    }
                }
                RunState::Halted if self.wakes(&inner.state) => {
                    inner.state.run = RunState::Running;
                }
                _ => self.sleep(wakers(&inner.state)),
            }
        }
    }

    /// Whether an SMI waits for a halted vCPU.
    fn smi(&self, state: &State) -> bool {
        let bits = self.machine.signals(self.cpu).get();
        state.run == RunState::Halted && bits & signal::SMI != 0 && !state.smm
    }

    /// Whether a halted vCPU goes on.
    fn wakes(&self, state: &State) -> bool {
        let signals = self.machine.signals(self.cpu);
        let bits = signals.get() & wakers(state);
        if bits & signal::NMI != 0 {
            return true;
        }
        if bits & signal::INTR == 0 {
            return false;
        }
        if self.machine.trpm.pending(self.cpu) {
            return true;
        }
        // The vector vanished; look once more behind the clearing of the bit.
        signals.take(signal::INTR);
        if self.machine.trpm.pending(self.cpu) {
            signals.raise(signal::INTR);
            return true;
        }
        false
    }

    fn sleep(&self, wakers: u32) {
        let signals = self.machine.signals(self.cpu);
        if self.cpu == 0 {
            let limit = self.machine.tm.asleep();
            signals.sleep(wakers, limit);
            self.machine.tm.awake();
            self.machine.run_timers();
        } else {
            signals.sleep(wakers, None);
        }
    }

    fn execute(&self, inner: &mut VcpuInner) -> Action {
        let VcpuInner { state, engine, .. } = inner;
        let engine = match engine {
            Some(engine) => engine,
            None => {
                let bus: Arc<dyn Bus> = self.machine.clone();
                match self.engines.first(self.cpu, &self.machine.phys, bus) {
                    Ok(made) => engine.insert(made),
                    Err(e) => return Action::Stop(e.to_string()),
                }
            }
        };
        dispatch(engine.run(state))
    }

    fn changed(&self, inner: &mut VcpuInner) {
        if let Some(engine) = &mut inner.engine {
            engine.state_changed();
        }
    }

    fn switch(&self, inner: &mut VcpuInner, reason: &str) {
        let bus: Arc<dyn Bus> = self.machine.clone();
        let Some(old) = inner.engine.take() else {
            return;
        };
        match self
            .engines
            .next(old.as_ref(), self.cpu, &self.machine.phys, bus)
        {
            Ok(mut engine) => {
                tracing::info!(
                    target: "EM",
                    "vCPU {} goes on in {} at {:04x}:{:x}: {reason}",
                    self.cpu,
                    engine.name(),
                    inner.state.seg[1].sel,
                    inner.state.rip
                );
                drop(old);
                engine.state_changed();
                inner.engine = Some(engine);
            }
            Err(e) => {
                inner.engine = Some(old);
                self.stuck(inner, format!("{reason}; {e}"));
            }
        }
    }

    /// The vCPU cannot go on: it waits for a reset or the end.
    fn stuck(&self, inner: &mut VcpuInner, reason: String) {
        inner.state.run = RunState::Shutdown;
        tracing::error!(target: "EM", "vCPU {} is stuck: {reason}", self.cpu);
        self.request(Request::Stuck(reason));
    }

    fn request(&self, request: Request) {
        // Without the VM's thread the machine is ending anyway.
        let _ = self.machine.requests.send(request);
    }
}

/// Timer slack of this thread: the default of 50 us is long for a guest's timer tick.
pub(crate) fn precise_sleep() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_and_what_follows() {
        assert_eq!(dispatch(Exit::Signalled), Action::GoOn);
        assert_eq!(dispatch(Exit::Halted), Action::GoOn);
        assert_eq!(dispatch(Exit::TripleFault), Action::Reset);
        assert_eq!(
            dispatch(Exit::EngineSwitch("x".into())),
            Action::Switch("x".into())
        );
        assert_eq!(dispatch(Exit::Fatal("y".into())), Action::Stop("y".into()));
    }

    #[test]
    fn what_wakes_a_sleeper() {
        let mut s = State::reset(0);
        s.run = RunState::Halted;
        assert_eq!(wakers(&s) & signal::INTR, 0, "interrupts are off");
        assert_ne!(wakers(&s) & signal::NMI, 0);
        s.rflags |= rflags::IF;
        assert_ne!(wakers(&s) & signal::INTR, 0);
        s.run = RunState::WaitForSipi;
        assert_eq!(wakers(&s), signal::LEAVE);
    }
}
