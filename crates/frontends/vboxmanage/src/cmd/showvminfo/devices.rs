//! The rest of a machine: input, ports, sound, session, remote display, USB, shared folders, guest.

use super::live;
use super::sheet::Sheet;
use crate::error::{Result, known};
use crate::names::*;
use crate::out::{enabled, on_off, yes_no};
use api::client::{Console, Machine, SharedFolder, VirtualBox};
use api::types::*;

pub fn input_and_ports(s: &mut Sheet<'_>, vbox: &VirtualBox, m: &Machine) -> Result {
    let pointing = known(m.pointing_hid_type())?.map(|k| (word_of(POINTING, k), pointing_text(k)));
    s.words("hidpointing", "Pointing Device:", pointing)?;
    let keyboard = known(m.keyboard_hid_type())?.map(|k| (word_of(KEYBOARDS, k), keyboard_text(k)));
    s.words("hidkeyboard", "Keyboard Device:", keyboard)?;
    let system = vbox.system_properties()?;
    for slot in 0..system.serial_port_count()?.min(8) {
        serial(s, m, slot)?;
    }
    for slot in 0..system.parallel_port_count()?.min(8) {
        parallel(s, m, slot)?;
    }
    audio(s, m)?;
    let mode = known(m.clipboard_mode())?.map(|mode| {
        let human = match mode {
            ClipboardMode::Disabled => "disabled",
            ClipboardMode::HostToGuest => "HostToGuest",
            ClipboardMode::GuestToHost => "GuestToHost",
            ClipboardMode::Bidirectional => "Bidirectional",
        };
        (word_of(CLIPBOARD, mode), human)
    });
    s.words("clipboard", "Clipboard Mode:", mode)?;
    let files = known(m.clipboard_file_transfers_enabled())?;
    s.switch(
        "clipboard_file_transfers",
        "Clipboard file transfers:",
        files,
    )?;
    let mode = known(m.dn_d_mode())?.map(|mode| {
        let human = match mode {
            DnDMode::Disabled => "disabled",
            DnDMode::HostToGuest => "HostToGuest",
            DnDMode::GuestToHost => "GuestToHost",
            DnDMode::Bidirectional => "Bidirectional",
        };
        (word_of(DRAG_AND_DROP, mode), human)
    });
    s.words("draganddrop", "Drag and drop Mode:", mode)
}

fn serial(s: &mut Sheet<'_>, m: &Machine, slot: u32) -> Result {
    let (port, n) = (m.get_serial_port(slot)?, slot + 1);
    if !port.enabled()? {
        return s.words(
            &format!("uart{n}"),
            &format!("UART {n}:"),
            Some(("off", "disabled")),
        );
    }
    let (base, irq, path) = (port.io_base()?, port.irq()?, port.path()?);
    let (mode, server) = (port.host_mode()?, port.server()?);
    let kind = known(port.uart_type())?.map_or("16550A", |k| word_of(UARTS, k));
    if s.machine {
        s.key(&format!("uart{n}"), format!("0x{base:04x},{irq}"))?;
        let value = match mode {
            PortMode::Disconnected => "disconnected".to_owned(),
            PortMode::HostPipe if server => format!("server,{path}"),
            PortMode::HostPipe => format!("client,{path}"),
            PortMode::TCP if server => format!("tcpserver,{path}"),
            PortMode::TCP => format!("tcpclient,{path}"),
            PortMode::RawFile => format!("file,{path}"),
            PortMode::HostDevice => path,
        };
        s.key(&format!("uartmode{n}"), value)?;
        return s.key(&format!("uarttype{n}"), kind);
    }
    let connected = match mode {
        PortMode::Disconnected => "disconnected".to_owned(),
        PortMode::HostPipe if server => format!("attached to pipe (server) '{path}'"),
        PortMode::HostPipe => format!("attached to pipe (client) '{path}'"),
        PortMode::TCP if server => format!("attached to tcp (server) '{path}'"),
        PortMode::TCP => format!("attached to tcp (client) '{path}'"),
        PortMode::RawFile => format!("attached to raw file '{path}'"),
        PortMode::HostDevice => format!("attached to device '{path}'"),
    };
    s.label(
        &format!("UART {n}:"),
        format_args!("I/O base: 0x{base:04x}, IRQ: {irq}, {connected}, {kind}"),
    )
}

fn parallel(s: &mut Sheet<'_>, m: &Machine, slot: u32) -> Result {
    let n = slot + 1;
    let off = Some(("off", "disabled"));
    let Some(port) = known(m.get_parallel_port(slot))? else {
        return s.words(&format!("lpt{n}"), &format!("LPT {n}:"), off);
    };
    if !known(port.enabled())?.unwrap_or(false) {
        return s.words(&format!("lpt{n}"), &format!("LPT {n}:"), off);
    }
    let (base, irq, path) = (port.io_base()?, port.irq()?, port.path()?);
    if s.machine {
        s.key(&format!("lpt{n}"), format!("0x{base:04x},{irq}"))?;
        return s.key(&format!("lptmode{n}"), path);
    }
    s.label(
        &format!("LPT {n}:"),
        format_args!("I/O base: 0x{base:04x}, IRQ: {irq}, attached to device '{path}'"),
    )
}

fn audio(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let Some(settings) = known(m.audio_settings())? else {
        return s.words("audio", "Audio:", Some(("none", "disabled")));
    };
    let adapter = settings.adapter()?;
    if known(adapter.enabled())?.unwrap_or(false) {
        let driver = word_of(AUDIO_DRIVERS, adapter.audio_driver()?);
        if s.machine {
            s.key("audio", driver)?;
        } else {
            let controller = adapter.audio_controller()?.name();
            let codec = adapter.audio_codec()?.name();
            s.label(
                "Audio:",
                format_args!(
                    "enabled (Driver: {}, Controller: {controller}, Codec: {codec})",
                    adapter.audio_driver()?.name()
                ),
            )?;
        }
    } else {
        s.words("audio", "Audio:", Some(("none", "disabled")))?;
    }
    s.switch(
        "audio_out",
        "Audio playback:",
        known(adapter.enabled_out())?,
    )?;
    s.switch("audio_in", "Audio capture:", known(adapter.enabled_in())?)
}

/// Who runs the machine, and what its screens show.
pub fn session(s: &mut Sheet<'_>, m: &Machine, console: Option<&Console>) -> Result {
    let name = m.session_name()?;
    if m.session_state()? != SessionState::Unlocked && !name.is_empty() {
        s.text("SessionName", "Session name:", Some(name))?;
    }
    let Some(display) = console.and_then(|c| live(c.display())) else {
        return Ok(());
    };
    let monitors = known(m.graphics_adapter()?.monitor_count())?.unwrap_or(1);
    for screen in 0..monitors.min(64) {
        let Some((width, height, bits, x, y, status)) = live(display.get_screen_resolution(screen))
        else {
            continue;
        };
        if s.machine {
            // Not quoted as other values are.
            writeln!(
                s.out,
                "VideoMode=\"{width},{height},{bits}\"@{x},{y} {}",
                status as u32
            )?;
        } else {
            let status = match status {
                GuestMonitorStatus::Disabled => "disabled",
                GuestMonitorStatus::Enabled => "enabled",
                GuestMonitorStatus::Blank => "blank",
            };
            s.label(
                "Video mode:",
                format_args!("{width}x{height}x{bits} at {x},{y} {status}"),
            )?;
        }
    }
    Ok(())
}

pub fn remote_display(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let off = Some(("off", "disabled"));
    let Some(server) = known(m.vrde_server())? else {
        return s.words("vrde", "VRDE:", off);
    };
    if !known(server.enabled())?.unwrap_or(false) {
        return s.words("vrde", "VRDE:", off);
    }
    let property =
        |name: &str| known(server.get_vrde_property(name)).map(Option::unwrap_or_default);
    let (ports, address) = (property("TCP/Ports")?, property("TCP/Address")?);
    let ports = if ports.is_empty() || ports == "0" {
        "3389".to_owned()
    } else {
        ports
    };
    let auth = word_of(AUTHENTICATION, server.auth_type()?);
    let (multi, reuse) = (
        server.allow_multi_connection()?,
        server.reuse_single_connection()?,
    );
    let video = property("VideoChannel/Enabled")? == "true";
    if s.machine {
        s.key("vrde", "on")?;
        // The port in use is known while the server runs.
        writeln!(s.out, "vrdeport=-1")?;
        s.key("vrdeports", ports)?;
        s.key("vrdeaddress", address)?;
        s.key("vrdeauthtype", auth)?;
        s.key("vrdemulticon", on_off(multi))?;
        s.key("vrdereusecon", on_off(reuse))?;
        s.key("vrdevideochannel", on_off(video))?;
        for name in known(server.vrde_properties())?.unwrap_or_default() {
            let value = property(&name)?;
            if value.is_empty() {
                writeln!(s.out, "vrdeproperty[{name}]=<not set>")?;
            } else {
                s.key(&format!("vrdeproperty[{name}]"), value)?;
            }
        }
        return Ok(());
    }
    let address = if address.is_empty() {
        "0.0.0.0".to_owned()
    } else {
        address
    };
    s.label(
        "VRDE:",
        format_args!(
            "enabled (Address {address}, Ports {ports}, MultiConn: {}, ReuseSingleConn: {}, Authentication type: {auth})",
            on_off(multi),
            on_off(reuse)
        ),
    )?;
    s.label("Video redirection:", enabled(video))
}

pub fn usb(s: &mut Sheet<'_>, m: &Machine, running: bool) -> Result {
    let has = |kind| {
        let count = known(m.get_usb_controller_count_by_type(kind))?;
        Ok::<_, api::Error>(count.map(|c| c > 0))
    };
    s.switch("usb", "OHCI USB:", has(USBControllerType::OHCI)?)?;
    s.switch("ehci", "EHCI USB:", has(USBControllerType::EHCI)?)?;
    s.switch("xhci", "xHCI USB:", has(USBControllerType::XHCI)?)?;
    let filters = match known(m.usb_device_filters())? {
        Some(list) => known(list.device_filters())?.unwrap_or_default(),
        None => Vec::new(),
    };
    s.line("\nUSB Device Filters:\n")?;
    if filters.is_empty() {
        s.line("<none>\n")?;
    }
    for (index, filter) in filters.iter().enumerate() {
        let n = index + 1;
        let active = filter.active()?;
        if s.machine {
            s.key(&format!("USBFilterActive{n}"), on_off(active))?;
        } else {
            s.line(format_args!("Index:                       {index}"))?;
            s.label("Active:", yes_no(active))?;
        }
        for (key, label, value) in [
            ("Name", "Name:", filter.name()?),
            ("VendorId", "VendorId:", filter.vendor_id()?),
            ("ProductId", "ProductId:", filter.product_id()?),
            ("Revision", "Revision:", filter.revision()?),
            ("Manufacturer", "Manufacturer:", filter.manufacturer()?),
            ("Product", "Product:", filter.product()?),
            ("Remote", "Remote:", filter.remote()?),
            ("SerialNumber", "Serial Number:", filter.serial_number()?),
        ] {
            s.text(&format!("USBFilter{key}{n}"), label, Some(value))?;
        }
        s.line("")?;
    }
    if running {
        s.line("Available remote USB devices:\n\n<none>\n")?;
        s.line("Currently attached USB devices:\n\n<none>\n")?;
    }
    bandwidth(s, m)
}

fn bandwidth(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let groups = match known(m.bandwidth_control())? {
        Some(control) => known(control.get_all_bandwidth_groups())?.unwrap_or_default(),
        None => Vec::new(),
    };
    if groups.is_empty() {
        return s.line("Bandwidth groups:  <none>\n");
    }
    s.line("Bandwidth groups:\n")?;
    for (index, group) in groups.iter().enumerate() {
        let (name, limit) = (group.name()?, group.max_bytes_per_sec()?);
        let kind = match group.type_()? {
            BandwidthGroupType::Disk => "Disk",
            BandwidthGroupType::Network => "Network",
            BandwidthGroupType::Null => "unknown",
        };
        s.key(
            &format!("BandwidthGroup{index}"),
            format!("{name},{kind},{limit}"),
        )?;
        let text = if limit == 0 {
            "none (disabled)".to_owned()
        } else {
            format!("{limit} bytes/sec")
        };
        s.line(format_args!(
            "#{index}: Name: '{name}', Type: {kind}, Limit: {text}"
        ))?;
    }
    Ok(())
}

pub fn shared_folders(s: &mut Sheet<'_>, m: &Machine, console: Option<&Console>) -> Result {
    let permanent = known(m.shared_folders())?.unwrap_or_default();
    let transient = console
        .and_then(|c| live(c.shared_folders()))
        .unwrap_or_default();
    if permanent.is_empty() && transient.is_empty() {
        return s.line("Shared folders:<none>\n");
    }
    s.line("Shared folders:\n")?;
    for (folders, what, human) in [
        (&permanent, "Machine", "machine mapping"),
        (&transient, "Transient", "transient mapping"),
    ] {
        for (index, folder) in folders.iter().enumerate() {
            shared_folder(s, folder, what, human, index + 1)?;
        }
    }
    s.line("")
}

fn shared_folder(
    s: &mut Sheet<'_>,
    folder: &SharedFolder,
    what: &str,
    human: &str,
    n: usize,
) -> Result {
    let (name, path) = (folder.name()?, folder.host_path()?);
    s.key(&format!("SharedFolderName{what}Mapping{n}"), &name)?;
    s.key(&format!("SharedFolderPath{what}Mapping{n}"), &path)?;
    let writable = if folder.writable()? {
        "writable"
    } else {
        "readonly"
    };
    let auto = if known(folder.auto_mount())?.unwrap_or(false) {
        ", auto-mount"
    } else {
        ""
    };
    s.line(format_args!(
        "Name: '{name}', Host path: '{path}' ({human}), {writable}{auto}"
    ))
}

pub fn recording(s: &mut Sheet<'_>, m: &Machine) -> Result {
    let on = match known(m.recording_settings())? {
        Some(settings) => known(settings.enabled())?,
        None => None,
    };
    if s.machine {
        return s.switch("recording_enabled", "", on);
    }
    s.text("", "Recording enabled:", on.map(yes_no))
}

pub fn guest(s: &mut Sheet<'_>, m: &Machine, console: Option<&Console>) -> Result {
    s.line("\n* Guest:\n")?;
    let balloon = known(m.memory_balloon_size())?;
    s.number(
        "GuestMemoryBalloon",
        "Configured memory balloon:",
        balloon,
        "MB",
    )?;
    let Some(guest) = console.and_then(|c| live(c.guest())) else {
        return Ok(());
    };
    let os = live(guest.os_type_id()).filter(|o| !o.is_empty());
    s.text("GuestOSType", "OS type:", os)?;
    let level = live(guest.additions_run_level());
    s.number(
        "GuestAdditionsRunLevel",
        "Additions run level:",
        level.map(|l| l as u32),
        "",
    )?;
    let version = live(guest.additions_version()).filter(|v| !v.is_empty());
    if let Some(version) = version {
        let revision = live(guest.additions_revision()).unwrap_or(0);
        s.text(
            "GuestAdditionsVersion",
            "Additions version:",
            Some(format!("{version} r{revision}")),
        )?;
    }
    for facility in live(guest.facilities()).unwrap_or_default() {
        if s.machine {
            writeln!(
                s.out,
                "GuestAdditionsFacility_{}={},{}",
                facility.name, facility.status as u32, facility.last_updated
            )?;
        } else {
            s.line(format_args!(
                "Facility \"{}\": {}/{} (last update: {})",
                facility.name,
                facility.class_type.name(),
                facility.status.name(),
                crate::time::iso(facility.last_updated)
            ))?;
        }
    }
    Ok(())
}
