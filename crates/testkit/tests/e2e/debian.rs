//! Debian systems on an IDE disk: boot, login, data that survives, shutdown through ACPI.

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, eventually, guest, need};

use crate::MINUTE;
use crate::memory::Memory;

/// What an idle machine of 512 MiB may take besides guest RAM, in MiB.
const ADDED_LIMIT: f64 = 120.0;

#[test]
fn debian_amd64() {
    need(
        "debian_amd64",
        || Ok((Home::new()?, guest("debian-disk", &["amd64"])?)),
        |(home, disk)| {
            let plan = Plan {
                os_type: "Debian_64",
                memory_mib: 512,
                disk: Some(&disk),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "debian-amd64", &plan)?;
            let mut serial = machine.start()?;
            serial.wait_for("Linux version", 3 * MINUTE)?;
            serial.log_in(5 * MINUTE)?;
            machine.wait_screen("oxbox login:", MINUTE)?;
            let kernel = serial.shell("uname -rm", MINUTE)?;
            ensure!(
                kernel.ends_with("-amd64 x86_64"),
                "another kernel: {kernel}"
            );
            idle_guest_needs_little_memory(&home)?;

            // 200 MiB, written and read back by a system that was started anew.
            serial.shell(
                "dd if=/dev/urandom of=/data bs=1M count=200 status=none && sync",
                5 * MINUTE,
            )?;
            let written = serial.shell("sha256sum /data", 3 * MINUTE)?;
            serial.send_line("reboot")?;
            serial.log_in(8 * MINUTE)?;
            let read = serial.shell("sha256sum /data", 3 * MINUTE)?;
            ensure!(
                written == read,
                "checksums differ after the reboot: {written} before, {read} after"
            );

            shut_down(&machine, &mut serial)
        },
    );
}

#[test]
fn debian_i386() {
    need(
        "debian_i386",
        || Ok((Home::new()?, guest("debian-disk", &["i386"])?)),
        |(home, disk)| {
            let plan = Plan {
                os_type: "Debian",
                memory_mib: 512,
                disk: Some(&disk),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "debian-i386", &plan)?;
            let mut serial = machine.start()?;
            serial.log_in(8 * MINUTE)?;
            machine.wait_screen("oxbox login:", MINUTE)?;
            let kernel = serial.shell("uname -rm", MINUTE)?;
            ensure!(
                kernel.ends_with("-686-pae i686"),
                "another kernel: {kernel}"
            );
            shut_down(&machine, &mut serial)
        },
    );
}

/// The engine gives back what a guest that does nothing has no use for.
fn idle_guest_needs_little_memory(home: &Home) -> Result<()> {
    let process = *home
        .processes_of("VBoxHeadless")
        .first()
        .context("no VBoxHeadless")?;
    let mut added = 0.0;
    let given_back = eventually("memory given back", 2 * MINUTE, || {
        added = Memory::read(process)?.added();
        Ok((added <= ADDED_LIMIT).then_some(()))
    });
    eprintln!("the idle machine adds {added:.1} MiB to guest RAM");
    given_back.with_context(|| format!("an idle machine adds {added:.1} MiB"))
}

/// Presses the power button and waits for the system to have ended in order.
/// Presses the power button and waits until the machine is off.
pub fn shut_down(machine: &Machine<'_>, serial: &mut testkit::Serial) -> Result<()> {
    machine.control(&["acpipowerbutton"])?;
    serial.wait_for("reboot: Power down", 3 * MINUTE)?;
    machine.wait_state("poweroff", MINUTE)
}
