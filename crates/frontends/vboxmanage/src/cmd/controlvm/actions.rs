//! What `controlvm` can do with a running machine.

use super::{Action, Target, keys};
use crate::args::{Args, Given, choose, on_off, parse_integer};
use crate::cmd::modifyvm;
use crate::cx::{Cx, absolute};
use crate::error::{During, Failure, Result};
use crate::names::{ATTACHMENTS, CLIPBOARD, DRAG_AND_DROP, PROMISCUOUS};
use crate::progress;
use api::client::{Keyboard, NetworkAdapter};
use api::types::*;
use std::io::Write;
use std::time::{Duration, Instant};

/// An action without arguments; extra ones are tolerated, as docker-machine gives some.
macro_rules! simple {
    ($name:literal, $method:ident, $call:literal) => {
        Action {
            name: $name,
            numbered: false,
            values: "",
            run: |cx, target, _| {
                let (locked, console) = target.open(cx)?;
                console.$method().during($call)?;
                locked.unlock()
            },
        }
    };
}

pub const ACTIONS: &[Action] = &[
    simple!("pause", pause, "Pause()"),
    simple!("resume", resume, "Resume()"),
    simple!("reset", reset, "Reset()"),
    Action {
        name: "poweroff",
        numbered: false,
        values: "",
        run: |cx, target, _| {
            let (locked, console) = target.open(cx)?;
            let done = console
                .power_down()
                .during("PowerDown(progress.asOutParam())")?;
            progress::show(cx, &done, "Failed to power off machine")?;
            // The lock went with the machine.
            let _ = locked.unlock();
            Ok(())
        },
    },
    Action {
        name: "savestate",
        numbered: false,
        values: "",
        run: |cx, target, _| {
            let (locked, _) = target.open(cx)?;
            let done = locked
                .machine
                .save_state()
                .during("SaveState(progress.asOutParam())")?;
            progress::show(cx, &done, "Failed to save machine state")?;
            let _ = locked.unlock();
            Ok(())
        },
    },
    simple!("acpipowerbutton", power_button, "PowerButton()"),
    simple!("acpisleepbutton", sleep_button, "SleepButton()"),
    Action {
        name: "reboot",
        numbered: false,
        values: "",
        run: |cx, target, _| guest_shutdown(cx, target, &[GuestShutdownFlag::Reboot]),
    },
    Action {
        name: "shutdown",
        numbered: false,
        values: "[--force]",
        run: |cx, target, args| {
            let force = args.peek() == Some("--force");
            let mut flags = vec![GuestShutdownFlag::PowerOff];
            flags.extend(force.then_some(GuestShutdownFlag::Force));
            guest_shutdown(cx, target, &flags)
        },
    },
    Action {
        name: "keyboardputscancode",
        numbered: false,
        values: "<hex>...",
        run: |cx, target, args| {
            let mut codes = Vec::new();
            while let Some(word) = args.take() {
                codes.push(hex_byte(&word)?);
            }
            type_codes(cx, target, &codes)
        },
    },
    Action {
        name: "keyboardputstring",
        numbered: false,
        values: "<string>...",
        run: |cx, target, args| {
            let mut text = args.required("text to type")?;
            while let Some(word) = args.take() {
                text.push_str(&word);
            }
            type_text(cx, target, &text)
        },
    },
    Action {
        name: "keyboardputfile",
        numbered: false,
        values: "<filename>",
        run: |cx, target, args| {
            let file = args.required("file name")?;
            args.end()?;
            type_text(cx, target, &text_of(&file)?)
        },
    },
    Action {
        name: "setlinkstate",
        numbered: true,
        values: "<on | off>",
        run: |cx, target, args| {
            let on = switch(args)?;
            adapter(cx, target, move |a| Ok(a.set_cable_connected(on)?))
        },
    },
    Action {
        name: "nic",
        numbered: true,
        values: "<null | nat | bridged | intnet | hostonly | generic | natnetwork> [device]",
        run: nic,
    },
    Action {
        name: "nictrace",
        numbered: true,
        values: "<on | off>",
        run: |cx, target, args| {
            let on = switch(args)?;
            adapter(cx, target, move |a| Ok(a.set_trace_enabled(on)?))
        },
    },
    Action {
        name: "nictracefile",
        numbered: true,
        values: "<filename>",
        run: |cx, target, args| {
            let file = absolute(&args.required("file name")?)?;
            adapter(cx, target, move |a| Ok(a.set_trace_file(&file)?))
        },
    },
    Action {
        name: "nicproperty",
        numbered: true,
        values: "<name=[value]>",
        run: |cx, target, args| {
            let pair = args.required("property")?;
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::syntax(format!("Invalid nicproperty argument '{pair}'")))?;
            let (name, value) = (name.to_owned(), value.to_owned());
            adapter(cx, target, move |a| Ok(a.set_property(&name, &value)?))
        },
    },
    Action {
        name: "nicpromisc",
        numbered: true,
        values: "<deny | allow-vms | allow-all>",
        run: |cx, target, args| {
            let word = args.required("policy")?;
            let policy = choose(&word, PROMISCUOUS).ok_or_else(|| {
                Failure::syntax(format!("Unknown promiscuous mode policy '{word}'"))
            })?;
            adapter(cx, target, move |a| Ok(a.set_promisc_mode_policy(policy)?))
        },
    },
    Action {
        name: "natpf",
        numbered: true,
        values: "<[name],tcp | udp,[hostip],hostport,[guestip],guestport | delete name>",
        run: |cx, target, args| {
            let rule = Given {
                name: "natpf",
                typed: target.action.clone(),
                number: target.number,
                value: args.required("port forwarding rule")?,
            };
            let change = modifyvm::remove_or_add_forward(&rule, args)?;
            adapter(cx, target, move |a| change(&a.nat_engine()?))
        },
    },
    Action {
        name: "screenshotpng",
        numbered: false,
        values: "<filename> [display]",
        run: screenshot,
    },
    Action {
        name: "setvideomodehint",
        numbered: false,
        values: "<xres> <yres> <bpp> [display [enabled:yes | no [x-origin y-origin]]]",
        run: video_mode,
    },
    Action {
        name: "cpuexecutioncap",
        numbered: false,
        values: "<1-100>",
        run: |cx, target, args| {
            let cap = integer(args)?;
            let (locked, _) = target.open(cx)?;
            locked
                .machine
                .set_cpu_execution_cap(cap)
                .during("COMSETTER(CPUExecutionCap)(n)")?;
            locked.save()
        },
    },
    Action {
        name: "plugcpu",
        numbered: false,
        values: "<id>",
        run: |cx, target, args| {
            let id = integer(args)?;
            let (locked, _) = target.open(cx)?;
            locked.machine.hot_plug_cpu(id).during("HotPlugCPU(n)")?;
            locked.save()
        },
    },
    Action {
        name: "unplugcpu",
        numbered: false,
        values: "<id>",
        run: |cx, target, args| {
            let id = integer(args)?;
            let (locked, _) = target.open(cx)?;
            locked
                .machine
                .hot_unplug_cpu(id)
                .during("HotUnplugCPU(n)")?;
            locked.save()
        },
    },
    Action {
        name: "guestmemoryballoon",
        numbered: false,
        values: "<megabytes>",
        run: |cx, target, args| {
            let size = integer(args)?;
            let (locked, console) = target.open(cx)?;
            console
                .guest()?
                .set_memory_balloon_size(size)
                .during("COMSETTER(MemoryBalloonSize)(uVal)")?;
            locked.unlock()
        },
    },
    Action {
        name: "clipboard",
        numbered: false,
        values: "mode <disabled | hosttoguest | guesttohost | bidirectional>",
        run: |cx, target, args| {
            // 6.1 put a word in between.
            let mut word = args.required("clipboard mode")?;
            if word == "mode" {
                word = args.required("clipboard mode")?;
            }
            let mode = choose(&word, CLIPBOARD)
                .ok_or_else(|| Failure::syntax(format!("Invalid clipboard argument '{word}'")))?;
            let (locked, _) = target.open(cx)?;
            locked
                .machine
                .set_clipboard_mode(mode)
                .during("COMSETTER(ClipboardMode)(mode)")?;
            locked.save()
        },
    },
    Action {
        name: "draganddrop",
        numbered: false,
        values: "<disabled | hosttoguest | guesttohost | bidirectional>",
        run: |cx, target, args| {
            let word = args.required("drag and drop mode")?;
            let mode = choose(&word, DRAG_AND_DROP)
                .ok_or_else(|| Failure::syntax(format!("Invalid draganddrop argument '{word}'")))?;
            let (locked, _) = target.open(cx)?;
            locked
                .machine
                .set_dn_d_mode(mode)
                .during("COMSETTER(DnDMode)(mode)")?;
            locked.save()
        },
    },
    Action {
        name: "vrde",
        numbered: false,
        values: "<on | off>",
        run: |cx, target, args| {
            let on = switch(args)?;
            let (locked, _) = target.open(cx)?;
            let server = locked.machine.vrde_server()?;
            server
                .set_enabled(on)
                .during("COMSETTER(Enabled)(fEnabled)")?;
            locked.save()
        },
    },
    Action {
        name: "vrdeport",
        numbered: false,
        values: "<port>",
        run: |cx, target, args| {
            let port = args.required("port")?;
            vrde_property(
                cx,
                target,
                "TCP/Ports",
                if port == "default" { "0" } else { &port },
            )
        },
    },
    Action {
        name: "vrdeproperty",
        numbered: false,
        values: "<name=[value]>",
        run: |cx, target, args| {
            let pair = args.required("property")?;
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                Failure::syntax(format!("Invalid vrdeproperty argument '{pair}'"))
            })?;
            vrde_property(cx, target, name, value)
        },
    },
    Action {
        name: "changeuartmode",
        numbered: true,
        values: "<disconnected | server pipe | client pipe | tcpserver port | tcpclient host:port | file path | device>",
        run: |cx, target, args| {
            let given = Given {
                name: "changeuartmode",
                typed: target.action.clone(),
                number: target.number,
                value: args.required("mode")?,
            };
            let mode = modifyvm::UartMode::read(&given, args)?;
            let slot = target.slot()?;
            let (locked, _) = target.open(cx)?;
            let port = locked.machine.get_serial_port(slot)?;
            mode.apply(&port).during("COMSETTER(HostMode)(mode)")?;
            locked.save()
        },
    },
];

fn switch(args: &mut Args) -> Result<bool> {
    let word = args.required("state: on or off")?;
    on_off(&word).ok_or_else(|| Failure::syntax(format!("Invalid state '{word}'")))
}

fn integer(args: &mut Args) -> Result<u32> {
    let word = args.required("number")?;
    parse_integer(&word).ok_or_else(|| Failure::syntax(format!("Invalid number '{word}'")))
}

/// Changes a network adapter of the running machine, and keeps the change.
fn adapter(
    cx: &mut Cx<'_>,
    target: &Target,
    change: impl FnOnce(&NetworkAdapter) -> Result,
) -> Result {
    let slot = target.slot()?;
    let (locked, _) = target.open(cx)?;
    let adapter = locked
        .machine
        .get_network_adapter(slot)
        .during("GetNetworkAdapter(n - 1, adapter.asOutParam())")?;
    change(&adapter)?;
    locked.save()
}

fn nic(cx: &mut Cx<'_>, target: &Target, args: &mut Args) -> Result {
    let word = args.required("attachment")?;
    let mode = choose(&word, ATTACHMENTS).ok_or_else(|| {
        Failure::syntax(format!(
            "Invalid type '{word}' specfied for NIC {}",
            target.number
        ))
    })?;
    let device = args.take();
    let needs = !matches!(
        mode,
        NetworkAttachmentType::Null | NetworkAttachmentType::NAT
    );
    if needs && device.is_none() {
        return Err(Failure::syntax(format!(
            "Missing argument to '{}'",
            target.action
        )));
    }
    let device = device.unwrap_or_default();
    adapter(cx, target, move |a| {
        match mode {
            NetworkAttachmentType::NAT => a.nat_engine()?.set_network(&device)?,
            NetworkAttachmentType::Bridged => a.set_bridged_interface(&device)?,
            NetworkAttachmentType::Internal => a.set_internal_network(&device)?,
            NetworkAttachmentType::HostOnly => a.set_host_only_interface(&device)?,
            NetworkAttachmentType::HostOnlyNetwork => a.set_host_only_network(&device)?,
            NetworkAttachmentType::Generic => a.set_generic_driver(&device)?,
            NetworkAttachmentType::NATNetwork => a.set_nat_network(&device)?,
            NetworkAttachmentType::Cloud => a.set_cloud_network(&device)?,
            NetworkAttachmentType::Null => {}
        }
        a.set_enabled(true)?;
        a.set_attachment_type(mode)
            .during("COMSETTER(AttachmentType)(NetworkAttachmentType)")
    })
}

fn vrde_property(cx: &mut Cx<'_>, target: &Target, name: &str, value: &str) -> Result {
    let (locked, _) = target.open(cx)?;
    locked
        .machine
        .vrde_server()?
        .set_vrde_property(name, value)
        .during("SetVRDEProperty(Bstr(name).raw(), Bstr(value).raw())")?;
    locked.save()
}

fn guest_shutdown(cx: &mut Cx<'_>, target: &Target, flags: &[GuestShutdownFlag]) -> Result {
    let (locked, console) = target.open(cx)?;
    console
        .guest()?
        .shutdown(flags)
        .during("Shutdown(ComSafeArrayAsInParam(aShutdownFlags))")?;
    locked.unlock()
}

fn hex_byte(word: &str) -> Result<i32> {
    let digits = word.len() <= 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
    match u8::from_str_radix(word, 16) {
        Ok(byte) if digits => Ok(byte.into()),
        _ => Err(Failure::message(format!(
            "Error: '{word}' is not a hex byte!"
        ))),
    }
}

/// Largest text that `keyboardputfile` types, in bytes.
const MAX_TEXT: u64 = 1 << 20;

fn text_of(file: &str) -> Result<String> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::message(format!("Cannot read file '{file}': {e}"));
    if std::fs::metadata(file).map_err(|e| failed(&e))?.len() > MAX_TEXT {
        return Err(failed(&"it is larger than 1 MiB"));
    }
    std::fs::read_to_string(file).map_err(|e| failed(&e))
}

fn type_text(cx: &mut Cx<'_>, target: &Target, text: &str) -> Result {
    let codes = keys::scan_codes(text).map_err(|c| {
        Failure::message(format!(
            "Cannot type '{}': it is on no key of a US keyboard",
            c.escape_default()
        ))
    })?;
    type_codes(cx, target, &codes)
}

fn type_codes(cx: &mut Cx<'_>, target: &Target, codes: &[i32]) -> Result {
    let (locked, console) = target.open(cx)?;
    let keyboard = console
        .keyboard()
        .during("COMGETTER(Keyboard)(keyboard.asOutParam())")?;
    send(&keyboard, codes)?;
    locked.unlock()
}

/// Codes sent at a time; a keyboard's buffer is small.
const BURST: usize = 16;
/// How long a guest that takes no keys is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends codes as fast as the guest takes them.
fn send(keyboard: &Keyboard, codes: &[i32]) -> Result {
    let mut left = codes;
    let mut last = Instant::now();
    while !left.is_empty() {
        let burst = left.get(..BURST).unwrap_or(left);
        let stored = keyboard
            .put_scancodes(burst)
            .during("PutScancodes(ComSafeArrayAsInParam(saScancodes), &codesStored)")?;
        let stored = usize::try_from(stored).unwrap_or(0).min(burst.len());
        left = left.get(stored..).unwrap_or_default();
        if stored > 0 {
            last = Instant::now();
        } else if last.elapsed() > PATIENCE {
            return Err(Failure::message(format!(
                "Only {} scancodes were stored",
                codes.len() - left.len()
            )));
        }
        if stored < burst.len() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn screenshot(cx: &mut Cx<'_>, target: &Target, args: &mut Args) -> Result {
    let file = args.required("file name")?;
    let screen = match args.take() {
        None => 0,
        Some(word) => parse_integer(&word)
            .ok_or_else(|| Failure::syntax(format!("Invalid display number '{word}'")))?,
    };
    args.end()?;
    let (locked, console) = target.open(cx)?;
    let display = console
        .display()
        .during("COMGETTER(Display)(pDisplay.asOutParam())")?;
    let (width, height, ..) = display.get_screen_resolution(screen).during(
        "GetScreenResolution(iScreen, &width, &height, &bpp, &xOrigin, &yOrigin, &monitorStatus)",
    )?;
    let picture = display
        .take_screen_shot_to_array(screen, width, height, BitmapFormat::PNG)
        .during("TakeScreenShotToArray(iScreen, width, height, BitmapFormat_PNG, ComSafeArrayAsOutParam(saScreenshot))")?;
    std::fs::File::create(&file)
        .and_then(|mut f| f.write_all(&picture))
        .map_err(|e| Failure::message(format!("Failed to create file '{file}' ({e})")))?;
    locked.unlock()
}

fn video_mode(cx: &mut Cx<'_>, target: &Target, args: &mut Args) -> Result {
    let (width, height, bits) = (integer(args)?, integer(args)?, integer(args)?);
    let screen = if args.is_empty() { 0 } else { integer(args)? };
    let enabled = if args.is_empty() { true } else { switch(args)? };
    let origin = if args.is_empty() {
        None
    } else {
        Some((integer(args)?, integer(args)?))
    };
    args.end()?;
    let place = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let (x, y) = origin.unwrap_or_default();
    let (locked, console) = target.open(cx)?;
    console
        .display()?
        .set_video_mode_hint(
            screen,
            enabled,
            origin.is_some(),
            place(x),
            place(y),
            width,
            height,
            bits,
            true,
        )
        .during("SetVideoModeHint(uDisplayIdx, fEnabled, fChangeOrigin, iOriginX, iOriginY, uXRes, uYRes, uBpp, TRUE)")?;
    locked.unlock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_codes_are_hex_bytes() {
        assert_eq!(hex_byte("1c").expect("a byte"), 0x1c);
        assert_eq!(hex_byte("E0").expect("a byte"), 0xe0);
        assert_eq!(hex_byte("1").expect("a byte"), 1);
        for wrong in ["", "x", "100", "0x1", "+1", "-1"] {
            assert!(hex_byte(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_to_type_are_bounded() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("text");
        std::fs::write(&file, vec![b'a'; (MAX_TEXT + 1) as usize]).expect("file");
        assert!(text_of(file.to_str().expect("UTF-8")).is_err());
    }
}
