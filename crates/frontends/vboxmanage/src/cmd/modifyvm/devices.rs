//! Settings of ports, USB, sound, input, clipboard and remote display.

use super::{Change, Setting, call, switch, text, word};
use crate::args::{Args, Given, numbered, parse_integer, value};
use crate::cx::absolute;
use crate::error::{During, Failure, Result};
use crate::names::*;
use api::client::{Machine, SerialPort};
use api::types::*;

/// Serial ports of a PC.
const UART_COUNT: u32 = 4;
/// Parallel ports that VirtualBox has.
const LPT_COUNT: u32 = 2;

/// An option that one setter takes as it is.
macro_rules! plain {
    ($names:expr, $values:literal, $how:ident($($arg:expr),*) $set:expr) => {
        Setting {
            opt: value($names),
            values: $values,
            read: |g, _| $how(&g, $($arg,)* $set),
        }
    };
}

/// A USB controller that is there or not.
macro_rules! usb {
    ($names:expr, $name:literal, $kind:ident) => {
        Setting {
            opt: value($names),
            values: "on | off",
            read: |g, _| switch(&g, |m, on| usb(m, $name, USBControllerType::$kind, on)),
        }
    };
}

pub const SETTINGS: &[Setting] = &[
    plain!(&["--mouse"], "ps2 | usb | usbtablet | usbmultitouch",
        word(POINTING) Machine::set_pointing_hid_type),
    plain!(&["--keyboard"], "ps2 | usb", word(KEYBOARDS) Machine::set_keyboard_hid_type),
    Setting {
        opt: numbered(&["--uart"]),
        values: "off | IO-base IRQ",
        read: uart,
    },
    Setting {
        opt: numbered(&["--uart-mode", "--uartmode"]),
        values: "disconnected | server pipe | client pipe | tcpserver port | tcpclient host:port | file path | device",
        read: |g, args| {
            let slot = g.slot(UART_COUNT)?;
            let mode = UartMode::read(&g, args)?;
            Ok(Box::new(move |m| {
                let port = m.get_serial_port(slot)?;
                mode.apply(&port).during("COMSETTER(HostMode)(mode)")
            }))
        },
    },
    Setting {
        opt: numbered(&["--uart-type", "--uarttype"]),
        values: "16450 | 16550A | 16750",
        read: |g, _| {
            let (slot, kind) = (g.slot(UART_COUNT)?, g.one_of(UARTS)?);
            call(&g, move |m| m.get_serial_port(slot)?.set_uart_type(kind))
        },
    },
    Setting {
        opt: numbered(&["--lpt"]),
        values: "off | IO-base IRQ",
        read: |g, args| {
            let (slot, wiring) = (g.slot(LPT_COUNT)?, wiring(&g, args)?);
            call(&g, move |m| {
                let port = m.get_parallel_port(slot)?;
                match wiring {
                    None => port.set_enabled(false),
                    Some((base, irq)) => {
                        port.set_io_base(base)?;
                        port.set_irq(irq)?;
                        port.set_enabled(true)
                    }
                }
            })
        },
    },
    Setting {
        opt: numbered(&["--lpt-mode", "--lptmode"]),
        values: "device",
        read: |g, _| {
            let (slot, path) = (g.slot(LPT_COUNT)?, g.value.clone());
            call(&g, move |m| m.get_parallel_port(slot)?.set_path(&path))
        },
    },
    usb!(&["--usb-ohci", "--usb", "--usbohci"], "OHCI", OHCI),
    usb!(&["--usb-ehci", "--usbehci"], "EHCI", EHCI),
    usb!(&["--usb-xhci", "--usbxhci"], "xHCI", XHCI),
    Setting {
        opt: value(&["--audio"]),
        values: "none | null | oss | alsa | pulse",
        read: |g, _| {
            let driver = match g.value.as_str() {
                "none" => None,
                _ => Some(g.one_of(AUDIO_DRIVERS)?),
            };
            call(&g, move |m| {
                let adapter = m.audio_settings()?.adapter()?;
                if let Some(driver) = driver {
                    adapter.set_audio_driver(driver)?;
                }
                adapter.set_enabled(driver.is_some())
            })
        },
    },
    Setting {
        opt: value(&["--audio-driver"]),
        values: "none | default | null | oss | alsa | pulse",
        read: |g, _| {
            // 7.0 has `none` still: no sound.
            if g.value == "none" {
                return call(&g, |m| m.audio_settings()?.adapter()?.set_enabled(false));
            }
            word(&g, AUDIO_DRIVERS, |m, v| {
                m.audio_settings()?.adapter()?.set_audio_driver(v)
            })
        },
    },
    plain!(
        &["--audio-enabled"],
        "on | off",
        switch() | m,
        v | m.audio_settings()?.adapter()?.set_enabled(v)
    ),
    plain!(
        &["--audio-in", "--audioin"],
        "on | off",
        switch() | m,
        v | m.audio_settings()?.adapter()?.set_enabled_in(v)
    ),
    plain!(
        &["--audio-out", "--audioout"],
        "on | off",
        switch() | m,
        v | m.audio_settings()?.adapter()?.set_enabled_out(v)
    ),
    plain!(
        &["--audio-controller", "--audiocontroller"],
        "ac97 | hda | sb16",
        word(AUDIO_CONTROLLERS) | m,
        v | m.audio_settings()?.adapter()?.set_audio_controller(v)
    ),
    plain!(
        &["--audio-codec", "--audiocodec"],
        "stac9700 | ad1980 | stac9221 | sb16",
        word(AUDIO_CODECS) | m,
        v | m.audio_settings()?.adapter()?.set_audio_codec(v)
    ),
    plain!(&["--clipboard-mode", "--clipboard"], "disabled | hosttoguest | guesttohost | bidirectional",
        word(CLIPBOARD) Machine::set_clipboard_mode),
    plain!(&["--clipboard-file-transfers"], "on | off", switch() Machine::set_clipboard_file_transfers_enabled),
    plain!(&["--drag-and-drop", "--draganddrop"], "disabled | hosttoguest | guesttohost | bidirectional",
        word(DRAG_AND_DROP) Machine::set_dn_d_mode),
    plain!(
        &["--vrde", "--vrdp"],
        "on | off",
        switch() | m,
        v | m.vrde_server()?.set_enabled(v)
    ),
    plain!(
        &["--vrde-extpack", "--vrdeextpack"],
        "default | name",
        text("default") | m,
        v | m.vrde_server()?.set_vrde_ext_pack(v)
    ),
    Setting {
        opt: value(&["--vrde-property", "--vrdeproperty"]),
        values: "name=[value]",
        read: |g, _| {
            let (name, value) = g.value.split_once('=').ok_or_else(|| g.invalid())?;
            let (name, value) = (name.to_owned(), value.to_owned());
            call(&g, move |m| {
                m.vrde_server()?.set_vrde_property(&name, &value)
            })
        },
    },
    plain!(
        &["--vrde-port", "--vrdeport", "--vrdpport"],
        "port",
        text("default") | m,
        v | m.vrde_server()?.set_vrde_property("TCP/Ports", v)
    ),
    plain!(
        &["--vrde-address", "--vrdeaddress", "--vrdpaddress"],
        "IP",
        text("") | m,
        v | m.vrde_server()?.set_vrde_property("TCP/Address", v)
    ),
    plain!(
        &["--vrde-auth-type", "--vrdeauthtype", "--vrdpauthtype"],
        "null | external | guest",
        word(AUTHENTICATION) | m,
        v | m.vrde_server()?.set_auth_type(v)
    ),
    plain!(
        &["--vrde-auth-library", "--vrdeauthlibrary"],
        "default | name",
        text("default") | m,
        v | m.vrde_server()?.set_auth_library(v)
    ),
    plain!(
        &["--vrde-multi-con", "--vrdemulticon", "--vrdpmulticon"],
        "on | off",
        switch() | m,
        v | m.vrde_server()?.set_allow_multi_connection(v)
    ),
    plain!(
        &["--vrde-reuse-con", "--vrdereusecon", "--vrdpreusecon"],
        "on | off",
        switch() | m,
        v | m.vrde_server()?.set_reuse_single_connection(v)
    ),
    plain!(
        &[
            "--vrde-video-channel",
            "--vrdevideochannel",
            "--vrdpvideochannel"
        ],
        "on | off",
        switch() | m,
        v | m
            .vrde_server()?
            .set_vrde_property("VideoChannel/Enabled", if v { "true" } else { "false" })
    ),
    plain!(
        &[
            "--vrde-video-channel-quality",
            "--vrdevideochannelquality",
            "--vrdpvideochannelquality"
        ],
        "percent",
        text("") | m,
        v | m
            .vrde_server()?
            .set_vrde_property("VideoChannel/Quality", v)
    ),
];

fn usb(machine: &Machine, name: &str, kind: USBControllerType, on: bool) -> api::Result<()> {
    match (machine.get_usb_controller_count_by_type(kind)?, on) {
        (0, true) => machine.add_usb_controller(name, kind).map(drop),
        (0, false) => Ok(()),
        (_, true) => Ok(()),
        (_, false) => {
            for controller in machine.usb_controllers()? {
                if controller.type_()? == kind {
                    machine.remove_usb_controller(&controller.name()?)?;
                }
            }
            Ok(())
        }
    }
}

/// `off`, or a base address and an interrupt.
fn wiring(given: &Given, args: &mut Args) -> Result<Option<(u32, u32)>> {
    if given.value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let base = given.integer()?;
    let irq = args.more(given)?;
    let irq = parse_integer(&irq)
        .ok_or_else(|| Failure::syntax(format!("Invalid {} argument '{irq}'", given.typed)))?;
    Ok(Some((base, irq)))
}

fn uart(given: Given, args: &mut Args) -> Result<Change> {
    let (slot, wiring) = (given.slot(UART_COUNT)?, wiring(&given, args)?);
    call(&given, move |m| {
        let port = m.get_serial_port(slot)?;
        match wiring {
            None => port.set_enabled(false),
            Some((base, irq)) => {
                port.set_io_base(base)?;
                port.set_irq(irq)?;
                port.set_enabled(true)
            }
        }
    })
}

/// What a serial port is connected to.
#[derive(Debug, PartialEq, Eq)]
pub struct UartMode {
    mode: PortMode,
    server: bool,
    path: String,
}

impl UartMode {
    /// Of `--uartmodeN` and `controlvm changeuartmodeN`.
    pub fn read(given: &Given, args: &mut Args) -> Result<Self> {
        let is = |word: &str| given.value.eq_ignore_ascii_case(word);
        let mut connected = |mode, server| {
            let target = args.more(given)?;
            // The VM's process runs in a folder of its own.
            let path = match mode {
                PortMode::TCP => target,
                _ => absolute(&target)?,
            };
            Ok(Self { mode, server, path })
        };
        if is("disconnected") {
            return Ok(Self {
                mode: PortMode::Disconnected,
                server: false,
                path: String::new(),
            });
        }
        if is("server") {
            connected(PortMode::HostPipe, true)
        } else if is("client") {
            connected(PortMode::HostPipe, false)
        } else if is("tcpserver") {
            connected(PortMode::TCP, true)
        } else if is("tcpclient") {
            connected(PortMode::TCP, false)
        } else if is("file") {
            connected(PortMode::RawFile, false)
        } else {
            Ok(Self {
                mode: PortMode::HostDevice,
                server: false,
                path: absolute(&given.value)?,
            })
        }
    }

    pub fn apply(&self, port: &SerialPort) -> api::Result<()> {
        if self.mode == PortMode::Disconnected {
            return port.set_host_mode(self.mode);
        }
        // A mode needs its path, and a path its mode: through `disconnected` either may change.
        port.set_path(&self.path)?;
        port.set_server(self.server)?;
        port.set_host_mode(self.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(words: &[&str]) -> Result<UartMode> {
        let given = Given {
            name: "--uart-mode",
            typed: "--uartmode1".into(),
            number: 1,
            value: words[0].into(),
        };
        let mut args = Args::new(words[1..].iter().map(|s| (*s).to_owned()));
        let mode = UartMode::read(&given, &mut args)?;
        args.end()?;
        Ok(mode)
    }

    #[test]
    fn serial_ports_connect_to_many_things() {
        for (words, mode_wanted, server, path) in [
            (&["disconnected"][..], PortMode::Disconnected, false, ""),
            (&["server", "/p"], PortMode::HostPipe, true, "/p"),
            (&["client", "/p"], PortMode::HostPipe, false, "/p"),
            (&["tcpserver", "2000"], PortMode::TCP, true, "2000"),
            (&["tcpclient", "h:1"], PortMode::TCP, false, "h:1"),
            (&["file", "/f"], PortMode::RawFile, false, "/f"),
            (&["/dev/ttyS0"], PortMode::HostDevice, false, "/dev/ttyS0"),
        ] {
            let found = mode(words).expect("known");
            assert_eq!(
                (found.mode, found.server, found.path.as_str()),
                (mode_wanted, server, path)
            );
        }
        assert!(mode(&["file"]).is_err());
    }
}
