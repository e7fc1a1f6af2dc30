//! A whole machine with three tiny devices and a guest of 35 bytes, on every engine there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pdm::cfgm::Node;
use pdm::irq::{ApicMessage, CpuSignals, EoiSink, InterruptController, PicAcknowledge};
use pdm::{Device, DeviceReg, Host, Pio, Result, Timer, TimerSink, VmControl, VmRequest, ssm};
use pgm::{RegionKind, WriteFlags};
use vmm::{Attachments, Vm, VmEvents, VmState};

/// Where the guest counts its interrupts.
const COUNTER: u64 = 0x500;
const TICK_NS: u64 = 1_000_000;

/// At F000:0000:
///   xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
///   mov word [0x80], isr; mov word [0x82], 0xf000
///   out 0x90, al; sti
/// l: hlt; jmp l; nop
/// isr (0x1c): inc word [0x500]; out 0x90, al; iret
const PROGRAM: [u8; 35] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xc7, 0x06, 0x80, 0x00, 0x1c, 0x00, 0xc7,
    0x06, 0x82, 0x00, 0x00, 0xf0, 0xe6, 0x90, 0xfb, 0xf4, 0xeb, 0xfd, 0x90, 0xff, 0x06, 0x00, 0x05,
    0xe6, 0x90, 0xcf,
];

static REGISTRY: &[DeviceReg] = &[
    DeviceReg {
        name: "rom",
        description: "the guest's program",
        saved_version: 1,
        max_instances: 1,
        construct: rom,
    },
    DeviceReg {
        name: "ticker",
        description: "timer with an interrupt controller",
        saved_version: 1,
        max_instances: 1,
        construct: ticker,
    },
];

struct Rom;

fn rom(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let block = host.alloc_ram(0x10000)?;
    let ram = host.phys().ram().clone();
    match config.bytes("Program") {
        Some(program) => ram.write(block.offset, &program),
        None => ram.write(block.offset, &PROGRAM),
    }
    // jmp 0xf000:0
    ram.write(block.offset + 0xfff0, &[0xea, 0, 0, 0, 0xf0]);
    for gpa in [0xf_0000, 0xffff_0000] {
        let writes = WriteFlags::ReadOnly;
        let kind = RegionKind::Memory { block, writes };
        host.phys().add(gpa, 0x10000, 1, kind)?;
    }
    Ok(Box::new(Rom))
}

impl Device for Rom {
    fn reset(&mut self) {}
    fn save(&self) -> Result<Vec<u8>> {
        ssm::encode(&0u8)
    }
    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        ssm::decode::<u8>(version, 1, data).map(drop)
    }
    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        out.write_str("rom")
    }
}

struct Controller {
    pending: AtomicBool,
    cpus: Arc<dyn CpuSignals>,
}

impl Controller {
    fn set(&self, on: bool) {
        self.pending.store(on, Ordering::SeqCst);
        self.cpus.set_intr(0, on);
    }
}

impl InterruptController for Controller {
    fn pending(&self, cpu: usize) -> bool {
        cpu == 0 && self.pending.load(Ordering::SeqCst)
    }
    fn acknowledge(&self, cpu: usize) -> Option<u8> {
        let was = self.pending(cpu);
        self.set(false);
        was.then_some(0x20)
    }
    fn cr8(&self, _: usize) -> u8 {
        0
    }
    fn set_cr8(&self, _: usize, _: u8) {}
    fn read_msr(&self, _: usize, _: u32) -> Option<u64> {
        None
    }
    fn write_msr(&self, _: usize, _: u32, _: u64) -> bool {
        false
    }
    fn deliver(&self, _: ApicMessage) {}
    fn add_eoi_sink(&self, _: Arc<dyn EoiSink>) {}
    fn set_extint(&self, _: bool) {}
    fn set_pic(&self, _: Arc<dyn PicAcknowledge>) {}
    fn reset_cpu(&self, _: usize) {}
}

struct Ticker {
    controller: Arc<Controller>,
    timer: Timer,
    vm: Arc<dyn VmControl>,
    ticks: u64,
    /// Says "disk full" at this tick.
    full_at: u64,
    resumed: u64,
}

fn ticker(config: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    let controller = Arc::new(Controller {
        pending: AtomicBool::new(false),
        cpus: host.cpus(),
    });
    host.set_interrupt_controller(controller.clone());
    host.map_pio(0x90, 1)?;
    Ok(Box::new(Ticker {
        controller,
        timer: host.timer(0, "tick"),
        vm: host.vm(),
        ticks: 0,
        full_at: config.int("FullAt", u64::MAX)?,
        resumed: 0,
    }))
}

impl Device for Ticker {
    fn reset(&mut self) {
        self.timer.disarm();
        self.controller.set(false);
        self.ticks = 0;
    }
    fn resume(&mut self) {
        self.resumed += 1;
    }
    fn save(&self) -> Result<Vec<u8>> {
        let pending = self.controller.pending(0);
        ssm::encode(&(self.ticks, self.timer.deadline(), pending))
    }
    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        let (ticks, deadline, pending): (u64, Option<u64>, bool) = ssm::decode(version, 1, data)?;
        self.ticks = ticks;
        if let Some(at) = deadline {
            self.timer.arm(at);
        }
        self.controller.set(pending);
        Ok(())
    }
    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        write!(out, "ticks {} resumed {}", self.ticks, self.resumed)
    }
    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn timers(&mut self) -> Option<&mut dyn TimerSink> {
        Some(self)
    }
}

impl Pio for Ticker {
    fn read(&mut self, _: u16, _: u8) -> u32 {
        0
    }
    fn write(&mut self, _: u16, _: u8, _: u32) {
        let from = self.ticks * TICK_NS;
        self.timer.arm(from + TICK_NS);
    }
}

impl TimerSink for Ticker {
    fn expired(&mut self, id: u32) {
        assert_eq!(id, 0);
        self.ticks += 1;
        self.controller.set(true);
        if self.ticks == self.full_at {
            self.vm.request(VmRequest::Suspend("disk full".into()));
        }
    }
}

#[derive(Default)]
struct Events(Mutex<Vec<String>>);

impl VmEvents for Events {
    fn state_changed(&self, state: VmState, reason: Option<&str>) {
        let reason = reason.unwrap_or("");
        self.0.lock().push(format!("{state:?} {reason}"));
    }
    fn message(&self, text: &str) {
        self.0.lock().push(text.to_owned());
    }
}

/// Engines to test, by the names `EM/ForceEngine` takes.
fn engines() -> Vec<&'static str> {
    let mut all = vec!["rem"];
    if hwaccm::probe().is_ok() {
        all.push("kvm");
    }
    all
}

fn config(engine: &str) -> Node {
    let mut config = Node::default();
    config.set("RamSize", 4u64 << 20);
    config.set_path("EM/ForceEngine", engine);
    config.set_path("Devices/rom/0/Config/Present", true);
    config.set_path("Devices/ticker/0/Config/Present", true);
    config
}

fn build(config: Node) -> (Arc<Vm>, Arc<Events>) {
    let events = Arc::new(Events::default());
    let vm = Vm::new(config, REGISTRY, Attachments::default(), events.clone()).unwrap();
    (vm, events)
}

fn count(vm: &Vm) -> u16 {
    let data = vm.read_memory(COUNTER, 2);
    u16::from_le_bytes([data[0], data[1]])
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn timers_wake_the_guest_until_it_is_paused() {
    for engine in engines() {
        let (vm, events) = build(config(engine));
        assert_eq!(vm.state(), VmState::Created);
        vm.resume().unwrap();
        wait_for(engine, || count(&vm) > 5);
        assert!(vm.resume().is_err(), "it runs");
        vm.pause().unwrap();
        let (counted, time) = (count(&vm), vm.uptime_ns());
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!((count(&vm), vm.uptime_ns()), (counted, time), "{engine}");
        assert!(vm.registers(0).unwrap().rip < 0x40);
        vm.resume().unwrap();
        wait_for(engine, || count(&vm) > counted);
        vm.power_off().unwrap();
        assert_eq!(vm.state(), VmState::Off);
        assert!(vm.resume().is_err() && vm.registers(0).is_err());
        let seen = events.0.lock().clone();
        assert_eq!(seen, ["Running ", "Paused ", "Running ", "Off "]);
    }
}

#[test]
fn a_saved_machine_goes_on_in_another_and_on_another_engine() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.sav");
    for from in engines() {
        let (vm, _) = build(config(from));
        vm.resume().unwrap();
        wait_for(from, || count(&vm) > 3);
        assert!(vm.save(&file).is_err(), "it runs");
        vm.pause().unwrap();
        vm.save(&file).unwrap();
        let (counted, time) = (count(&vm), vm.uptime_ns());
        let device = vm.info("ticker", "").unwrap();
        vm.power_off().unwrap();
        for to in engines() {
            let (vm, _) = build(config(to));
            if let Err(e) = vm.load(&file) {
                // The hardware engine may show fewer features than the host has.
                let text = e.to_string();
                assert!(text.contains("lacks features"), "{text}");
                assert_eq!((from, to), ("rem", "kvm"));
                continue;
            }
            assert_eq!(vm.state(), VmState::Paused);
            assert_eq!(count(&vm), counted);
            assert!(vm.uptime_ns().abs_diff(time) < 100);
            assert_eq!(
                vm.info("ticker", "").unwrap().split(" resumed").next(),
                device.split(" resumed").next()
            );
            let again = folder.path().join("again.sav");
            vm.save(&again).unwrap();
            let same = std::fs::read(&again).unwrap() == std::fs::read(&file).unwrap();
            assert!(
                same || vm.uptime_ns() != time,
                "saving again gives the same"
            );
            vm.resume().unwrap();
            wait_for("it goes on", || count(&vm) > counted);
        }
    }
}

#[test]
fn damaged_states_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.sav");
    let (vm, _) = build(config("rem"));
    vm.save(&file).unwrap();
    let good = std::fs::read(&file).unwrap();
    for at in [0, 9, 20, good.len() / 2, good.len() - 3] {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        std::fs::write(&file, &bad).unwrap();
        let (vm, _) = build(config("rem"));
        assert!(vm.load(&file).is_err(), "byte {at}");
        assert_eq!(vm.state(), VmState::Stuck);
        assert!(vm.resume().is_err());
    }
    std::fs::write(&file, &good[..good.len() - 10]).unwrap();
    assert!(vm.load(&file).is_err());
    // A machine with more memory, and one with more processors.
    std::fs::write(&file, &good).unwrap();
    let mut other = config("rem");
    other.set("RamSize", 8u64 << 20);
    let (vm, _) = build(other);
    let text = vm.load(&file).unwrap_err().to_string();
    assert!(text.contains("'pgm'"), "{text}");
    std::fs::write(&file, &good).unwrap();
    let mut other = config("rem");
    other.set("NumCPUs", 2u64);
    let (vm, _) = build(other);
    let text = vm.load(&file).unwrap_err().to_string();
    assert!(text.contains("'cpum'"), "{text}");
}

#[test]
fn a_full_disk_pauses_and_resuming_tries_again() {
    let mut config = config("rem");
    config.set_path("Devices/ticker/0/Config/FullAt", 3u64);
    let (vm, events) = build(config);
    vm.resume().unwrap();
    wait_for("paused", || vm.state() == VmState::Paused);
    assert!(events.0.lock().contains(&"Paused disk full".to_owned()));
    vm.resume().unwrap();
    wait_for("goes on", || count(&vm) > 5);
    assert!(vm.info("ticker", "").unwrap().ends_with("resumed 2"));
}

#[test]
fn reset_starts_the_guest_again() {
    for engine in engines() {
        let (vm, _) = build(config(engine));
        vm.resume().unwrap();
        wait_for(engine, || count(&vm) > 5);
        vm.reset().unwrap();
        assert_eq!(vm.state(), VmState::Running);
        // RAM is kept: the guest goes on counting, from a device that starts over.
        let counted = count(&vm);
        wait_for(engine, || count(&vm) > counted.wrapping_add(3));
    }
}

#[test]
fn a_triple_fault_resets() {
    // lidt [cs:zero]; int3: no interrupt table, no way out. A byte counts the attempts.
    // 0: xor ax, ax; mov ds, ax; inc byte [0x500]; cs lidt [0x20]; mov eax, cr0; or al, 1;
    //    mov cr0, eax; int3
    let program = vec![
        0x31, 0xc0, 0x8e, 0xd8, 0xfe, 0x06, 0x00, 0x05, 0x2e, 0x0f, 0x01, 0x1e, 0x40, 0x00, 0x0f,
        0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xcc,
    ];
    let mut config = config("rem");
    config.set_path("Devices/rom/0/Config/Program", program);
    let (vm, _) = build(config);
    vm.resume().unwrap();
    wait_for("resets", || count(&vm) & 0xff > 2);
}

#[test]
fn what_the_hardware_engine_lacks_goes_on_in_software() {
    // mov eax, cr4; or ax, 0x200; mov cr4, eax; mov eax, 0x1234; movd xmm0, eax; movd ebx, xmm0;
    // xor ax, ax; mov ds, ax; mov [0x500], bx; l: cli; hlt; jmp l
    let program = vec![
        0x0f, 0x20, 0xe0, 0x0d, 0x00, 0x02, 0x0f, 0x22, 0xe0, 0x66, 0xb8, 0x34, 0x12, 0x00, 0x00,
        0x66, 0x0f, 0x6e, 0xc0, 0x66, 0x0f, 0x7e, 0xc3, 0x31, 0xc0, 0x8e, 0xd8, 0x89, 0x1e, 0x00,
        0x05, 0xfa, 0xf4, 0xeb, 0xfc,
    ];
    for engine in engines() {
        let mut config = config(engine);
        config.set_path("Devices/rom/0/Config/Program", program.clone());
        let (vm, _) = build(config);
        vm.resume().unwrap();
        wait_for(engine, || count(&vm) == 0x1234);
        let complete = hwaccm::probe().is_ok_and(|p| p == hwaccm::Probed::Complete);
        if engine == "kvm" && !complete {
            wait_for("the switch", || vm.engine_name().unwrap() == "REM");
        }
    }
}

#[test]
fn memory_goes_on_above_4_gib() {
    let mut config = config("rem");
    config.set("RamSize", 5u64 << 30);
    let (vm, _) = build(config);
    assert_eq!(vm.read_memory(0xdfff_fff0, 32)[15..17], [0, 0xff]);
    assert_eq!(
        vm.read_memory((1 << 32) - 2, 4),
        [0, 0, 0, 0],
        "ROM, then RAM"
    );
    let end = (1u64 << 32) + (5 << 30) - 0xe000_0000;
    assert_eq!(vm.read_memory(end - 1, 2), [0, 0xff]);
}

#[test]
fn wrong_configurations_are_explained() {
    let fails = |config: Node| {
        let events = Arc::new(Events::default());
        match Vm::new(config, REGISTRY, Attachments::default(), events) {
            Ok(_) => panic!("it was built"),
            Err(e) => e.to_string(),
        }
    };
    let mut c = config("rem");
    c.set_path("Devices/flux/0/Config/X", 1u64);
    assert!(fails(c).contains("'flux'"));
    let mut c = config("rem");
    c.set("RamSize", 1u64);
    assert!(fails(c).contains("RamSize"));
    assert!(fails(config("abacus")).contains("'abacus'"));
    let mut c = Node::default();
    c.set_path("Devices/rom/0/Config/Present", true);
    assert!(fails(c).contains("interrupt controller"));
}
