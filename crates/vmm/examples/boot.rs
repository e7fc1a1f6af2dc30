//! Boots a machine from command-line flags, for work on engines and devices.
//!
//!     cargo run -p vmm --example boot -- --cdrom grub-rescue-cdrom.iso --seconds 5
//!
//! The text screen goes to stdout at the end (and every `--every` seconds); with `--serial` the
//! first serial port is connected to stdin and stdout.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use drivers::block::ImageDriver;
use pdm::cfgm::Node;
use pdm::driver::{BlockDriver, CharDriver, CharInput, Identity};
use storage::{Container, MediaKind, OpenMode};
use vmm::{Attachments, Vm, VmEvents, VmState};

const USAGE: &str = "\
boot [OPTION VALUE]...
  --bios FILE      firmware (/usr/share/seabios/bios-256k.bin)
  --vgabios FILE   video BIOS (/usr/share/seabios/vgabios-stdvga.bin)
  --ram MB         memory (64)
  --cpus N         processors (1)
  --engine NAME    rem or kvm; otherwise what works
  --hda, --hdb FILE    hard disks (any format, written to)
  --cdrom FILE     CD image
  --floppy FILE    floppy image
  --serial stdio | FILE    the first serial port
  --seconds N      run time (10)
  --every N        show the screen every N seconds
  --until TEXT     end when the text screen or serial output has TEXT (exit code 1 if it never has)
  --keys TEXT      type this (\\n is Enter) after --keys-after seconds (5)
  --shot FILE      write the screen as a PPM picture at the end
  --set PATH=VALUE a value of the configuration tree
  --log FILE       the log (boot.log)
  --info NAME      print debugger information at the end (may be given more than once)
  --samples N      print where vCPU 0 is N times at the end (1)
  --stats yes      print engine counters at the end";

struct Options {
    config: Node,
    attachments: Attachments,
    seconds: u64,
    every: Option<u64>,
    until: Option<String>,
    keys: String,
    keys_after: u64,
    shot: Option<PathBuf>,
    log: PathBuf,
    info: Vec<String>,
    stats: bool,
    samples: u64,
    serial_seen: Arc<parking_lot::Mutex<String>>,
}

fn parse() -> anyhow::Result<Options> {
    let mut o = Options {
        config: Node::default(),
        attachments: Attachments::default(),
        seconds: 10,
        every: None,
        until: None,
        keys: String::new(),
        keys_after: 5,
        shot: None,
        log: PathBuf::from("boot.log"),
        info: Vec::new(),
        stats: false,
        samples: 1,
        serial_seen: Arc::default(),
    };
    let c = &mut o.config;
    c.set("RamSize", 64u64 << 20);
    for reg in devices::registry::DEVICES {
        if !matches!(reg.name, "serial" | "parallel") {
            c.set_path(&format!("Devices/{}/0/Config/Present", reg.name), true);
        }
    }
    c.set_path(
        "Devices/pcbios/0/Config/BiosRom",
        "/usr/share/seabios/bios-256k.bin",
    );
    c.set_path(
        "Devices/vga/0/Config/VgaRom",
        "/usr/share/seabios/vgabios-stdvga.bin",
    );
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let Some(value) = args.next() else {
            bail!("{USAGE}");
        };
        let number = || {
            value
                .parse::<u64>()
                .with_context(|| format!("{flag} {value}"))
        };
        match flag.as_str() {
            "--bios" => c.set_path("Devices/pcbios/0/Config/BiosRom", value),
            "--vgabios" => c.set_path("Devices/vga/0/Config/VgaRom", value),
            "--ram" => {
                c.set("RamSize", number()? << 20);
            }
            "--cpus" => {
                c.set("NumCPUs", number()?);
            }
            "--engine" => c.set_path("EM/ForceEngine", value),
            "--hda" | "--hdb" => {
                let lun = u32::from(flag == "--hdb");
                let drive = open_drive(&value, MediaKind::HardDisk)?;
                o.attachments.block("piix3ide", 0, lun, drive);
            }
            "--cdrom" => {
                let drive = open_drive(&value, MediaKind::Dvd)?;
                o.attachments.block("piix3ide", 0, 2, drive);
            }
            "--floppy" => {
                let drive = open_drive(&value, MediaKind::Floppy)?;
                o.attachments.block("i82078", 0, 0, drive);
                c.set_path("Devices/mc146818/0/Config/FloppyType0", 4u64);
            }
            "--serial" => {
                c.set_path("Devices/serial/0/Config/Present", true);
                let port = Terminal::open(&value, o.serial_seen.clone())?;
                o.attachments.char("serial", 0, 0, Box::new(port));
            }
            "--seconds" => o.seconds = number()?,
            "--every" => o.every = Some(number()?),
            "--until" => o.until = Some(value),
            "--keys" => o.keys = value.replace("\\n", "\n"),
            "--keys-after" => o.keys_after = number()?,
            "--shot" => o.shot = Some(value.into()),
            "--log" => o.log = value.into(),
            "--info" => o.info.push(value),
            "--samples" => o.samples = number()?,
            "--stats" => o.stats = true,
            "--set" => {
                let (path, value) = value.split_once('=').context("--set PATH=VALUE")?;
                match value.parse::<u64>() {
                    Ok(n) => c.set_path(path, n),
                    Err(_) => c.set_path(path, value),
                }
            }
            _ => bail!("{USAGE}"),
        }
    }
    Ok(o)
}

struct Printer;

impl VmEvents for Printer {
    fn state_changed(&self, state: VmState, reason: Option<&str>) {
        eprintln!("[{state:?}] {}", reason.unwrap_or(""));
    }
    fn message(&self, text: &str) {
        eprintln!("[message] {text}");
    }
}

fn main() -> anyhow::Result<()> {
    let o = parse()?;
    let log = Arc::new(iprt::log::ReleaseLog::create(&o.log, 0)?);
    let subscriber = iprt::log::LogSubscriber::new(log, tracing::Level::INFO);
    tracing::subscriber::set_global_default(subscriber)?;
    let vm = Vm::new(
        o.config,
        devices::registry::DEVICES,
        o.attachments,
        Arc::new(Printer),
    )?;
    vm.resume()?;
    let start = Instant::now();
    let mut shown = 0;
    let mut keys = Some(o.keys).filter(|k| !k.is_empty());
    let mut found = o.until.is_none();
    while start.elapsed() < Duration::from_secs(o.seconds) && vm.state() != VmState::Off {
        std::thread::sleep(Duration::from_millis(100));
        let passed = start.elapsed().as_secs();
        if let Some(every) = o.every
            && passed / every.max(1) > shown
        {
            shown = passed / every.max(1);
            println!("--- {passed} s");
            show(&vm);
        }
        if passed >= o.keys_after
            && let Some(text) = keys.take()
        {
            type_text(&vm, &text);
        }
        if let Some(text) = &o.until {
            let screen = vm.text_screen().map(|s| s.rows.join("\n"));
            if screen.is_some_and(|s| s.contains(text)) || o.serial_seen.lock().contains(text) {
                found = true;
                println!("--- '{text}' after {:.1} s", start.elapsed().as_secs_f32());
                break;
            }
        }
    }
    show(&vm);
    if let (Some(path), Some(frame)) = (&o.shot, vm.frame()) {
        let mut out = format!("P6 {} {} 255\n", frame.width, frame.height).into_bytes();
        for p in &frame.pixels {
            out.extend([(p >> 16) as u8, (p >> 8) as u8, *p as u8]);
        }
        std::fs::write(path, out)?;
    }
    if vm.state() != VmState::Off {
        println!("{}", vm.info("cpum", "0")?);
        println!("engine: {}", vm.engine_name()?);
        for _ in 0..o.samples {
            let r = vm.registers(0)?;
            let at = r.seg[1].base.wrapping_add(r.rip);
            // Only right without paging or where it is the identity.
            let code = vm.read_memory(at, 24);
            println!("{at:#x}: {code:02x?}");
            std::thread::sleep(Duration::from_millis(7));
        }
        for name in &o.info {
            println!("--- {name}\n{}", vm.info(name, "")?);
        }
        if o.stats {
            for (name, value) in vm.statistics()? {
                println!("{value:>12}  {name}");
            }
        }
        vm.power_off()?;
    }
    if !found {
        bail!("the text was never seen");
    }
    Ok(())
}

fn show(vm: &Vm) {
    match vm.text_screen() {
        Some(text) => {
            for row in text.rows {
                println!("| {row}");
            }
        }
        None => println!("| graphics mode {:?}", vm.screen_mode()),
    }
}

/// US layout, letters, digits and what boot prompts need.
fn type_text(vm: &Vm, text: &str) {
    const ROWS: [(&str, &str, u8); 4] = [
        ("1234567890-=", "!@#$%^&*()_+", 0x02),
        ("qwertyuiop[]\n", "QWERTYUIOP{}", 0x10),
        ("asdfghjkl;'`", "ASDFGHJKL:\"~", 0x1e),
        ("\\zxcvbnm,./", "|ZXCVBNM<>?", 0x2b),
    ];
    for c in text.chars() {
        let mut codes = Vec::new();
        for (plain, shifted, first) in ROWS {
            if let Some(i) = plain.chars().position(|p| p == c) {
                let code = first + i as u8;
                codes = vec![code, code | 0x80];
            } else if let Some(i) = shifted.chars().position(|p| p == c) {
                let code = first + i as u8;
                codes = vec![0x2a, code, code | 0x80, 0xaa];
            }
        }
        if c == ' ' {
            codes = vec![0x39, 0xb9];
        }
        if c == '\u{1b}' {
            codes = vec![0x01, 0x81];
        }
        vm.put_scancodes(&codes);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An image in a drive.
fn open_drive(path: &str, kind: MediaKind) -> anyhow::Result<Box<dyn BlockDriver>> {
    let mode = match kind {
        MediaKind::HardDisk => OpenMode::ReadWrite,
        MediaKind::Dvd | MediaKind::Floppy => OpenMode::ReadOnly,
    };
    let image = Container::open_as(path.as_ref(), kind, mode)?;
    let shared = Arc::new(parking_lot::Mutex::new(image));
    Ok(Box::new(ImageDriver::new(
        shared,
        kind,
        Identity::default(),
    )))
}

/// The terminal or a file as the host side of a serial port.
struct Terminal {
    out: Box<dyn Write + Send>,
    input: bool,
    seen: Arc<parking_lot::Mutex<String>>,
}

impl Terminal {
    fn open(name: &str, seen: Arc<parking_lot::Mutex<String>>) -> anyhow::Result<Self> {
        let input = name == "stdio";
        let out: Box<dyn Write + Send> = if input {
            Box::new(std::io::stdout())
        } else {
            Box::new(std::fs::File::create(name)?)
        };
        Ok(Self { out, input, seen })
    }
}

impl CharDriver for Terminal {
    fn send(&mut self, data: &[u8]) -> usize {
        let _ = self.out.write_all(data);
        let _ = self.out.flush();
        self.seen.lock().push_str(&String::from_utf8_lossy(data));
        data.len()
    }
    fn start(&mut self, input: Arc<dyn CharInput>) {
        input.modem(true, true, false, true);
        if self.input {
            std::thread::spawn(move || {
                for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
                    while input.receive(&[byte]) == 0 {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
    }
}
