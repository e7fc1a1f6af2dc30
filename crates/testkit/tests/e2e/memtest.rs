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
