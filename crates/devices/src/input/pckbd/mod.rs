//! The 8042 keyboard controller with a PS/2 keyboard and a PS/2 mouse.
//!
//! Facts: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device
//! Controller". Bytes of the devices reach the output buffer one at a time, [`LINK_NS`] apart, so
//! that each makes an interrupt edge of its own; replies of the controller itself come at once.
//! Not there: the password commands (A4 answers "none"), clock and data line tests.

mod keyboard;
mod mouse;
mod saved;
mod scancodes;

use std::collections::VecDeque;
use std::sync::Arc;

use pdm::cfgm::Node;
use pdm::{
    Clock, Device, DeviceReg, Host, IrqLine, KeyboardSink, MouseEvent, MouseSink, Pio, Result,
    Timer, TimerSink, VmControl, VmRequest,
};
use pgm::PhysMap;

use keyboard::Keyboard;
use mouse::Mouse;
use saved::SAVED_VERSION;

/// Registry row.
pub const REG: DeviceReg = DeviceReg {
    name: "pckbd",
    description: "PS/2 keyboard and mouse controller",
    saved_version: SAVED_VERSION,
    max_instances: 1,
    construct,
};

/// Time one byte takes from a device. Real ones take 1 ms; guests wait for it by polling.
const LINK_NS: u64 = 250_000;
/// Time a self test takes.
const BAT_NS: u64 = 20_000_000;

const TIMER_LINK: u32 = 0;
const TIMER_KEYBOARD_BAT: u32 = 1;
const TIMER_MOUSE_BAT: u32 = 2;
const TIMER_TYPEMATIC: u32 = 3;
const TIMER_SAMPLE: u32 = 4;
const TIMERS: [(u32, &str); 5] = [
    (TIMER_LINK, "PS/2 byte"),
    (TIMER_KEYBOARD_BAT, "keyboard self test"),
    (TIMER_MOUSE_BAT, "mouse self test"),
    (TIMER_TYPEMATIC, "keyboard repeat"),
    (TIMER_SAMPLE, "mouse sample"),
];

mod status {
    pub const OBF: u8 = 0x01;
    pub const SYS: u8 = 0x04;
    pub const CMD: u8 = 0x08;
    pub const UNLOCKED: u8 = 0x10;
    pub const AUX: u8 = 0x20;
}

mod mode {
    pub const IRQ1: u8 = 0x01;
    pub const IRQ12: u8 = 0x02;
    pub const SYS: u8 = 0x04;
    pub const NO_KEYBOARD: u8 = 0x10;
    pub const NO_AUX: u8 = 0x20;
    pub const TRANSLATE: u8 = 0x40;
}

/// Guest-visible state of the controller.
#[derive(Debug, Clone)]
struct Controller {
    /// Output buffer: the byte and whether it came from the mouse.
    data: u8,
    full: bool,
    aux: bool,
    /// Status bit 3: the last write went to port 0x64.
    command_written: bool,
    /// RAM; byte 0 is the command byte.
    ram: [u8; 32],
    /// Command whose parameter is awaited at port 0x60, or 0.
    command: u8,
    /// Replies of the controller that wait for the buffer: byte, as if from the mouse.
    replies: VecDeque<(u8, bool)>,
    /// 0xF0 was taken from the keyboard while translating.
    released: bool,
}

impl Default for Controller {
    fn default() -> Self {
        let mut ram = [0; 32];
        ram[0] = mode::NO_AUX | mode::TRANSLATE;
        Self {
            data: 0,
            full: false,
            aux: false,
            command_written: false,
            ram,
            command: 0,
            replies: VecDeque::new(),
            released: false,
        }
    }
}

struct Pckbd {
    // Wiring.
    irq1: IrqLine,
    irq12: IrqLine,
    clock: Arc<dyn Clock>,
    timers: [Timer; 5],
    phys: Arc<PhysMap>,
    vm: Arc<dyn VmControl>,
    // Guest-visible state.
    ctl: Controller,
    keyboard: Keyboard,
    mouse: Mouse,
}

fn construct(_: &Node, _: u32, host: &mut dyn Host) -> Result<Box<dyn Device>> {
    host.map_pio(0x60, 1)?;
    host.map_pio(0x64, 1)?;
    Ok(Box::new(Pckbd {
        irq1: host.isa_irq(1),
        irq12: host.isa_irq(12),
        clock: host.clock(),
        timers: TIMERS.map(|(id, name)| host.timer(id, name)),
        phys: host.phys(),
        vm: host.vm(),
        ctl: Controller::default(),
        keyboard: Keyboard::default(),
        mouse: Mouse::default(),
    }))
}

impl Pckbd {
    fn timer(&self, id: u32) -> &Timer {
        &self.timers[id as usize]
    }

    fn arm(&self, id: u32, delay: u64) {
        self.timer(id).arm(self.clock.now_ns() + delay);
    }

    fn mode(&self) -> u8 {
        self.ctl.ram[0]
    }

    fn update_irqs(&self) {
        let on = |enable| self.ctl.full && self.mode() & enable != 0;
        self.irq1.set(on(mode::IRQ1) && !self.ctl.aux);
        self.irq12.set(on(mode::IRQ12) && self.ctl.aux);
    }

    fn fill(&mut self, data: u8, aux: bool) {
        // Whoever reads meanwhile sees the interrupt go away first.
        self.ctl.full = false;
        self.update_irqs();
        self.ctl.data = data;
        self.ctl.aux = aux;
        self.ctl.full = true;
        self.update_irqs();
    }

    /// A reply of the controller itself.
    fn reply(&mut self, data: u8, aux: bool) {
        if !self.ctl.full && self.ctl.replies.is_empty() {
            self.fill(data, aux);
        } else if self.ctl.replies.len() < 16 {
            self.ctl.replies.push_back((data, aux));
        }
    }

    fn keyboard_ready(&self) -> bool {
        self.mode() & mode::NO_KEYBOARD == 0 && self.keyboard.has_data()
    }

    fn mouse_ready(&self) -> bool {
        self.mode() & mode::NO_AUX == 0 && self.mouse.has_data()
    }

    /// Starts the transfer of the next byte if there is one and the buffer is free.
    fn schedule(&mut self) {
        if self.mouse.wants_report() && self.timer(TIMER_SAMPLE).deadline().is_none() {
            self.mouse.report();
            self.arm(TIMER_SAMPLE, self.mouse.period());
        }
        let waiting = !self.ctl.replies.is_empty() || self.keyboard_ready() || self.mouse_ready();
        if !self.ctl.full && waiting && self.timer(TIMER_LINK).deadline().is_none() {
            self.arm(TIMER_LINK, LINK_NS);
        }
    }

    /// Moves the next byte into the output buffer.
    fn transfer(&mut self) {
        if self.ctl.full {
            return;
        }
        if let Some((data, aux)) = self.ctl.replies.pop_front() {
            self.fill(data, aux);
            return;
        }
        while self.keyboard_ready() {
            let Some(byte) = self.keyboard.take() else {
                break;
            };
            if self.mode() & mode::TRANSLATE == 0 {
                self.ctl.released = false;
                return self.fill(byte, false);
            }
            if byte == 0xf0 {
                self.ctl.released = true;
                continue;
            }
            let released = match byte {
                0xe0 | 0xe1 => false,
                _ => std::mem::take(&mut self.ctl.released),
            };
            return self.fill(scancodes::translate(byte, released), false);
        }
        if self.mouse_ready()
            && let Some(byte) = self.mouse.take()
        {
            self.fill(byte, true);
        }
    }

    fn output_port(&self) -> u8 {
        0x01 | u8::from(self.phys.a20()) << 1
            | u8::from(self.irq1.level()) << 4
            | u8::from(self.irq12.level()) << 5
            | 0xc0
    }

    fn set_output_port(&mut self, value: u8) {
        self.phys.set_a20(value & 2 != 0);
        if value & 1 == 0 {
            self.vm.request(VmRequest::Reset);
        }
    }

    fn controller_command(&mut self, command: u8) {
        self.ctl.command = 0;
        match command {
            0x00..=0x3f => self.reply(self.ctl.ram[usize::from(command & 0x1f)], false),
            0x40..=0x7f => self.ctl.command = command & 0x1f | 0x60,
            0xa4 => self.reply(0xf1, false),
            0xa7 => self.ctl.ram[0] |= mode::NO_AUX,
            0xa8 => self.ctl.ram[0] &= !mode::NO_AUX,
            0xa9 | 0xab => self.reply(0, false),
            0xaa => {
                self.ctl.ram[0] |= mode::SYS;
                self.ctl.replies.clear();
                self.reply(0x55, false);
            }
            0xad => self.ctl.ram[0] |= mode::NO_KEYBOARD,
            0xae => self.ctl.ram[0] &= !mode::NO_KEYBOARD,
            // Input port: keyboard not locked, manufacturing jumper open, colour display.
            0xc0 => self.reply(0xa0, false),
            0xd0 => self.reply(self.output_port(), false),
            0xd1..=0xd4 => self.ctl.command = command,
            0xdd => self.phys.set_a20(false),
            0xdf => self.phys.set_a20(true),
            0xe0 => self.reply(0, false),
            // Pulses the output port's low bits whose bit is clear; bit 0 is the reset line.
            0xf0..=0xff if command & 1 == 0 => self.vm.request(VmRequest::Reset),
            _ => {}
        }
        self.update_irqs();
    }

    fn data_written(&mut self, value: u8) {
        match std::mem::take(&mut self.ctl.command) {
            command @ 0x60..=0x7f => {
                self.ctl.ram[usize::from(command & 0x1f)] = value;
                self.update_irqs();
            }
            0xd1 => self.set_output_port(value),
            0xd2 => self.reply(value, false),
            0xd3 => self.reply(value, true),
            0xd4 => {
                // Sending clocks the device, whether it was disabled or not.
                self.ctl.ram[0] &= !mode::NO_AUX;
                if self.mouse.command(value) == mouse::Wish::Bat {
                    self.arm(TIMER_MOUSE_BAT, BAT_NS);
                }
            }
            _ => {
                self.ctl.ram[0] &= !mode::NO_KEYBOARD;
                self.ctl.released = false;
                if self.keyboard.command(value) == keyboard::Wish::Bat {
                    self.arm(TIMER_KEYBOARD_BAT, BAT_NS);
                }
                if self.keyboard.held.is_none() {
                    self.timer(TIMER_TYPEMATIC).disarm();
                }
            }
        }
    }
}

impl Device for Pckbd {
    fn reset(&mut self) {
        for timer in &self.timers {
            timer.disarm();
        }
        self.ctl = Controller::default();
        self.keyboard = Keyboard::default();
        self.mouse = Mouse::default();
        self.phys.set_a20(true);
        self.update_irqs();
    }

    fn save(&self) -> Result<Vec<u8>> {
        saved::save(self)
    }

    fn load(&mut self, version: u32, data: &[u8]) -> Result<()> {
        saved::load(self, version, data)?;
        self.update_irqs();
        Ok(())
    }

    fn info(&self, _: &str, out: &mut dyn std::fmt::Write) -> std::fmt::Result {
        writeln!(
            out,
            "command byte {:02x}, buffer {:02x} full {} from mouse {}, A20 {}",
            self.mode(),
            self.ctl.data,
            self.ctl.full,
            self.ctl.aux,
            self.phys.a20()
        )?;
        let k = &self.keyboard;
        writeln!(
            out,
            "keyboard: scanning {} set {} LEDs {:03b} queued {}",
            k.scanning,
            k.set,
            k.leds,
            k.keys.len() + k.replies.len()
        )?;
        let m = &self.mouse;
        writeln!(
            out,
            "mouse: id {} reporting {} remote {} rate {}/s resolution {} queued {}",
            m.id,
            m.reporting,
            m.remote,
            m.rate,
            m.resolution,
            m.packets.len() + m.replies.len()
        )
    }

    fn pio(&mut self) -> Option<&mut dyn Pio> {
        Some(self)
    }
    fn timers(&mut self) -> Option<&mut dyn TimerSink> {
        Some(self)
    }
    fn keyboard(&mut self) -> Option<&mut dyn KeyboardSink> {
        Some(self)
    }
    fn mouse(&mut self) -> Option<&mut dyn MouseSink> {
        Some(self)
    }
}

impl Pio for Pckbd {
    fn read(&mut self, port: u16, _: u8) -> u32 {
        if port == 0x64 {
            let c = &self.ctl;
            let mut value = status::UNLOCKED;
            value |= if c.full { status::OBF } else { 0 };
            value |= if c.full && c.aux { status::AUX } else { 0 };
            value |= if c.command_written { status::CMD } else { 0 };
            value |= if self.mode() & mode::SYS != 0 {
                status::SYS
            } else {
                0
            };
            return value.into();
        }
        let value = self.ctl.data;
        if self.ctl.full {
            self.ctl.full = false;
            self.update_irqs();
            self.schedule();
        }
        value.into()
    }

    fn write(&mut self, port: u16, _: u8, value: u32) {
        let value = value as u8;
        self.ctl.command_written = port == 0x64;
        match port {
            0x64 => self.controller_command(value),
            _ => self.data_written(value),
        }
        self.schedule();
    }
}

impl TimerSink for Pckbd {
    fn expired(&mut self, id: u32) {
        let Some(timer) = self.timers.get(id as usize) else {
            return;
        };
        timer.disarm();
        match id {
            TIMER_LINK => self.transfer(),
            TIMER_KEYBOARD_BAT => self.keyboard.bat_done(),
            TIMER_MOUSE_BAT => self.mouse.bat_done(),
            TIMER_TYPEMATIC if self.keyboard.repeat() => {
                self.arm(TIMER_TYPEMATIC, self.keyboard.repeat_period());
            }
            _ => {}
        }
        self.schedule();
    }
}

impl KeyboardSink for Pckbd {
    fn put_scancode(&mut self, code: u8) -> bool {
        let Some(changed) = self.keyboard.put(code) else {
            return false;
        };
        if changed {
            match self.keyboard.held {
                Some(_) => self.arm(TIMER_TYPEMATIC, self.keyboard.repeat_delay()),
                None => self.timer(TIMER_TYPEMATIC).disarm(),
            }
        }
        self.schedule();
        true
    }

    fn leds(&self) -> u8 {
        self.keyboard.leds
    }
}

impl MouseSink for Pckbd {
    fn put_mouse_event(&mut self, event: MouseEvent) {
        self.mouse.put(event);
        self.schedule();
    }
}

#[cfg(test)]
mod tests;
