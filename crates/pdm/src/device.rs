//! The device trait and the small traits a device may offer beside it.

use std::fmt::Write;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cfgm::Node;
use crate::{Host, Result, pci};

/// A device of the VM. One value per instance.
///
/// Only what a device supports is overridden; the accessors that return `None` say "has none".
pub trait Device: Send {
    /// Puts all guest-visible state back to power-on values (RESET# asserted). Host-side wiring
    /// stays.
    fn reset(&mut self);

    /// The VM starts or goes on running. A device that gave up an operation for lack of disk space
    /// ([`crate::VmRequest::Suspend`]) tries it again here.
    fn resume(&mut self) {}

    /// The VM is paused or about to be saved: nothing of the device may run on.
    fn suspend(&mut self) {}

    /// The guest-visible state, in the layout of [`DeviceReg::saved_version`].
    ///
    /// # Errors
    /// [`crate::Error::SavedState`] when the state cannot be put into words.
    fn save(&self) -> Result<Vec<u8>>;

    /// Takes over state written by [`Device::save`] of `version`; the device was reset before.
    /// Re-establishes mappings and interrupt lines that follow from the state.
    ///
    /// # Errors
    /// [`crate::Error::SavedState`] for unknown versions, truncated, left-over or invalid data.
    fn load(&mut self, version: u32, data: &[u8]) -> Result<()>;

    /// Writes a description of the current state for the debugger (`debugvm info NAME`).
    fn info(&self, args: &str, out: &mut dyn Write) -> std::fmt::Result;

    /// I/O ports.
    fn pio(&mut self) -> Option<&mut dyn Pio> {
        None
    }
    /// Memory-mapped registers.
    fn mmio(&mut self) -> Option<&mut dyn Mmio> {
        None
    }
    /// PCI configuration callbacks.
    fn pci(&mut self) -> Option<&mut dyn pci::PciDevice> {
        None
    }
    /// Timers.
    fn timers(&mut self) -> Option<&mut dyn crate::TimerSink> {
        None
    }
    /// The screen it drives.
    fn display(&mut self) -> Option<&mut dyn DisplaySource> {
        None
    }
    /// Takes key strokes.
    fn keyboard(&mut self) -> Option<&mut dyn KeyboardSink> {
        None
    }
    /// Takes mouse events.
    fn mouse(&mut self) -> Option<&mut dyn MouseSink> {
        None
    }
    /// Removable media that can be changed while running, by unit (`channel * 2 + drive` for IDE).
    fn media(&mut self) -> Option<&mut dyn crate::driver::MediaSink> {
        None
    }
    /// Characters arriving from the driver below (serial, parallel).
    fn char_input(&mut self) -> Option<&mut dyn crate::driver::CharSink> {
        None
    }
    /// ACPI fixed events: the power and sleep buttons.
    fn acpi(&mut self) -> Option<&mut dyn crate::irq::AcpiButtons> {
        None
    }
}

/// I/O port access. Sizes are 1, 2 or 4 bytes; values are zero-extended.
pub trait Pio {
    /// Reads `size` bytes at `port`. Narrow devices see one call with the guest's own size.
    fn read(&mut self, port: u16, size: u8) -> u32;
    /// Writes the low `size` bytes of `value` to `port`.
    fn write(&mut self, port: u16, size: u8, value: u32);
    /// `rep ins`: fills `data` with `data.len() / size` units read from `port` one after the other.
    fn read_string(&mut self, port: u16, size: u8, data: &mut [u8]) {
        for unit in data.chunks_mut(size.into()) {
            let bytes = self.read(port, size).to_le_bytes();
            let n = unit.len().min(4);
            unit[..n].copy_from_slice(&bytes[..n]);
        }
    }
    /// `rep outs`: writes the units of `data` to `port` one after the other.
    fn write_string(&mut self, port: u16, size: u8, data: &[u8]) {
        for unit in data.chunks(size.into()) {
            let mut bytes = [0; 4];
            let n = unit.len().min(4);
            bytes[..n].copy_from_slice(&unit[..n]);
            self.write(port, size, u32::from_le_bytes(bytes));
        }
    }
}

/// Memory-mapped register access. `region` is the id given at registration, `offset` counts from
/// its start. `data` is 1 to 8 bytes for a CPU access and stays inside the region.
pub trait Mmio {
    /// Fills `data`. `vcpu` is the index of the processor that reads (the local APIC needs it).
    fn read(&mut self, vcpu: usize, region: u32, offset: u64, data: &mut [u8]);
    /// Takes `data`.
    fn write(&mut self, vcpu: usize, region: u32, offset: u64, data: &[u8]);
}

/// A picture of the screen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// `width * height` pixels, 0x00RRGGBB, top row first.
    pub pixels: Vec<u32>,
}

/// What a text mode shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextScreen {
    /// Characters across.
    pub columns: u32,
    /// Rows of code page 437 bytes turned into Unicode, without trailing blanks.
    pub rows: Vec<String>,
}

/// A device that drives a screen.
pub trait DisplaySource {
    /// Renders what is visible now.
    fn frame(&mut self) -> Frame;
    /// Size in pixels and bits per pixel (0 for text modes) without rendering.
    fn mode(&self) -> (u32, u32, u32);
    /// The characters of a text mode; `None` in graphics modes.
    fn text(&mut self) -> Option<TextScreen>;
}

/// Takes scan codes (set 1, as `VBoxManage controlvm keyboardputscancode` gives them).
pub trait KeyboardSink {
    /// Queues one byte. Returns false when the queue is full: try again later.
    fn put_scancode(&mut self, code: u8) -> bool;
    /// LED state the guest set: bit 0 scroll, 1 num, 2 caps lock.
    fn leds(&self) -> u8;
}

/// A relative mouse event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MouseEvent {
    /// Movement right, in device counts.
    pub dx: i32,
    /// Movement down.
    pub dy: i32,
    /// Wheel, positive toward the user.
    pub dz: i32,
    /// Buttons held: bit 0 left, 1 right, 2 middle, 3 and 4 side buttons.
    pub buttons: u8,
}

/// Takes mouse events.
pub trait MouseSink {
    /// Queues one event.
    fn put_mouse_event(&mut self, event: MouseEvent);
}

/// A device behind its lock.
pub type Shared = Arc<Mutex<Box<dyn Device>>>;

/// Puts a device behind its lock.
pub fn share(device: Box<dyn Device>) -> Shared {
    Arc::new(Mutex::new(device))
}

/// Builds a device from its `Config` node, for instance number `instance`.
pub type Construct =
    fn(config: &Node, instance: u32, host: &mut dyn Host) -> Result<Box<dyn Device>>;

/// One row of the device registry.
pub struct DeviceReg {
    /// CFGM name, as VirtualBox spells it (`pit`-style lower case: `i8254`, `vga`, `piix3ide`).
    pub name: &'static str,
    /// What it is, in a few words, for `debugvm info`.
    pub description: &'static str,
    /// Version that [`Device::save`] writes. Raised with every change of the layout.
    pub saved_version: u32,
    /// Most instances a VM may have.
    pub max_instances: u32,
    /// Builds instance `instance` from its `Config` node. Registers all its resources with `host`.
    pub construct: Construct,
}
