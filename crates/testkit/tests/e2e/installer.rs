//! The Debian installer's netboot images, up to their language screen.

use anyhow::bail;
use std::time::{Duration, Instant};
use testkit::{Home, Machine, Plan, guest, need};

use crate::MINUTE;

#[test]
fn installer_amd64_text() {
    text("installer_amd64_text", "amd64", "Debian_64");
}

#[test]
fn installer_i386_text() {
    text("installer_i386_text", "i386", "Debian");
}

fn text(test: &str, arch: &str, os_type: &str) {
    need(
        test,
        || Ok((Home::new()?, guest("installer", &[arch, "text"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type,
                memory_mib: 1024,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, &test.replace('_', "-"), &plan)?;
            let _serial = machine.start()?;
            machine.wait_screen("Select a language", 8 * MINUTE)?;
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

/// The graphical installer draws text in many shades and a coloured banner, then waits.
#[test]
fn installer_amd64_gtk() {
    need(
        "installer_amd64_gtk",
        || Ok((Home::new()?, guest("installer", &["amd64", "gtk"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Debian_64",
                memory_mib: 1024,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "installer-amd64-gtk", &plan)?;
            let _serial = machine.start()?;
            let start = Instant::now();
            let mut last = None;
            loop {
                std::thread::sleep(Duration::from_secs(5));
                let picture = machine.screen()?;
                let colours = picture.colours();
                // The pointer and nothing else may move between two looks: compare without it by
                // asking for equality only once the picture is rich enough to be the dialogue.
                if picture.width >= 800 && colours.len() > 200 && last.as_ref() == Some(&picture) {
                    machine.keep_picture("language");
                    break;
                }
                if start.elapsed() > 10 * MINUTE {
                    machine.keep_picture("failed");
                    bail!(
                        "no dialogue; the screen has {}x{}, {} colours",
                        picture.width,
                        picture.height,
                        colours.len()
                    );
                }
                last = Some(picture);
            }
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}
