//! The keyboard at the end of the cable: commands, scan code sets, typematic repeat.
//!
//! Facts: IBM PS/2 Hardware Interface Technical Reference, "Keyboards".

use std::collections::VecDeque;

use super::scancodes;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const BAT_OK: u8 = 0xaa;

/// Bytes of key strokes that wait at most; then [`Keyboard::put`] refuses.
const BUFFER: usize = 32;

/// Set 3 key attributes.
const TYPEMATIC: u8 = 1;
const BREAK: u8 = 2;

/// A key being held, for typematic repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Set 1 make code.
    pub code: u8,
    /// Behind 0xE0.
    pub extended: bool,
}

/// Guest-visible state.
#[derive(Debug, Clone)]
pub struct Keyboard {
    /// Replies, which go before key strokes.
    pub replies: VecDeque<u8>,
    pub keys: VecDeque<u8>,
    /// Command whose parameter is awaited, or 0.
    pub command: u8,
    pub scanning: bool,
    /// 1 to 3.
    pub set: u8,
    /// As `pdm::KeyboardSink::leds`.
    pub leds: u8,
    /// Parameter of command F3.
    pub typematic: u8,
    pub last_sent: u8,
    /// Set 3 attributes by code.
    pub attributes: Vec<u8>,
    /// Prefix bytes of the stroke being put (0, 0xE0, 0xE1, or 0xE2 for the second byte after E1).
    pub prefix: u8,
    pub held: Option<Held>,
}

/// What a command asks of the controller's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    /// Run the self test, then call [`Keyboard::bat_done`].
    Bat,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            replies: VecDeque::new(),
            keys: VecDeque::new(),
            command: 0,
            scanning: true,
            set: 2,
            leds: 0,
            typematic: 0x2b,
            last_sent: 0,
            attributes: default_attributes(),
            prefix: 0,
            held: None,
        }
    }
}

fn default_attributes() -> Vec<u8> {
    let mut all = vec![TYPEMATIC; 256];
    for modifier in [0x12, 0x14, 0x11, 0x19, 0x59, 0x39, 0x58] {
        all[modifier] = BREAK;
    }
    for once in [0x5f, 0x76, 0x57, 0x62, 0x08] {
        all[once] = 0;
    }
    all
}

impl Keyboard {
    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        let byte = self.replies.pop_front().or_else(|| self.keys.pop_front())?;
        self.last_sent = byte;
        Some(byte)
    }

    /// Whether a byte waits.
    pub fn has_data(&self) -> bool {
        !self.replies.is_empty() || !self.keys.is_empty()
    }

    /// A byte from the host computer.
    pub fn command(&mut self, byte: u8) -> Wish {
        // A command stops what is being sent.
        self.replies.clear();
        match std::mem::take(&mut self.command) {
            0xed if byte < 8 => {
                self.leds = byte;
                self.replies.push_back(ACK);
            }
            0xf0 if byte == 0 => self.replies.extend([ACK, self.set]),
            0xf0 if byte <= 3 => {
                self.set = byte;
                self.keys.clear();
                self.replies.push_back(ACK);
            }
            0xf3 if byte < 0x80 => {
                self.typematic = byte;
                self.replies.push_back(ACK);
            }
            list @ 0xfb..=0xfd if byte < 0xed => {
                self.attributes[usize::from(byte)] = attribute(list);
                self.command = list;
                self.replies.push_back(ACK);
            }
            0xed | 0xf0 | 0xf3 if byte < 0xed => self.replies.push_back(RESEND),
            _ => return self.new_command(byte),
        }
        Wish::Nothing
    }

    fn new_command(&mut self, byte: u8) -> Wish {
        match byte {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
                self.command = byte;
                self.replies.push_back(ACK);
            }
            0xee => self.replies.push_back(0xee),
            0xf2 => self.replies.extend([ACK, 0xab, 0x83]),
            0xf4 => {
                self.keys.clear();
                self.scanning = true;
                self.replies.push_back(ACK);
            }
            0xf5 | 0xf6 => {
                self.set_defaults();
                self.scanning = byte == 0xf6;
                self.replies.push_back(ACK);
            }
            0xf7..=0xfa => {
                self.attributes.fill(attribute(byte + 4));
                self.replies.push_back(ACK);
            }
            0xfe => self.replies.push_back(self.last_sent),
            0xff => {
                self.set_defaults();
                self.leds = 0;
                self.scanning = false;
                self.replies.push_back(ACK);
                return Wish::Bat;
            }
            _ => self.replies.push_back(RESEND),
        }
        Wish::Nothing
    }

    fn set_defaults(&mut self) {
        self.keys.clear();
        self.set = 2;
        self.typematic = 0x2b;
        self.attributes = default_attributes();
        self.held = None;
    }

    /// The self test has ended.
    pub fn bat_done(&mut self) {
        self.scanning = true;
        self.replies.push_back(BAT_OK);
    }

    /// Typematic delay in nanoseconds.
    pub fn repeat_delay(&self) -> u64 {
        (u64::from(self.typematic >> 5 & 3) + 1) * 250_000_000
    }

    /// Typematic period in nanoseconds: (8 + A) * 2^B / 240 seconds.
    pub fn repeat_period(&self) -> u64 {
        let (a, b) = (u64::from(self.typematic & 7), self.typematic >> 3 & 3);
        ((8 + a) << b) * 1_000_000_000 / 240
    }

    /// Takes one byte of set 1 strokes. `None`: no room. `Some(true)`: the held key changed.
    pub fn put(&mut self, byte: u8) -> Option<bool> {
        if self.keys.len() > BUFFER {
            return None;
        }
        if !self.scanning {
            self.prefix = 0;
            return Some(false);
        }
        match (self.prefix, byte) {
            (_, 0xe0 | 0xe1) => {
                self.prefix = byte;
                Some(false)
            }
            (0xe1 | 0xe2, code) => {
                // Pause: two bytes follow each E1; it has no typematic and no held state.
                self.pause_byte(code);
                self.prefix = if self.prefix == 0xe1 { 0xe2 } else { 0 };
                Some(false)
            }
            (prefix, byte) => {
                self.prefix = 0;
                let key = Held {
                    code: byte & 0x7f,
                    extended: prefix == 0xe0,
                };
                if byte & 0x80 != 0 {
                    self.send(key, true);
                    let was_held = self.held == Some(key);
                    if was_held {
                        self.held = None;
                    }
                    Some(was_held)
                } else if self.held == Some(key) {
                    // The keyboard repeats by itself; the host's own repeats are dropped.
                    Some(false)
                } else {
                    self.send(key, false);
                    self.held = Some(key);
                    Some(true)
                }
            }
        }
    }

    /// Sends the held key once more. False when nothing is held.
    pub fn repeat(&mut self) -> bool {
        let Some(key) = self.held else { return false };
        let typematic = match self.set {
            3 => {
                let code = scancodes::set3(key.code, key.extended);
                self.attributes[usize::from(code)] & TYPEMATIC != 0
            }
            _ => true,
        };
        // A guest that does not read shall not find a queue full of repeats.
        if typematic && self.keys.is_empty() {
            self.send(key, false);
        }
        typematic
    }

    fn pause_byte(&mut self, code: u8) {
        if self.prefix == 0xe1 {
            match self.set {
                3 => {}
                _ => self.keys.push_back(0xe1),
            }
        }
        match self.set {
            1 => self.keys.push_back(code),
            2 => {
                if code & 0x80 != 0 {
                    self.keys.push_back(0xf0);
                }
                self.keys.push_back(scancodes::set2(code));
            }
            _ if code == 0x45 => self.keys.push_back(0x62),
            _ => {}
        }
    }

    fn send(&mut self, key: Held, released: bool) {
        match self.set {
            1 => {
                if key.extended {
                    self.keys.push_back(0xe0);
                }
                self.keys
                    .push_back(key.code | if released { 0x80 } else { 0 });
            }
            3 => {
                let code = scancodes::set3(key.code, key.extended);
                let breaks = self.attributes[usize::from(code)] & BREAK != 0;
                if code == 0 || (released && !breaks) {
                    return;
                }
                if released {
                    self.keys.push_back(0xf0);
                }
                self.keys.push_back(code);
            }
            _ => {
                let code = scancodes::set2(key.code);
                if code == 0 {
                    return;
                }
                if key.extended {
                    self.keys.push_back(0xe0);
                }
                if released {
                    self.keys.push_back(0xf0);
                }
                self.keys.push_back(code);
            }
        }
    }
}

/// Attributes that commands FB (typematic), FC (make and break), FD (make) set, and FE for F7 + 7
/// (all three).
fn attribute(command: u8) -> u8 {
    match command {
        0xfb => TYPEMATIC,
        0xfc => BREAK,
        0xfd => 0,
        _ => TYPEMATIC | BREAK,
    }
}
