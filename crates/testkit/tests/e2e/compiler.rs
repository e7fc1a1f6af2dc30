//! Guests that compile a whole C program: what the packaged compiler makes there is what the same
//! files make on the host's processor, byte for byte.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, Serial, guest, guest_text, is_long, need};

use crate::MINUTE;

/// A project of `guests/compiler` and the compiler's options.
type Build = &'static [&'static str];

const SHORT: &[Build] = &[&["lua5.4", "-O2"]];
/// More parts of the compiler, and twice as many lines.
const LONG: &[Build] = &[
    &["lua5.4", "-O2"],
    &["lua5.4", "-O0", "-g"],
    &["lua5.4", "-O3", "-flto=1", "-frandom-seed=oxbox"],
    &["libzstd", "-O2"],
    &["libzstd", "-Os", "-march=haswell"],
];
/// What counts as a whole program.
const LINES: u32 = 20_000;

#[test]
fn compiler_amd64() {
    compiler("compiler_amd64", "amd64", "Debian_64", 2);
}

#[test]
fn compiler_i386() {
    compiler("compiler_i386", "i386", "Debian", 1);
}

fn compiler(test: &str, arch: &str, os_type: &str, cpus: u32) {
    need(
        test,
        || {
            let (disk, cd) = (
                guest("debian-disk", &[arch])?,
                guest("compiler", &["cd", arch])?,
            );
            Ok((Home::new()?, disk, cd))
        },
        |(home, disk, cd)| {
            let plan = Plan {
                os_type,
                memory_mib: 1024,
                cpus,
                disk: Some(&disk),
                dvd: Some(&cd),
                ..Plan::default()
            };
            let machine = Machine::create(&home, test, &plan)?;
            let mut serial = machine.start()?;
            serial.log_in(10 * MINUTE)?;
            serial.shell(
                "mount -o ro /dev/sr0 /mnt && mount -t tmpfs tmpfs /mnt/tmp",
                MINUTE,
            )?;
            for build in if is_long() { LONG } else { SHORT } {
                same_as_on_the_host(&mut serial, arch, build).with_context(|| build.join(" "))?;
            }
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

fn same_as_on_the_host(serial: &mut Serial, arch: &str, build: Build) -> Result<()> {
    let start = Instant::now();
    let wanted = guest_text("compiler", &[&["sums", arch], build].concat())?;
    let host = start.elapsed();
    let lines: u32 = wanted
        .lines()
        .find_map(|line| line.strip_prefix("lines: "))
        .context("no count of lines")?
        .parse()?;
    ensure!(lines > LINES, "only {lines} lines");

    let start = Instant::now();
    let made = serial.shell(
        &format!(
            "JOBS=$(nproc) chroot /mnt /build {} && rm -r /mnt/tmp/build",
            build.join(" ")
        ),
        30 * MINUTE,
    )?;
    let took = start.elapsed();
    let build = build.join(" ");
    eprintln!("{arch} {build}: {lines} lines, guest {took:.1?}, host {host:.1?} with unpacking");
    let different: Vec<&str> = made
        .lines()
        .zip(wanted.lines())
        .filter_map(|(a, b)| (a != b).then_some(a))
        .collect();
    ensure!(
        made == wanted,
        "other results than on the host: {different:#?}"
    );
    Ok(())
}
