//! memtest86+ on 64 MiB: the machine's memory and the engine's integer and string instructions.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::{Font, Home, Machine, Plan, guest, is_long, need};

use crate::MINUTE;

#[test]
fn memtest_x64() {
    memtest("memtest_x64", "x64", "Other_64");
}

#[test]
fn memtest_ia32() {
    memtest("memtest_ia32", "ia32", "Other");
}

/// A processor profile, from the command line to what memtest86+ makes of CPUID.
#[test]
fn memtest_names_the_profile() {
    need(
        "memtest_names_the_profile",
        || Ok((Home::new()?, guest("memtest", &["ia32"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "memtest-profile", &plan)?;
            let listed = home.manage(&["list", "cpu-profiles"])?;
            ensure!(listed.contains("Intel 80486"), "not listed:\n{listed}");
            machine.modify(&["--cpu-profile", "Intel 80486"])?;
            let _serial = machine.start()?;
            machine.wait_screen("486DX4", 2 * MINUTE)?;
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

/// The tests before number 7 (a minute at an emulator's speed), or ten minutes in a long run.
fn memtest(test: &str, width: &str, os_type: &str) {
    need(
        test,
        || Ok((Home::new()?, guest("memtest", &[width])?)),
        |(home, image)| {
            let plan = Plan {
                os_type,
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, &test.replace('_', "-"), &plan)?;
            let mut serial = machine.start()?;
            serial.wait_for("Memtest86", 2 * MINUTE)?;
            if is_long() {
                let start = Instant::now();
                while start.elapsed() < 10 * MINUTE {
                    std::thread::sleep(Duration::from_secs(10));
                    no_errors(&machine)?;
                }
            } else {
                machine.wait_screen("Test #7", 10 * MINUTE)?;
            }
            no_errors(&machine)?;
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

fn no_errors(machine: &Machine<'_>) -> Result<()> {
    let text = machine.screen()?.text(&Font::load()?);
    let count = text
        .split("Errors:")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    ensure!(
        count == Some("0"),
        "memtest86+ does not say 0 errors:\n{text}"
    );
    Ok(())
}
