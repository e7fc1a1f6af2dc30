use super::tables::Machine;
use super::*;
use pdm::testing::TestHost;

fn machine() -> Machine {
    let mut config = Node::default();
    config
        .set("HpetEnabled", true)
        .set("Serial0IoPortBase", 0x3f8u64);
    config.set("Parallel0IoPortBase", 0x378u64);
    Machine::new(&config, &TestHost::default()).unwrap()
}

/// Does what the firmware does with the loader script: tables at 0x10000, root pointer at 0.
fn place() -> Vec<u8> {
    let [(tables, data), (root, pointer), (_, script)] = machine().files();
    assert_eq!(root, "etc/acpi/rsdp");
    let mut memory = vec![0; 0x1_0000 + data.len()];
    memory[..pointer.len()].copy_from_slice(&pointer);
    memory[0x1_0000..].copy_from_slice(&data);
    let at = |field: &[u8]| {
        let name = field.split(|b| *b == 0).next().unwrap();
        if name == tables.as_bytes() {
            0x1_0000usize
        } else {
            0
        }
    };
    let word = |c: &[u8], i: usize| u32::from_le_bytes(c[i..i + 4].try_into().unwrap()) as usize;
    for c in script.chunks(128) {
        match word(c, 0) {
            1 => {}
            2 => {
                let (field, size) = (at(&c[4..60]) + word(c, 116), c[120] as usize);
                let mut value = [0; 8];
                value[..size].copy_from_slice(&memory[field..field + size]);
                let value = u64::from_le_bytes(value) + at(&c[60..116]) as u64;
                memory[field..field + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            3 => {
                let base = at(&c[4..60]);
                let (to, start, len) = (base + word(c, 60), base + word(c, 64), word(c, 68));
                let sum = memory[start..start + len]
                    .iter()
                    .fold(0u8, |s, b| s.wrapping_add(*b));
                memory[to] = memory[to].wrapping_sub(sum);
            }
            other => panic!("command {other}"),
        }
    }
    memory
}

fn word(memory: &[u8], at: usize) -> usize {
    u32::from_le_bytes(memory[at..at + 4].try_into().unwrap()) as usize
}

/// The table at `at`, its checksum checked.
fn table(memory: &[u8], at: usize) -> &[u8] {
    let table = &memory[at..at + word(memory, at + 4)];
    if !table.starts_with(b"FACS") {
        assert_eq!(table.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    }
    table
}

/// All tables by signature, found from the root pointer as a guest does.
fn walk(memory: &[u8]) -> Vec<(String, Vec<u8>)> {
    assert_eq!(&memory[..8], b"RSD PTR ");
    assert_eq!(memory[..20].iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    assert_eq!(memory[..36].iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0);
    let rsdt = table(memory, word(memory, 16));
    let xsdt = table(memory, word(memory, 24));
    let mut found = Vec::new();
    for (narrow, wide) in rsdt[36..].chunks(4).zip(xsdt[36..].chunks(8)) {
        assert_eq!(narrow, &wide[..4]);
        found.push(table(memory, word(narrow, 0)));
    }
    let fadt = found[0];
    found.push(table(memory, word(fadt, 36)));
    found.push(table(memory, word(fadt, 40)));
    assert_eq!(word(fadt, 40), word(fadt, 140));
    let named = |t: &&[u8]| (String::from_utf8_lossy(&t[..4]).into_owned(), t.to_vec());
    found.iter().map(named).collect()
}

#[test]
fn a_guest_finds_all_tables() {
    let tables = walk(&place());
    let names: Vec<_> = tables.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "HPET", "FACS", "DSDT"]);
    let fadt = &tables[0].1;
    assert_eq!((fadt.len(), fadt[8], fadt[46]), (244, 3, SCI));
    assert_eq!((word(fadt, 56), word(fadt, 76)), (0x600, 0x608));
    assert_eq!((word(fadt, 120), fadt[128]), (0xcf9, 6));
    assert_eq!((word(fadt, 152), word(fadt, 212)), (0x600, 0x608));
    assert_eq!(tables[2].1.len(), 56);
}

/// The disassembler of acpica-tools reads every table and compiles the DSDT again, where installed.
#[test]
fn iasl_accepts_the_tables() {
    let run = |dir: &std::path::Path, args: &[&str]| {
        std::process::Command::new("iasl")
            .current_dir(dir)
            .args(args)
            .output()
    };
    if std::process::Command::new("iasl")
        .arg("-v")
        .output()
        .is_err()
    {
        eprintln!("iasl (Debian package acpica-tools) is not installed: nothing checked");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, data) in walk(&place()) {
        let file = format!("{name}.dat");
        std::fs::write(dir.path().join(&file), data).unwrap();
        let output = run(dir.path(), &["-d", &file]).unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
        let source = std::fs::read_to_string(dir.path().join(format!("{name}.dsl"))).unwrap();
        assert!(
            !source.contains("Invalid") && !source.contains("Unknown"),
            "{name}: {source}"
        );
        if name == "DSDT" {
            let output = run(dir.path(), &["DSDT.dsl"]).unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("0 Errors"), "{text}\n{source}");
        }
    }
}

fn device(host: &mut TestHost) -> Box<dyn Device> {
    let mut dev = construct(&Node::default(), 0, host).unwrap();
    let mut config = [0; CONFIG_SIZE];
    config[PMBASE..PMBASE + 2].copy_from_slice(&[1, 6]);
    config[PMREGMISC] = 1;
    config[SMBBASE..SMBBASE + 2].copy_from_slice(&[1, 7]);
    config[SMBHSTCFG] = 9;
    dev.pci().unwrap().config_written(PMBASE, 4, &mut config);
    dev
}

#[test]
fn ports_follow_the_base_registers() {
    let mut host = TestHost::default();
    let mut dev = device(&mut host);
    assert_eq!(*host.pio_ranges[0].0.lock(), Some(0x600));
    assert_eq!(*host.pio_ranges[1].0.lock(), Some(0x700));
    dev.reset();
    assert_eq!(*host.pio_ranges[0].0.lock(), None);
}

#[test]
fn the_timer_counts_and_overflows() {
    let mut host = TestHost::default();
    let mut dev = device(&mut host);
    host.clock.advance(1_000_000_000);
    let io = dev.pio().unwrap();
    assert_eq!(io.read(0x608, 4), 3_579_545);
    io.write(SMI_COMMAND, 1, ACPI_ENABLE.into());
    io.write(0x602, 2, TIMER.into());
    let at = host.timers[&0].deadline().unwrap();
    host.clock.advance(at - host.clock.now_ns());
    dev.timers().unwrap().expired(0);
    let io = dev.pio().unwrap();
    assert_eq!(io.read(0x608, 4), 1 << 23);
    assert_eq!(io.read(0x600, 4), 0x0001_0001);
    io.write(0x600, 2, 1);
    assert_eq!(io.read(0x600, 2), 0);
}

#[test]
fn power_button_raises_the_sci_and_s5_powers_off() {
    let mut host = TestHost::default();
    let mut dev = device(&mut host);
    let io = dev.pio().unwrap();
    io.write(SMI_COMMAND, 1, ACPI_ENABLE.into());
    assert_eq!(io.read(0x604, 2), 1);
    io.write(0x602, 2, POWER_BUTTON.into());
    let sci = |dev: &dyn Device| {
        let mut text = String::new();
        dev.info("", &mut text).unwrap();
        text.contains("SCI true")
    };
    assert!(!sci(&*dev));
    let buttons = dev.acpi().unwrap();
    buttons.power_button();
    assert!(buttons.guest_entered_acpi() && !buttons.power_button_handled());
    assert!(sci(&*dev));
    let io = dev.pio().unwrap();
    assert_eq!(io.read(0x601, 1), 1);
    io.write(0x601, 1, 1);
    assert!(dev.acpi().unwrap().power_button_handled());
    let io = dev.pio().unwrap();
    io.write(
        0x604,
        2,
        u32::from(SLEEP_ENABLE | u16::from(TYPE_OFF) << 10 | 1),
    );
    assert_eq!(*host.recorder.requests.lock(), [VmRequest::PowerOff]);
    let saved = dev.save().unwrap();
    dev.load(SAVED_VERSION, &saved).unwrap();
    assert_eq!(dev.save().unwrap(), saved);
}

#[test]
fn the_smbus_is_idle_and_empty() {
    let mut host = TestHost::default();
    let mut dev = device(&mut host);
    let io = dev.pio().unwrap();
    assert_eq!(io.read(0x700, 1), 0);
    io.write(0x702, 1, 0x48);
    assert_eq!(io.read(0x700, 1), 4);
    io.write(0x700, 1, 4);
    assert_eq!(io.read(0x700, 1), 0);
}
