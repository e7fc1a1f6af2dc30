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

/// The graphical installer shows a banner on top for a while, then a list of languages below it.
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
            loop {
                std::thread::sleep(Duration::from_secs(5));
                let picture = machine.screen()?;
                let dark = picture.dark_pixels_from(picture.height / 5);
                // More is a screen that is still black, less a bare background with a pointer.
                if picture.width >= 800 && (2000..100_000).contains(&dark) {
                    machine.keep_picture("language");
                    break;
                }
                if start.elapsed() > 10 * MINUTE {
                    machine.keep_picture("failed");
                    bail!(
                        "no dialogue: {}x{}, {dark} dark pixels",
                        picture.width,
                        picture.height
                    );
                }
            }
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}
