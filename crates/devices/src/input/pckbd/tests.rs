use pdm::cfgm::Node;
use pdm::testing::TestHost;
use pdm::{Device, MouseEvent, VmRequest};

use super::REG;

struct Bench {
    dev: Box<dyn Device>,
    host: TestHost,
}

impl Bench {
    fn new() -> Self {
        let mut host = TestHost::default();
        let dev = (REG.construct)(&Node::default(), 0, &mut host).unwrap();
        Self { dev, host }
    }

    /// Lets all timers run out, except the repeat.
    fn settle(&mut self) {
        loop {
            let due = self.host.timers.iter().filter(|(id, _)| **id != 3);
            let due = due.filter_map(|(id, t)| Some((t.deadline()?, *id))).min();
            let Some((_, id)) = due else { return };
            self.host.timers[&id].disarm();
            self.dev.timers().unwrap().expired(id);
        }
    }

    fn out(&mut self, port: u16, value: u8) {
        self.dev.pio().unwrap().write(port, 1, value.into());
    }

    fn inp(&mut self, port: u16) -> u8 {
        self.dev.pio().unwrap().read(port, 1) as u8
    }

    /// Everything that arrives, with whether the mouse sent it.
    fn drain(&mut self) -> Vec<(u8, bool)> {
        let mut all = Vec::new();
        loop {
            self.settle();
            let status = self.inp(0x64);
            if status & 1 == 0 {
                return all;
            }
            all.push((self.inp(0x60), status & 0x20 != 0));
        }
    }

    fn keys(&mut self) -> Vec<u8> {
        self.drain().into_iter().map(|(b, _)| b).collect()
    }

    fn type_in(&mut self, codes: &[u8]) {
        for code in codes {
            assert!(self.dev.keyboard().unwrap().put_scancode(*code));
        }
    }

    fn aux(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        for byte in bytes {
            self.out(0x64, 0xd4);
            self.out(0x60, *byte);
            all.extend(self.keys());
        }
        all
    }
}

#[test]
fn firmware_start_sequence() {
    let mut b = Bench::new();
    b.out(0x64, 0xaa);
    assert_eq!(b.inp(0x64) & 5, 5);
    assert_eq!(b.inp(0x60), 0x55);
    b.out(0x64, 0xab);
    assert_eq!(b.inp(0x60), 0);
    b.out(0x60, 0xff);
    assert_eq!(b.keys(), [0xfa, 0xaa]);
    b.out(0x64, 0x60);
    b.out(0x60, 0x61);
    b.out(0x64, 0x20);
    assert_eq!(b.keys(), [0x61]);
}

#[test]
fn key_strokes_in_all_sets_raise_irq_1() {
    let mut b = Bench::new();
    b.out(0x64, 0x60);
    b.out(0x60, 0x41);
    b.type_in(&[0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    b.settle();
    assert!(b.dev.pio().is_some());
    assert_eq!(b.keys(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    b.out(0x64, 0x60);
    b.out(0x60, 0x01);
    b.type_in(&[0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8]);
    assert_eq!(b.keys(), [0x1c, 0xf0, 0x1c, 0xe0, 0x75, 0xe0, 0xf0, 0x75]);
    b.type_in(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    assert_eq!(b.keys(), [0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]);
    b.out(0x60, 0xf0);
    b.out(0x60, 3);
    b.type_in(&[0x1e, 0x9e, 0xe0, 0x1d, 0xe0, 0x9d]);
    assert_eq!(b.keys(), [0xfa, 0x1c, 0x58, 0xf0, 0x58]);
    b.out(0x60, 0xf0);
    assert_eq!(b.keys(), [0xfa]);
    b.out(0x60, 0);
    assert_eq!(b.keys(), [0xfa, 3]);
}

#[test]
fn a_held_key_repeats_until_released() {
    let mut b = Bench::new();
    b.type_in(&[0x1e]);
    assert_eq!(b.keys(), [0x1e]);
    assert!(b.host.timers[&3].deadline().is_some());
    b.dev.timers().unwrap().expired(3);
    assert_eq!(b.keys(), [0x1e]);
    b.type_in(&[0x1e]);
    assert_eq!(b.keys(), [], "the host's repeats are dropped");
    b.type_in(&[0x9e]);
    assert!(b.host.timers[&3].deadline().is_none());
}

#[test]
fn keyboard_commands() {
    let mut b = Bench::new();
    b.out(0x60, 0xed);
    assert_eq!(b.keys(), [0xfa]);
    b.out(0x60, 5);
    assert_eq!(b.keys(), [0xfa]);
    assert_eq!(b.dev.keyboard().unwrap().leds(), 5);
    b.out(0x60, 0xee);
    assert_eq!(b.keys(), [0xee]);
    b.out(0x60, 0xf2);
    assert_eq!(b.keys(), [0xfa, 0xab, 0x41], "83 is translated");
    b.out(0x60, 0xf5);
    assert_eq!(b.keys(), [0xfa]);
    b.type_in(&[0x1e]);
    assert_eq!(b.keys(), []);
    b.out(0x60, 0x12);
    assert_eq!(b.keys(), [0xfe]);
}

#[test]
fn wheel_mouse_reports_and_raises_irq_12() {
    let mut b = Bench::new();
    b.out(0x64, 0xa8);
    assert_eq!(b.aux(&[0xff]), [0xfa, 0xaa, 0x00]);
    assert_eq!(b.aux(&[0xf3, 200, 0xf3, 100, 0xf3, 80]), [0xfa; 6]);
    assert_eq!(b.aux(&[0xf2]), [0xfa, 3]);
    assert_eq!(b.aux(&[0xf4]), [0xfa]);
    let event = MouseEvent {
        dx: 5,
        dy: 3,
        dz: -1,
        buttons: 1,
    };
    b.dev.mouse().unwrap().put_mouse_event(event);
    let got = b.drain();
    assert!(got.iter().all(|(_, aux)| *aux));
    let bytes: Vec<u8> = got.into_iter().map(|(b, _)| b).collect();
    assert_eq!(bytes, [0x29, 5, 0xfd, 0xff]);
    assert_eq!(b.aux(&[0xe9]), [0xfa, 0x24, 2, 80]);
}

#[test]
fn a20_and_reset_lines() {
    let mut b = Bench::new();
    b.out(0x64, 0xd1);
    b.out(0x60, 0xdd);
    assert!(!b.host.phys.a20());
    b.out(0x64, 0xd0);
    assert_eq!(b.inp(0x60) & 3, 1);
    b.out(0x64, 0xdf);
    assert!(b.host.phys.a20());
    b.out(0x64, 0xfe);
    assert_eq!(*b.host.recorder.requests.lock(), [VmRequest::Reset]);
}

#[test]
fn state_survives_saving_in_the_middle_of_work() {
    let mut b = Bench::new();
    b.aux(&[0xf4, 0xf3]);
    b.out(0x60, 0xff);
    b.dev.keyboard().unwrap().put_scancode(0xe0);
    let event = MouseEvent {
        dx: 700,
        dy: -3,
        dz: 2,
        buttons: 6,
    };
    b.dev.mouse().unwrap().put_mouse_event(event);
    let data = b.dev.save().unwrap();
    let mut fresh = Bench::new();
    fresh.dev.load(1, &data).unwrap();
    assert_eq!(fresh.dev.save().unwrap(), data);
    assert_eq!(fresh.drain(), b.drain());
    fresh.dev.reset();
    assert_eq!(fresh.dev.save().unwrap(), Bench::new().dev.save().unwrap());
}
