//! Saved state of keyboard controller, keyboard and mouse.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::Pckbd;
use super::keyboard::Held;

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    controller: SavedController,
    #[n(1)]
    keyboard: SavedKeyboard,
    #[n(2)]
    mouse: SavedMouse,
    #[n(3)]
    timers: Vec<Option<u64>>,
    #[n(4)]
    a20: bool,
}

#[derive(Encode, Decode)]
struct SavedController {
    #[n(0)]
    data: u8,
    #[n(1)]
    full: bool,
    #[n(2)]
    aux: bool,
    #[n(3)]
    command_written: bool,
    #[n(4)]
    #[cbor(with = "minicbor::bytes")]
    ram: Vec<u8>,
    #[n(5)]
    command: u8,
    #[n(6)]
    replies: Vec<(u8, bool)>,
    #[n(7)]
    released: bool,
}

#[derive(Encode, Decode)]
struct SavedKeyboard {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    replies: Vec<u8>,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    keys: Vec<u8>,
    #[n(2)]
    command: u8,
    #[n(3)]
    scanning: bool,
    #[n(4)]
    set: u8,
    #[n(5)]
    leds: u8,
    #[n(6)]
    typematic: u8,
    #[n(7)]
    last_sent: u8,
    #[n(8)]
    #[cbor(with = "minicbor::bytes")]
    attributes: Vec<u8>,
    #[n(9)]
    prefix: u8,
    #[n(10)]
    held: Option<(u8, bool)>,
}

#[derive(Encode, Decode)]
struct SavedMouse {
    #[n(0)]
    #[cbor(with = "minicbor::bytes")]
    replies: Vec<u8>,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    packets: Vec<u8>,
    #[n(2)]
    command: u8,
    #[n(3)]
    reporting: bool,
    #[n(4)]
    remote: bool,
    #[n(5)]
    wrap: bool,
    #[n(6)]
    scale2: bool,
    #[n(7)]
    resolution: u8,
    #[n(8)]
    rate: u8,
    #[n(9)]
    id: u8,
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    rates: Vec<u8>,
    #[n(11)]
    last_sent: u8,
    #[n(12)]
    movement: (i32, i32, i32),
    #[n(13)]
    buttons: u8,
    #[n(14)]
    reported_buttons: u8,
}

/// Writes the state.
pub fn save(dev: &Pckbd) -> Result<Vec<u8>> {
    let (c, k, m) = (&dev.ctl, &dev.keyboard, &dev.mouse);
    ssm::encode(&Saved {
        controller: SavedController {
            data: c.data,
            full: c.full,
            aux: c.aux,
            command_written: c.command_written,
            ram: c.ram.to_vec(),
            command: c.command,
            replies: c.replies.iter().copied().collect(),
            released: c.released,
        },
        keyboard: SavedKeyboard {
            replies: k.replies.iter().copied().collect(),
            keys: k.keys.iter().copied().collect(),
            command: k.command,
            scanning: k.scanning,
            set: k.set,
            leds: k.leds,
            typematic: k.typematic,
            last_sent: k.last_sent,
            attributes: k.attributes.clone(),
            prefix: k.prefix,
            held: k.held.map(|h| (h.code, h.extended)),
        },
        mouse: SavedMouse {
            replies: m.replies.iter().copied().collect(),
            packets: m.packets.iter().copied().collect(),
            command: m.command,
            reporting: m.reporting,
            remote: m.remote,
            wrap: m.wrap,
            scale2: m.scale2,
            resolution: m.resolution,
            rate: m.rate,
            id: m.id,
            rates: m.rates.to_vec(),
            last_sent: m.last_sent,
            movement: (m.dx, m.dy, m.dz),
            buttons: m.buttons,
            reported_buttons: m.reported_buttons,
        },
        timers: dev.timers.iter().map(|t| t.deadline()).collect(),
        a20: dev.phys.a20(),
    })
}

/// Takes it over.
pub fn load(dev: &mut Pckbd, version: u32, data: &[u8]) -> Result<()> {
    let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    let (sc, sk, sm) = (s.controller, s.keyboard, s.mouse);
    let bad = |what: &str| Error::SavedState(format!("{what} has a bad length"));
    let ram = sc.ram.try_into().map_err(|_| bad("controller RAM"))?;
    let rates = sm.rates.try_into().map_err(|_| bad("sample rate list"))?;
    if sk.attributes.len() != 256 || s.timers.len() != dev.timers.len() {
        return Err(bad("key table"));
    }
    let queues = [
        sk.replies.len(),
        sk.keys.len(),
        sm.replies.len(),
        sm.packets.len(),
    ];
    if queues.iter().any(|n| *n > 64) || sc.replies.len() > 16 || !(1..=3).contains(&sk.set) {
        return Err(bad("queue"));
    }
    let c = &mut dev.ctl;
    c.data = sc.data;
    c.full = sc.full;
    c.aux = sc.aux;
    c.command_written = sc.command_written;
    c.ram = ram;
    c.command = sc.command;
    c.replies = sc.replies.into();
    c.released = sc.released;
    let k = &mut dev.keyboard;
    k.replies = sk.replies.into();
    k.keys = sk.keys.into();
    k.command = sk.command;
    k.scanning = sk.scanning;
    k.set = sk.set;
    k.leds = sk.leds;
    k.typematic = sk.typematic;
    k.last_sent = sk.last_sent;
    k.attributes = sk.attributes;
    k.prefix = sk.prefix;
    k.held = sk.held.map(|(code, extended)| Held { code, extended });
    let m = &mut dev.mouse;
    m.replies = sm.replies.into();
    m.packets = sm.packets.into();
    m.command = sm.command;
    m.reporting = sm.reporting;
    m.remote = sm.remote;
    m.wrap = sm.wrap;
    m.scale2 = sm.scale2;
    m.resolution = sm.resolution;
    m.rate = sm.rate;
    m.id = sm.id;
    m.rates = rates;
    m.last_sent = sm.last_sent;
    let clamp = |v: i32| v.clamp(-0x1_0000, 0x1_0000);
    (m.dx, m.dy, m.dz) = (
        clamp(sm.movement.0),
        clamp(sm.movement.1),
        clamp(sm.movement.2),
    );
    m.buttons = sm.buttons;
    m.reported_buttons = sm.reported_buttons;
    for (timer, deadline) in dev.timers.iter().zip(s.timers) {
        match deadline {
            Some(at) => timer.arm(at),
            None => timer.disarm(),
        }
    }
    dev.phys.set_a20(s.a20);
    Ok(())
}
