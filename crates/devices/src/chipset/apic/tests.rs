use super::chip::DEFAULT_ADDRESS;
use super::*;
use pdm::testing::{Recorder, TestClock, TestHost, TestRange, TestTimer};
use std::sync::atomic::{AtomicU32, Ordering};

struct Rig {
    dev: ApicDevice,
    clock: Arc<TestClock>,
    recorder: Arc<Recorder>,
    page: Arc<TestRange>,
}

/// Two processors, xAPIC, software enabled.
fn rig() -> Rig {
    let host = TestHost::default();
    let page = Arc::new(TestRange::default());
    let apics = Arc::new(Apics {
        cpus: (0..2).map(|n| Mutex::new(Lapic::new(n, true))).collect(),
        timers: (0..2)
            .map(|_| Timer::new(Arc::new(TestTimer::default())))
            .collect(),
        signals: host.recorder.clone(),
        clock: host.clock.clone(),
        tsc_hz: 2_000_000_000,
        mode: 2,
        page: page.clone(),
        sinks: RwLock::default(),
        pic: RwLock::default(),
    });
    let mut rig = Rig {
        dev: ApicDevice { apics },
        clock: host.clock.clone(),
        recorder: host.recorder.clone(),
        page,
    };
    for cpu in 0..2 {
        rig.write(cpu, 0xf0, 0x1ff);
    }
    rig
}

impl Rig {
    fn write(&mut self, cpu: usize, offset: u64, value: u32) {
        Mmio::write(&mut self.dev, cpu, 0, offset, &value.to_le_bytes());
    }
    fn read(&mut self, cpu: usize, offset: u64) -> u32 {
        let mut data = [0; 4];
        Mmio::read(&mut self.dev, cpu, 0, offset, &mut data);
        u32::from_le_bytes(data)
    }
    fn fixed(&self, destination: u32, logical: bool, vector: u8, level: bool) {
        self.dev.apics.deliver(ApicMessage {
            destination,
            logical,
            mode: 0,
            vector,
            level,
        });
    }
    fn take(&self, cpu: usize) -> Option<u8> {
        self.dev.apics.acknowledge(cpu)
    }
    fn deadline(&self, cpu: usize) -> Option<u64> {
        self.dev.apics.timers[cpu].deadline()
    }
}

#[test]
fn priorities_nest_and_tpr_holds_back() {
    let mut rig = rig();
    rig.fixed(0, false, 0x31, false);
    rig.fixed(0, false, 0x52, false);
    assert_eq!(rig.take(0), Some(0x52));
    assert_eq!(rig.take(0), None);
    assert_eq!(rig.read(0, 0xa0), 0x50);
    rig.write(0, 0xb0, 0);
    rig.dev.apics.set_cr8(0, 3);
    assert_eq!(rig.take(0), None);
    rig.write(0, 0x80, 0x20);
    assert_eq!(rig.dev.apics.cr8(0), 2);
    assert_eq!(rig.take(0), Some(0x31));
    assert!(!rig.dev.apics.pending(1));
}

#[test]
fn logical_destinations_flat_and_cluster() {
    let mut rig = rig();
    rig.write(0, 0xd0, 1 << 24);
    rig.write(1, 0xd0, 2 << 24);
    rig.fixed(3, true, 0x40, false);
    assert_eq!((rig.take(0), rig.take(1)), (Some(0x40), Some(0x40)));
    for cpu in 0..2 {
        rig.write(cpu, 0xb0, 0);
        rig.write(cpu, 0xe0, 0x0fff_ffff);
        rig.write(cpu, 0xd0, 0x1100_0000 + (cpu as u32) * 0x1000_0000);
    }
    rig.fixed(0x21, true, 0x41, false);
    assert_eq!((rig.take(0), rig.take(1)), (None, Some(0x41)));
}

#[test]
fn ipis_reach_whom_the_shorthand_says() {
    let mut rig = rig();
    rig.write(0, 0x300, 0x000c_0045);
    assert_eq!((rig.take(0), rig.take(1)), (None, Some(0x45)));
    rig.write(1, 0x310, 1 << 24);
    rig.write(1, 0x300, 0x0000_4500); // INIT to 1
    rig.write(0, 0x310, 1 << 24);
    rig.write(0, 0x300, 0x0000_4609); // SIPI to 1
    rig.write(0, 0x300, 0x0000_8500); // INIT de-assert
    let signals = rig.recorder.signals.lock().clone();
    let kept: Vec<_> = signals.iter().filter(|s| !s.starts_with("intr")).collect();
    assert_eq!(kept, ["init 1", "sipi 1 0x9"]);
    assert_eq!(rig.read(1, 0xf0), 0xff);
}

#[test]
fn lowest_priority_picks_the_idler() {
    let mut rig = rig();
    rig.write(0, 0x80, 0x20);
    let message = ApicMessage {
        destination: 0xff,
        logical: false,
        mode: 1,
        vector: 0x61,
        level: false,
    };
    rig.dev.apics.deliver(message);
    assert_eq!((rig.take(0), rig.take(1)), (None, Some(0x61)));
}

#[test]
fn level_interrupts_broadcast_their_end() {
    #[derive(Default)]
    struct Last(AtomicU32);
    impl EoiSink for Last {
        fn eoi(&self, vector: u8) {
            self.0.store(vector.into(), Ordering::Relaxed);
        }
    }
    let mut rig = rig();
    let last = Arc::new(Last::default());
    rig.dev.apics.add_eoi_sink(last.clone());
    rig.fixed(0, false, 0x70, false);
    rig.take(0);
    rig.write(0, 0xb0, 0);
    assert_eq!(last.0.load(Ordering::Relaxed), 0);
    rig.fixed(0, false, 0x70, true);
    rig.take(0);
    rig.write(0, 0xb0, 0);
    assert_eq!(last.0.load(Ordering::Relaxed), 0x70);
}

#[test]
fn the_pic_comes_through_lint0() {
    struct Pic;
    impl PicAcknowledge for Pic {
        fn acknowledge(&self) -> u8 {
            8
        }
    }
    let mut rig = rig();
    rig.dev.apics.set_pic(Arc::new(Pic));
    rig.dev.apics.set_extint(true);
    assert_eq!(rig.take(0), Some(8));
    rig.write(0, 0x350, 0x1_0700);
    assert_eq!(rig.take(0), None);
    // A globally disabled APIC is not there: INTR goes straight to the processor.
    assert!(
        rig.dev
            .apics
            .write_msr(0, MSR_APIC_BASE, DEFAULT_ADDRESS | chip::BASE_BSP)
    );
    assert_eq!(rig.read(0, 0x30), u32::MAX);
    assert_eq!(rig.take(0), Some(8));
}

#[test]
fn timer_one_shot_and_periodic() {
    let mut rig = rig();
    rig.write(0, 0x3e0, 0xb); // by 1
    rig.write(0, 0x320, 0x50);
    rig.write(0, 0x380, 1_000_000);
    rig.clock.advance(400_000);
    assert_eq!(rig.read(0, 0x390), 600_000);
    assert_eq!(rig.deadline(0), Some(1_000_000));
    rig.clock.advance(600_000);
    rig.dev.expired(0);
    assert_eq!(
        (rig.take(0), rig.read(0, 0x390), rig.deadline(0)),
        (Some(0x50), 0, None)
    );
    rig.write(0, 0xb0, 0);
    rig.write(0, 0x3e0, 0x3); // by 16
    rig.write(0, 0x320, 0x2_0051);
    rig.write(0, 0x380, 10_000);
    rig.clock.advance(370_000);
    rig.dev.expired(0);
    assert_eq!(rig.take(0), Some(0x51));
    assert_eq!(rig.deadline(0), Some(1_000_000 + 3 * 160_000));
    rig.write(0, 0x320, 0x3_0051);
    assert_eq!(rig.deadline(0), None);
}

#[test]
fn timer_tsc_deadline() {
    let mut rig = rig();
    assert!(rig.dev.apics.write_msr(0, MSR_TSC_DEADLINE, 5));
    assert_eq!(rig.dev.apics.read_msr(0, MSR_TSC_DEADLINE), Some(0));
    rig.write(0, 0x320, 0x4_0052);
    rig.dev.apics.write_msr(0, MSR_TSC_DEADLINE, 2_000_000);
    assert_eq!(rig.deadline(0), Some(1_000_001));
    rig.clock.advance(1_000_001);
    rig.dev.expired(0);
    assert_eq!(rig.take(0), Some(0x52));
    assert_eq!(rig.dev.apics.read_msr(0, MSR_TSC_DEADLINE), Some(0));
}

#[test]
fn x2apic_mode_rules() {
    let mut rig = rig();
    let apics = rig.dev.apics.clone();
    assert_eq!(apics.read_msr(1, 0x802), None);
    let on = DEFAULT_ADDRESS | chip::BASE_ENABLE;
    assert!(!apics.write_msr(1, MSR_APIC_BASE, DEFAULT_ADDRESS | chip::BASE_X2APIC));
    assert!(apics.write_msr(1, MSR_APIC_BASE, on | chip::BASE_X2APIC));
    assert!(!apics.write_msr(1, MSR_APIC_BASE, on));
    assert_eq!(apics.read_msr(1, 0x802), Some(1));
    assert_eq!(apics.read_msr(1, 0x80d), Some(2));
    assert_eq!(rig.read(1, 0x20), u32::MAX);
    assert!(!apics.write_msr(1, 0x80b, 1));
    assert!(!apics.write_msr(1, 0x802, 1));
    assert!(!apics.write_msr(1, 0x80e, 0));
    assert!(apics.write_msr(1, 0x83f, 0x77));
    assert_eq!(rig.take(1), Some(0x77));
    assert!(apics.write_msr(1, 0x830, 0x4_0078 | 7 << 32));
    assert!(apics.write_msr(1, 0x80b, 0));
    assert_eq!(rig.take(1), Some(0x78));
}

#[test]
fn errors_are_latched_and_signalled() {
    let mut rig = rig();
    rig.write(0, 0x370, 0xfe);
    rig.write(0, 0x300, 0x4_0005); // self IPI with an illegal vector
    assert_eq!(rig.take(0), Some(0xfe));
    assert_eq!(rig.read(0, 0x280), 0);
    rig.write(0, 0x280, 0);
    assert_eq!(rig.read(0, 0x280), chip::SEND_ILLEGAL);
    rig.write(0, 0x3a0, 1);
    rig.write(0, 0x280, 0);
    assert_eq!(rig.read(0, 0x280), chip::ILLEGAL_REGISTER);
}

#[test]
fn state_survives() {
    let mut rig = rig();
    rig.write(0, 0x320, 0x2_0051);
    rig.write(0, 0x380, 10_000_000);
    rig.fixed(0, false, 0x70, true);
    rig.take(0);
    let saved = rig.dev.save().unwrap();
    rig.dev.reset();
    assert_ne!(rig.dev.save().unwrap(), saved);
    rig.dev.load(SAVED_VERSION, &saved).unwrap();
    assert_eq!(rig.dev.save().unwrap(), saved);
    assert_eq!(rig.deadline(0), Some(20_000_000));
}

#[test]
fn the_page_moves_with_the_first_processor() {
    let mut rig = rig();
    rig.dev.reset();
    assert_eq!(*rig.page.0.lock(), Some(0xfee0_0000));
    assert!(
        rig.dev
            .apics
            .write_msr(0, MSR_APIC_BASE, 0xd000_0000 | 0x900)
    );
    assert_eq!(*rig.page.0.lock(), Some(0xd000_0000));
    assert_eq!(rig.dev.apics.read_msr(0, MSR_APIC_BASE), Some(0xd000_0900));
    // Beyond the width of physical addresses, and a reserved bit.
    assert!(!rig.dev.apics.write_msr(0, MSR_APIC_BASE, 1 << 40 | 0x900));
    assert!(!rig.dev.apics.write_msr(0, MSR_APIC_BASE, 0xd000_0901));
    let saved = rig.dev.save().unwrap();
    rig.dev.reset();
    assert_eq!(*rig.page.0.lock(), Some(0xfee0_0000));
    rig.dev.load(SAVED_VERSION, &saved).unwrap();
    assert_eq!(*rig.page.0.lock(), Some(0xd000_0000));
}
