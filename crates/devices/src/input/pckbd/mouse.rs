//! The PS/2 mouse: standard, with wheel (IntelliMouse, id 3), with five buttons (Explorer, id 4).
//!
//! Facts: IBM PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft's IntelliMouse
//! sample rate sequences (200, 100, 80 for the wheel, 200, 200, 80 for five buttons).

use std::collections::VecDeque;

use pdm::MouseEvent;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// Guest-visible state.
#[derive(Debug, Clone)]
pub struct Mouse {
    /// Replies, which go before packets.
    pub replies: VecDeque<u8>,
    pub packets: VecDeque<u8>,
    /// Command whose parameter is awaited, or 0.
    pub command: u8,
    pub reporting: bool,
    pub remote: bool,
    pub wrap: bool,
    pub scale2: bool,
    pub resolution: u8,
    pub rate: u8,
    /// 0, 3 or 4.
    pub id: u8,
    /// The last three sample rates.
    pub rates: [u8; 3],
    pub last_sent: u8,
    /// Movement and buttons not reported yet.
    pub dx: i32,
    pub dy: i32,
    pub dz: i32,
    pub buttons: u8,
    pub reported_buttons: u8,
}

/// What a command asks of the controller's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    /// Run the self test, then call [`Mouse::bat_done`].
    Bat,
}

impl Default for Mouse {
    fn default() -> Self {
        Self {
            replies: VecDeque::new(),
            packets: VecDeque::new(),
            command: 0,
            reporting: false,
            remote: false,
            wrap: false,
            scale2: false,
            resolution: 2,
            rate: 100,
            id: 0,
            rates: [0; 3],
            last_sent: 0,
            dx: 0,
            dy: 0,
            dz: 0,
            buttons: 0,
            reported_buttons: 0,
        }
    }
}

impl Mouse {
    /// The next byte for the controller.
    pub fn take(&mut self) -> Option<u8> {
        let byte = self
            .replies
            .pop_front()
            .or_else(|| self.packets.pop_front())?;
        self.last_sent = byte;
        Some(byte)
    }

    /// Whether a byte waits.
    pub fn has_data(&self) -> bool {
        !self.replies.is_empty() || !self.packets.is_empty()
    }

    /// Nanoseconds between two packets.
    pub fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }

    /// Adds an event to what will be reported.
    pub fn put(&mut self, event: MouseEvent) {
        let limit = |v: i32| v.clamp(-0x1_0000, 0x1_0000);
        self.dx = limit(self.dx.saturating_add(event.dx));
        // The mouse counts upward.
        self.dy = limit(self.dy.saturating_sub(event.dy));
        self.dz = limit(self.dz.saturating_add(event.dz));
        self.buttons = event.buttons & 0x1f;
        if !self.reporting && !self.remote {
            (self.dx, self.dy, self.dz) = (0, 0, 0);
        }
    }

    /// Whether a packet would be sent in stream mode now.
    pub fn wants_report(&self) -> bool {
        self.reporting
            && !self.remote
            && !self.wrap
            && self.packets.is_empty()
            && ((self.dx, self.dy) != (0, 0)
                || (self.dz != 0 && self.id != 0)
                || self.buttons != self.reported_buttons)
    }

    /// Queues one packet.
    pub fn report(&mut self) {
        let packet = self.packet(self.scale2);
        self.packets.extend(packet);
    }

    fn packet(&mut self, scale: bool) -> Vec<u8> {
        let dx = self.dx.clamp(-255, 255);
        let dy = self.dy.clamp(-255, 255);
        self.dx -= dx;
        self.dy -= dy;
        let (dx, dy) = if scale {
            (scaled(dx), scaled(dy))
        } else {
            (dx, dy)
        };
        let head = self.buttons & 7
            | 8
            | if dx < 0 { 0x10 } else { 0 }
            | if dy < 0 { 0x20 } else { 0 }
            | if dx.abs() > 255 { 0x40 } else { 0 }
            | if dy.abs() > 255 { 0x80 } else { 0 };
        let mut packet = vec![head, dx as u8, dy as u8];
        if self.id != 0 {
            let dz = self.dz.clamp(-8, 7);
            self.dz -= dz;
            packet.push(match self.id {
                4 => dz as u8 & 0x0f | (self.buttons & 0x18) << 1,
                _ => dz as u8,
            });
        } else {
            self.dz = 0;
        }
        self.reported_buttons = self.buttons;
        packet
    }

    /// A byte from the host computer.
    pub fn command(&mut self, byte: u8) -> Wish {
        self.replies.clear();
        // A command stops a packet under way; the rest of it is lost.
        self.packets.clear();
        if self.wrap && byte != 0xff && byte != 0xec {
            self.replies.push_back(byte);
            return Wish::Nothing;
        }
        match std::mem::take(&mut self.command) {
            0xe8 if byte < 4 => {
                self.resolution = byte;
                self.replies.push_back(ACK);
            }
            0xf3 if matches!(byte, 10 | 20 | 40 | 60 | 80 | 100 | 200) => {
                self.set_rate(byte);
                self.replies.push_back(ACK);
            }
            0xe8 | 0xf3 if byte < 0xe6 => self.replies.push_back(RESEND),
            _ => return self.new_command(byte),
        }
        Wish::Nothing
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.rates = [self.rates[1], self.rates[2], rate];
        match (self.rates, self.id) {
            ([200, 100, 80], 0) => self.id = 3,
            ([200, 200, 80], 3) => self.id = 4,
            _ => {}
        }
    }

    fn new_command(&mut self, byte: u8) -> Wish {
        let known = matches!(byte, 0xe6..=0xec | 0xee | 0xf0 | 0xf2..=0xf6 | 0xff);
        if byte == 0xfe {
            self.replies.push_back(self.last_sent);
            return Wish::Nothing;
        }
        self.replies.push_back(if known { ACK } else { RESEND });
        match byte {
            0xe6 => self.scale2 = false,
            0xe7 => self.scale2 = true,
            0xe8 | 0xf3 => self.command = byte,
            0xe9 => {
                let b = self.buttons;
                let status = (b & 1) << 2
                    | (b & 2) >> 1
                    | (b & 4) >> 1
                    | u8::from(self.scale2) << 4
                    | u8::from(self.reporting) << 5
                    | u8::from(self.remote) << 6;
                self.replies.extend([status, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                let packet = self.packet(false);
                self.replies.extend(packet);
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => {
                self.remote = true;
                self.forget_movement();
            }
            0xf2 => self.replies.push_back(self.id),
            0xf4 => {
                self.reporting = true;
                self.forget_movement();
            }
            0xf5 => self.reporting = false,
            0xf6 => self.set_defaults(),
            0xff => {
                self.set_defaults();
                self.wrap = false;
                self.id = 0;
                self.rates = [0; 3];
                return Wish::Bat;
            }
            _ => {}
        }
        Wish::Nothing
    }

    fn set_defaults(&mut self) {
        self.rate = 100;
        self.resolution = 2;
        self.scale2 = false;
        self.reporting = false;
        self.remote = false;
        self.forget_movement();
    }

    fn forget_movement(&mut self) {
        (self.dx, self.dy, self.dz) = (0, 0, 0);
        self.reported_buttons = self.buttons;
    }

    /// The self test has ended.
    pub fn bat_done(&mut self) {
        self.replies.extend([0xaa, 0x00]);
    }
}

/// Scaling 2:1 as the manual's table gives it.
fn scaled(v: i32) -> i32 {
    match v.abs() {
        0 => 0,
        1 | 2 => v.signum(),
        3 => 3 * v.signum(),
        4 => 6 * v.signum(),
        5 => 9 * v.signum(),
        _ => 2 * v,
    }
}
