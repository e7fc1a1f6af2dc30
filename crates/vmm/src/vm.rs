//! The VM object: building, states, requests.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use cpu::State;
use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::driver::BlockDriver;
use pdm::irq::Hub;
use pdm::{DeviceReg, Frame, MouseEvent, TextScreen, VmRequest};
use pgm::{PhysMap, Ram, RegionKind, WriteFlags};

use crate::cpum::Cpum;
use crate::em::{Em, Gate, Vcpu, VcpuInner, precise_sleep};
use crate::engines::Engines;
use crate::iom::Ports;
use crate::machine::{Control, Machine};
use crate::pdm_host::{self, Attachments, Parts};
use crate::tm::Tm;
use crate::trpm::{Cpus, Trpm};
use crate::{Error, ssm};

/// End of RAM below 4 GiB: what is above belongs to PCI, the APICs and the firmware.
const LOW_RAM_END: u64 = 0xe000_0000;
const FOUR_GIB: u64 = 1 << 32;
/// Room in the memory pool for video RAM, ROM images and the like.
const EXTRA_POOL: u64 = 320 << 20;
const MIB: u64 = 1 << 20;

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VmState {
    /// Built, never run.
    Created,
    /// Runs.
    Running,
    /// Stands still and can go on.
    Paused,
    /// An engine or device failed: only reset and power off help.
    Stuck,
    /// Ended for good.
    Off,
}

impl VmState {
    fn name(self) -> &'static str {
        match self {
            Self::Created => "powered off",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stuck => "stuck",
            Self::Off => "powered off",
        }
    }
}

/// Hears what happens to a VM. Called from the VM's own thread: must not call the VM back.
pub trait VmEvents: Send + Sync {
    /// The state changed. `reason` is set when it was not asked for (a full disk, a failure).
    fn state_changed(&self, state: VmState, reason: Option<&str>);
    /// A device has a message for the user.
    fn message(&self, text: &str);
    /// The guest asked for sleep (ACPI S1 to S4). The VM goes on.
    fn sleep_requested(&self) {}
}

type Answer = Sender<Result<(), Error>>;
type Look = Box<dyn FnOnce(&mut Held<'_>) + Send>;

/// What the VM's thread is asked to do.
pub(crate) enum Request {
    Resume(Answer),
    Pause(Answer),
    Reset(Answer),
    PowerOff(Answer),
    Save(PathBuf, Answer),
    Load(PathBuf, Answer),
    /// Runs while no vCPU executes.
    Look(Look),
    /// From a device.
    Device(VmRequest),
    /// A vCPU cannot go on.
    Stuck(String),
}

/// The machine while no vCPU executes.
pub(crate) struct Held<'a> {
    pub machine: &'a Arc<Machine>,
    pub vcpus: &'a [Arc<Vcpu>],
}

/// A virtual machine.
pub struct Vm {
    machine: Arc<Machine>,
    state: Arc<Mutex<VmState>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Vm {
    /// Builds the machine of `config`:
    /// `RamSize` (bytes), `NumCPUs`, `EM/ForceEngine`, `HWACCM/Enabled`, `CPUM/...`,
    /// `REM/CodeCacheMiB` (of each vCPU), `REM/Windows`, `REM/Checks`, `PGM/LargePages`,
    /// `TM/UTCOffset` (nanoseconds, two's complement), `Devices/NAME/INSTANCE/Config/...`.
    /// It stands still until [`Vm::resume`].
    ///
    /// # Errors
    /// When a value is wrong, memory is short, or a device cannot be built.
    pub fn new(
        mut config: Node,
        registry: &'static [DeviceReg],
        attachments: Attachments,
        events: Arc<dyn VmEvents>,
    ) -> Result<Arc<Self>, Error> {
        let ram_size = config.int_in("RamSize", 128 * MIB, 4 * MIB..=1 << 40)?;
        let cpus = config.int_in("NumCPUs", 1, 1..=32)? as usize;
        let offset = match config.child("TM") {
            Some(tm) => tm.int("UTCOffset", 0)? as i64,
            None => 0,
        };
        let phys = PhysMap::new(Ram::new(ram_size.next_multiple_of(MIB) + EXTRA_POOL)?);
        let low = ram_size.min(LOW_RAM_END) & !(pgm::PAGE_SIZE - 1);
        let high = ram_size.saturating_sub(LOW_RAM_END) & !(pgm::PAGE_SIZE - 1);
        for (gpa, size) in [(0, low), (FOUR_GIB, high)] {
            if size > 0 {
                let block = phys.ram().alloc(size)?;
                let writes = WriteFlags::ReadWrite;
                phys.add(gpa, size, 0, RegionKind::Memory { block, writes })?;
            }
        }
        let (requests, inbox) = channel();
        let tm = Tm::new(offset);
        if config.child("Devices/apic/0").is_some() {
            // Its TSC-deadline timer counts in these.
            config.set_path("Devices/apic/0/Config/TscFrequency", tm.tsc_hz());
        }
        let hub = Hub::new();
        let parts = Parts {
            phys: phys.clone(),
            ports: Ports::new(),
            tm: tm.clone(),
            trpm: Trpm::new(Cpus::new(cpus)),
            pci: pdm::pci::Bus::new(hub.clone()),
            hub,
            control: Arc::new(Control(requests.clone())),
            ram_size: (low, high),
        };
        let slots = pdm_host::build(&config, registry, &parts, attachments)?;
        if parts.trpm.controller().is_none() {
            return Err(Error::Incomplete("interrupt controller"));
        }
        let engines = Arc::new(Engines::choose(&config, &phys)?);
        let cpum = Cpum::new(
            &config,
            cpus as u32,
            tm.tsc_hz(),
            tm.tsc_delta().is_some(),
            engines.cpuid_limit(),
        )?;
        let machine = Arc::new(Machine {
            config,
            phys,
            ports: parts.ports,
            tm,
            trpm: parts.trpm,
            cpum,
            pci: parts.pci,
            slots,
            ferr: Machine::ferr_line(&parts.hub),
            requests,
            ram_bytes: low + high,
        });
        let state = Arc::new(Mutex::new(VmState::Created));
        let thread = Thread::start(machine.clone(), engines, state.clone(), events, inbox)?;
        Ok(Arc::new(Self {
            machine,
            state,
            thread: Mutex::new(Some(thread)),
        }))
    }

    fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<(), Error> {
        let (answer, wait) = channel();
        self.machine
            .requests
            .send(request(answer))
            .map_err(|_| Error::Ended)?;
        wait.recv().map_err(|_| Error::Ended)?
    }

    /// What the VM is doing.
    pub fn state(&self) -> VmState {
        *self.state.lock()
    }

    /// Starts or goes on.
    ///
    /// # Errors
    /// [`Error::State`] when it runs or has ended.
    pub fn resume(&self) -> Result<(), Error> {
        self.ask(Request::Resume)
    }

    /// Stands still.
    ///
    /// # Errors
    /// [`Error::State`] unless it runs.
    pub fn pause(&self) -> Result<(), Error> {
        self.ask(Request::Pause)
    }

    /// Presses the reset button.
    ///
    /// # Errors
    /// [`Error::State`] when it has ended.
    pub fn reset(&self) -> Result<(), Error> {
        self.ask(Request::Reset)
    }

    /// Pulls the plug and waits until all threads have ended.
    ///
    /// # Errors
    /// [`Error::Ended`] when it had ended before.
    pub fn power_off(&self) -> Result<(), Error> {
        let done = self.ask(Request::PowerOff);
        self.join();
        done
    }

    /// Waits for the VM's end.
    pub fn join(&self) {
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    /// Writes the state of a machine that stands still to a file.
    ///
    /// # Errors
    /// [`Error::State`] unless it is paused or new; otherwise what went wrong with the file.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        self.ask(|a| Request::Save(path.to_owned(), a))
    }

    /// Takes the state of a file over; the machine was built from the same configuration.
    ///
    /// # Errors
    /// [`Error::State`] unless it is paused or new; [`Error::SavedState`] naming the unit that
    /// does not fit: the machine is then only good for power off.
    pub fn load(&self, path: &Path) -> Result<(), Error> {
        self.ask(|a| Request::Load(path.to_owned(), a))
    }

    /// Runs `look` while no vCPU executes.
    pub(crate) fn held<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Held<'_>) -> R + Send + 'static,
    ) -> Result<R, Error> {
        let (answer, wait) = channel();
        let job: Look = Box::new(move |held| {
            let _ = answer.send(look(held));
        });
        self.machine
            .requests
            .send(Request::Look(job))
            .map_err(|_| Error::Ended)?;
        wait.recv().map_err(|_| Error::Ended)
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The configuration tree.
    pub fn config(&self) -> &Node {
        &self.machine.config
    }

    /// The picture on the screen. `None` without a graphics device.
    pub fn frame(&self) -> Option<Frame> {
        self.machine.first(|d| d.display().map(|s| s.frame()))
    }

    /// Width, height and bits per pixel (0: text mode).
    pub fn screen_mode(&self) -> Option<(u32, u32, u32)> {
        self.machine.first(|d| d.display().map(|s| s.mode()))
    }

    /// The characters on the screen in a text mode.
    pub fn text_screen(&self) -> Option<TextScreen> {
        self.machine
            .first(|d| d.display().map(|s| s.text()))
            .flatten()
    }

    /// Queues scan codes (set 1); returns how many were taken.
    pub fn put_scancodes(&self, codes: &[u8]) -> usize {
        self.machine
            .first(|d| {
                let keyboard = d.keyboard()?;
                Some(
                    codes
                        .iter()
                        .take_while(|c| keyboard.put_scancode(**c))
                        .count(),
                )
            })
            .unwrap_or(0)
    }

    /// Keyboard LEDs: bit 0 scroll, 1 num, 2 caps lock.
    pub fn keyboard_leds(&self) -> u8 {
        self.machine
            .first(|d| d.keyboard().map(|k| k.leds()))
            .unwrap_or(0)
    }

    /// Queues a mouse event. False without a mouse.
    pub fn put_mouse_event(&self, event: MouseEvent) -> bool {
        self.machine
            .first(|d| d.mouse().map(|m| m.put_mouse_event(event)))
            .is_some()
    }

    /// Runs `f` on the ACPI buttons. `None` without ACPI.
    pub fn acpi<R>(&self, f: impl FnOnce(&mut dyn pdm::irq::AcpiButtons) -> R) -> Option<R> {
        let mut f = Some(f);
        self.machine.first(|d| {
            let buttons = d.acpi()?;
            f.take().map(|f| f(buttons))
        })
    }

    /// Changes the medium in `unit` of a device; gives back the driver that was there, or the new
    /// one as an error when there is no such drive or the guest has locked it.
    ///
    /// # Errors
    /// The new driver.
    #[allow(clippy::type_complexity)]
    pub fn change_medium(
        &self,
        device: &str,
        instance: u32,
        unit: u32,
        driver: Box<dyn BlockDriver>,
        force: bool,
    ) -> Result<Option<Box<dyn BlockDriver>>, Box<dyn BlockDriver>> {
        let slots = &self.machine.slots;
        let slot = slots
            .iter()
            .find(|s| s.reg.name == device && s.instance == instance);
        let mut driver = Some(driver);
        let done = slot.and_then(|slot| {
            slot.with(|d| {
                let media = d.media()?;
                Some(media.change_medium(unit, driver.take()?, force))
            })
            .flatten()
        });
        match (done, driver) {
            (Some(result), _) => result,
            (None, Some(driver)) => Err(driver),
            (None, None) => Ok(None),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let (answer, _) = channel();
        let _ = self.machine.requests.send(Request::PowerOff(answer));
        self.join();
    }
}

/// The VM's thread: the only one that changes the VM's state.
struct Thread {
    machine: Arc<Machine>,
    gate: Arc<Gate>,
    vcpus: Vec<Arc<Vcpu>>,
    threads: Vec<JoinHandle<()>>,
    state: Arc<Mutex<VmState>>,
    events: Arc<dyn VmEvents>,
    resets: Cell<u64>,
    large: Arc<crate::large::Stop>,
}

/// Whether the `count`th of something that guests can do at will goes into the log.
pub(crate) fn seldom(count: u64) -> bool {
    count <= 64 || count.is_power_of_two()
}

impl Thread {
    fn start(
        machine: Arc<Machine>,
        engines: Arc<Engines>,
        state: Arc<Mutex<VmState>>,
        events: Arc<dyn VmEvents>,
        inbox: Receiver<Request>,
    ) -> Result<JoinHandle<()>, Error> {
        let gate = Arc::new(Gate::default());
        let mut this = Self {
            vcpus: Vec::new(),
            threads: Vec::new(),
            gate,
            state,
            events,
            machine,
            resets: Cell::new(0),
            large: Arc::default(),
        };
        for device in &this.machine.slots {
            device.with(|d| d.reset());
        }
        let tm_machine = this.machine.clone();
        let started = this.spawn("TM".into(), false, move || {
            precise_sleep();
            tm_machine
                .tm
                .serve(|device, id| tm_machine.expired(device, id));
        });
        let started = started.and_then(|()| {
            (0..this.machine.trpm.cpus.signals.len()).try_for_each(|cpu| {
                let vcpu = Arc::new(Vcpu {
                    inner: Mutex::new(VcpuInner {
                        state: Box::new(State::reset(cpu)),
                        engine: None,
                        triple_faults: 0,
                    }),
                });
                this.vcpus.push(vcpu.clone());
                let em = Em {
                    cpu,
                    machine: this.machine.clone(),
                    engines: engines.clone(),
                    gate: this.gate.clone(),
                    vcpu,
                };
                this.spawn(format!("EMT-{cpu}"), true, move || em.run())
            })
        });
        let started = started.and_then(|()| this.spawn_caretaker());
        if let Err(e) = started {
            this.end();
            return Err(e);
        }
        std::thread::Builder::new()
            .name("VM".into())
            .spawn(move || this.serve(&inbox))
            .map_err(|source| Error::Host {
                what: "cannot start the machine's thread".into(),
                source,
            })
    }

    /// Guest memory goes into large pages where that is wanted.
    fn spawn_caretaker(&mut self) -> Result<(), Error> {
        let wanted = match self.machine.config.child("PGM") {
            Some(pgm) => pgm.bool("LargePages", false)?,
            None => false,
        };
        if !wanted {
            return Ok(());
        }
        let ram = self.machine.phys.ram().clone();
        let (range, stop) = (0..self.machine.ram_bytes, self.large.clone());
        self.spawn("PGM".into(), false, move || {
            crate::large::care(&ram, &range, &stop)
        })
    }

    /// `vcpu`: the thread passes the gate.
    fn spawn(
        &mut self,
        name: String,
        vcpu: bool,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        // A panic in device code must end in a stuck machine, not in a silent one.
        let requests = self.machine.requests.clone();
        let gate = self.gate.clone();
        let body = move || {
            let run = std::panic::AssertUnwindSafe(run);
            if std::panic::catch_unwind(run).is_err() {
                if vcpu {
                    gate.lost();
                }
                let _ = requests.send(Request::Stuck("an internal error (panic)".into()));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(body)
            .map_err(|source| Error::Host {
                what: "cannot start a virtual processor's thread".into(),
                source,
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn serve(mut self, inbox: &Receiver<Request>) {
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Resume(answer) => {
                    let _ = answer.send(self.resume());
                }
                Request::Pause(answer) => {
                    let _ = answer.send(self.pause(None));
                }
                Request::Reset(answer) => {
                    let _ = answer.send(self.reset());
                }
                Request::PowerOff(answer) => {
                    self.power_off(None);
                    let _ = answer.send(Ok(()));
                    return;
                }
                Request::Save(path, answer) => {
                    let _ = answer.send(self.save(&path));
                }
                Request::Load(path, answer) => {
                    let _ = answer.send(self.load(&path));
                }
                Request::Look(job) => self.look(job),
                Request::Stuck(reason) => self.stuck(&reason),
                Request::Device(VmRequest::Reset) => {
                    let _ = self.reset();
                }
                Request::Device(VmRequest::PowerOff) => {
                    self.power_off(None);
                    return;
                }
                Request::Device(VmRequest::Sleep) => self.events.sleep_requested(),
                Request::Device(VmRequest::Suspend(reason)) => {
                    tracing::warn!(target: "VM", "paused: {reason}");
                    let _ = self.pause(Some(&reason));
                }
                Request::Device(VmRequest::Message(text)) => {
                    tracing::warn!(target: "VM", "{text}");
                    self.events.message(&text);
                }
            }
        }
    }

    fn now(&self) -> VmState {
        *self.state.lock()
    }

    fn become_(&self, state: VmState, reason: Option<&str>) {
        let old = std::mem::replace(&mut *self.state.lock(), state);
        if old != state {
            tracing::info!(target: "VM", "{} -> {}", old.name(), state.name());
            self.events.state_changed(state, reason);
        }
    }

    fn refuse(&self, what: &'static str) -> Result<(), Error> {
        Err(Error::State {
            what,
            state: self.now().name(),
        })
    }

    fn held(&self) -> Held<'_> {
        Held {
            machine: &self.machine,
            vcpus: &self.vcpus,
        }
    }

    fn go(&self) {
        self.machine.tm.start();
        self.gate.open();
    }

    fn halt(&self) {
        self.gate.hold(&self.machine);
        self.machine.tm.stop();
    }

    fn resume(&self) -> Result<(), Error> {
        match self.now() {
            VmState::Created | VmState::Paused => {
                self.machine.each_device(|_, d| d.resume());
                self.become_(VmState::Running, None);
                self.go();
                Ok(())
            }
            _ => self.refuse("resume"),
        }
    }

    fn pause(&self, reason: Option<&str>) -> Result<(), Error> {
        if self.now() != VmState::Running {
            return self.refuse("pause");
        }
        self.halt();
        self.machine.each_device(|_, d| d.suspend());
        self.become_(VmState::Paused, reason);
        Ok(())
    }

    fn reset(&self) -> Result<(), Error> {
        let before = self.now();
        if before == VmState::Off {
            return self.refuse("reset");
        }
        if before == VmState::Running {
            self.halt();
        }
        self.machine.each_device(|_, d| d.reset());
        self.machine.ferr.set(false);
        self.machine.phys.set_a20(true);
        self.machine.trpm.reset();
        for (cpu, vcpu) in self.vcpus.iter().enumerate() {
            let mut inner = vcpu.inner.lock();
            *inner.state = State::reset(cpu);
            if let Some(engine) = &mut inner.engine {
                engine.state_changed();
            }
        }
        let count = self.resets.get() + 1;
        self.resets.set(count);
        if seldom(count) {
            tracing::info!(target: "VM", "reset ({count})");
        }
        match before {
            VmState::Running => self.go(),
            VmState::Stuck => self.become_(VmState::Paused, None),
            _ => {}
        }
        Ok(())
    }

    fn stuck(&self, reason: &str) {
        if self.now() == VmState::Running {
            self.halt();
            self.become_(VmState::Stuck, Some(reason));
        }
    }

    fn look(&self, job: Look) {
        let running = self.now() == VmState::Running;
        if running {
            self.gate.hold(&self.machine);
        }
        job(&mut self.held());
        if running {
            self.gate.open();
        }
    }

    fn save(&self, path: &Path) -> Result<(), Error> {
        match self.now() {
            VmState::Created | VmState::Paused => ssm::save(&self.held(), path),
            _ => self.refuse("save"),
        }
    }

    fn load(&self, path: &Path) -> Result<(), Error> {
        match self.now() {
            VmState::Created | VmState::Paused => {
                let loaded = ssm::load(&self.held(), path);
                match &loaded {
                    Ok(()) => self.become_(VmState::Paused, None),
                    Err(e) => self.become_(VmState::Stuck, Some(&e.to_string())),
                }
                loaded
            }
            _ => self.refuse("load the state of"),
        }
    }

    fn end(&mut self) {
        self.gate.end(&self.machine);
        self.machine.tm.end();
        self.large.end();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn power_off(&mut self, reason: Option<&str>) {
        self.end();
        self.machine.tm.stop();
        self.machine.each_device(|_, d| d.suspend());
        self.become_(VmState::Off, reason);
    }
}
