use std::sync::Arc;

use parking_lot::Mutex;
use pdm::Device;
use pdm::cfgm::Node;
use pdm::driver::{CharDriver, CharInput};
use pdm::testing::TestHost;

use super::REG;

#[derive(Default)]
struct Wire {
    sent: Vec<u8>,
    busy: bool,
}

struct Driver(Arc<Mutex<Wire>>);

impl CharDriver for Driver {
    fn send(&mut self, data: &[u8]) -> usize {
        let mut wire = self.0.lock();
        if wire.busy {
            return 0;
        }
        wire.sent.extend_from_slice(data);
        data.len()
    }
    fn start(&mut self, _: Arc<dyn CharInput>) {}
}

fn port() -> (Box<dyn Device>, TestHost, Arc<Mutex<Wire>>) {
    let mut host = TestHost::default();
    let wire = Arc::new(Mutex::new(Wire::default()));
    host.chars.insert(0, Box::new(Driver(wire.clone())));
    let dev = (REG.construct)(&Node::default(), 0, &mut host).unwrap();
    (dev, host, wire)
}

fn out(dev: &mut Box<dyn Device>, reg: u16, value: u8) {
    dev.pio().unwrap().write(0x3f8 + reg, 1, value.into());
}

fn inp(dev: &mut Box<dyn Device>, reg: u16) -> u8 {
    dev.pio().unwrap().read(0x3f8 + reg, 1) as u8
}

#[test]
fn transmit_empty_interrupt_follows_the_data_sheet() {
    let (mut dev, _host, wire) = port();
    out(&mut dev, 4, 0x0b);
    out(&mut dev, 1, 2);
    assert_eq!(
        inp(&mut dev, 2),
        0x02,
        "enabling with an empty register raises it"
    );
    assert_eq!(inp(&mut dev, 2), 0x01, "reading IIR takes it back");
    out(&mut dev, 0, b'x');
    assert_eq!(inp(&mut dev, 2), 0x02);
    assert_eq!(wire.lock().sent, b"x");
}

#[test]
fn busy_driver_holds_output_back() {
    let (mut dev, host, wire) = port();
    wire.lock().busy = true;
    out(&mut dev, 2, 1);
    out(&mut dev, 0, b'a');
    out(&mut dev, 0, b'b');
    assert_eq!(inp(&mut dev, 5) & 0x60, 0);
    assert!(host.timers[&1].deadline().is_some());
    wire.lock().busy = false;
    dev.timers().unwrap().expired(1);
    assert_eq!(wire.lock().sent, b"ab");
    assert_eq!(inp(&mut dev, 5) & 0x60, 0x60);
}

#[test]
fn receive_trigger_timeout_and_back_pressure() {
    let (mut dev, host, _) = port();
    out(&mut dev, 4, 0x08);
    out(&mut dev, 2, 0xc1);
    out(&mut dev, 1, 1);
    assert_eq!(dev.char_input().unwrap().receive(&[7; 5]), 5);
    assert_eq!(inp(&mut dev, 2), 0xc1, "below the trigger level of 14");
    assert!(host.timers[&0].deadline().is_some());
    dev.timers().unwrap().expired(0);
    assert_eq!(inp(&mut dev, 2), 0xcc);
    assert_eq!(
        dev.char_input().unwrap().receive(&[8; 20]),
        11,
        "sixteen places"
    );
    assert_eq!(inp(&mut dev, 2), 0xc4);
    for _ in 0..16 {
        assert_eq!(inp(&mut dev, 5) & 1, 1);
        inp(&mut dev, 0);
    }
    assert_eq!(inp(&mut dev, 5) & 1, 0);
    assert_eq!(inp(&mut dev, 2), 0xc1);
}

#[test]
fn loopback_carries_data_and_modem_lines() {
    let (mut dev, _, wire) = port();
    out(&mut dev, 3, 3);
    out(&mut dev, 4, 0x1f);
    assert_eq!(inp(&mut dev, 6) & 0xf0, 0xf0);
    out(&mut dev, 4, 0x12);
    assert_eq!(inp(&mut dev, 6), 0x10 | 0x0e, "DSR, DCD changed, RI fell");
    out(&mut dev, 0, 0x55);
    assert_eq!(inp(&mut dev, 0), 0x55);
    assert!(wire.lock().sent.is_empty());
    assert_eq!(dev.char_input().unwrap().receive(b"z"), 0);
}

#[test]
fn a_16450_has_no_fifo_and_overruns() {
    let mut host = TestHost::default();
    let mut node = Node::default();
    node.set("UartType", "16450");
    let mut dev = (REG.construct)(&node, 1, &mut host).unwrap();
    assert_eq!(host.ports, [(0x2f8, 8)]);
    let pio = dev.pio().unwrap();
    pio.write(0x2fa, 1, 0xc1);
    assert_eq!(pio.read(0x2fa, 1), 1);
    pio.write(0x2fc, 1, 0x10);
    pio.write(0x2fb, 1, 3);
    pio.write(0x2f8, 1, 1);
    pio.write(0x2f8, 1, 2);
    assert_eq!(pio.read(0x2fd, 1), 0x63);
    assert_eq!(pio.read(0x2f8, 1), 2);
    node.set("UartType", "8250");
    assert!((REG.construct)(&node, 2, &mut host).is_err());
}

#[test]
fn state_survives_saving_in_the_middle_of_work() {
    let (mut dev, _, wire) = port();
    wire.lock().busy = true;
    out(&mut dev, 3, 0x83);
    out(&mut dev, 0, 1);
    out(&mut dev, 1, 0);
    out(&mut dev, 3, 0x03);
    out(&mut dev, 2, 0xc7);
    out(&mut dev, 4, 0x0b);
    out(&mut dev, 1, 0x0f);
    out(&mut dev, 0, b'q');
    dev.char_input().unwrap().receive(b"abc");
    let data = dev.save().unwrap();
    let (mut fresh, _, _) = port();
    fresh.load(1, &data).unwrap();
    assert_eq!(fresh.save().unwrap(), data);
    assert_eq!(inp(&mut fresh, 0), b'a');
    assert!(fresh.load(2, &data).is_err());
    assert!(fresh.load(1, &data[..data.len() - 1]).is_err());
    let mut text = String::new();
    fresh.info("", &mut text).unwrap();
    assert!(text.contains("115200 8N1"), "{text}");
}
