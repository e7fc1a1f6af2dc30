//! Debian systems with several processors: all of them work, for the same result as one, and the
//! guest's clock goes with the host's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, Serial, guest, is_long, need};

use crate::MINUTE;

#[test]
fn smp_amd64() {
    smp("smp_amd64", "amd64", "Debian_64", 4);
}

#[test]
fn smp_i386() {
    smp("smp_i386", "i386", "Debian", 2);
}

fn smp(test: &str, arch: &str, os_type: &str, cpus: u32) {
    need(
        test,
        || Ok((Home::new()?, guest("debian-disk", &[arch])?)),
        |(home, disk)| {
            let plan = Plan {
                os_type,
                memory_mib: 512,
                cpus,
                disk: Some(&disk),
                ..Plan::default()
            };
            let machine = Machine::create(&home, test, &plan)?;
            let mut serial = machine.start()?;
            serial.log_in(10 * MINUTE)?;
            all_processors_work(&mut serial, cpus)?;
            code_is_patched_under_load(&mut serial, cpus)?;
            processors_leave_and_come_back(&mut serial, cpus)?;

            let before = Clock::read(&mut serial)?;
            mixed_load(&mut serial)?;
            before.compare(&Clock::read(&mut serial)?)?;

            machine.control(&["pause"])?;
            machine.wait_state("paused", MINUTE)?;
            machine.control(&["resume"])?;
            all_processors_work(&mut serial, cpus)?;
            no_complaints(&mut serial)?;

            machine.control(&["reset"])?;
            serial.log_in(10 * MINUTE)?;
            ensure!(serial.shell("nproc", MINUTE)? == cpus.to_string());
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

/// Each processor for itself, then all together on data that one has checked before.
fn all_processors_work(serial: &mut Serial, cpus: u32) -> Result<()> {
    let seen = serial.shell("nproc", MINUTE)?;
    ensure!(seen == cpus.to_string(), "the guest has {seen} processors");
    let counted = serial.shell(
        &format!(
            "(for c in $(seq 0 {}); do taskset -c $c sh -c \
             'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i' & done; wait)",
            cpus - 1
        ),
        5 * MINUTE,
    )?;
    let counted: Vec<&str> = counted.lines().collect();
    ensure!(
        counted == vec!["20000"; cpus as usize],
        "counted {counted:?}"
    );

    serial.shell(
        "find /usr/bin /usr/sbin /usr/lib/systemd -type f | sort > /tmp/list",
        MINUTE,
    )?;
    let sums = |parallel: u32| {
        format!("xargs -a /tmp/list -n 8 -P {parallel} sha256sum | sort | sha256sum")
    };
    let one = serial.shell(&sums(1), 5 * MINUTE)?;
    let all = serial.shell(&sums(2 * cpus), 5 * MINUTE)?;
    ensure!(one == all, "one by one {one}, side by side {all}");

    let pong = serial.shell(
        r#"perl -e '$|=1; pipe A,B; pipe C,D;
        if (fork) { qx(taskset -cp 0 $$); for (1..2000) { syswrite B,"x"; sysread C,$_,1 } print "pong" }
        else { qx(taskset -cp 1 $$); for (1..2000) { sysread A,$_,1; syswrite D,"y" } }'"#,
        2 * MINUTE,
    )?;
    ensure!(pong.ends_with("pong"), "{pong}");

    let table = serial.shell("cat /proc/interrupts", MINUTE)?;
    for name in ["LOC", "CAL"] {
        let counts = interrupts(&table, name, cpus)?;
        ensure!(
            counts.iter().all(|n| *n > 0),
            "a processor has no {name} interrupts: {counts:?}"
        );
    }
    Ok(())
}

/// The counts of the interrupt `name` in /proc/interrupts, by processor.
fn interrupts(table: &str, name: &str, cpus: u32) -> Result<Vec<u64>> {
    let line = table
        .lines()
        .find_map(|l| l.trim_start().strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("no {name} in\n{table}"))?;
    let counts = line.split_whitespace().take(cpus as usize);
    Ok(counts.map(str::parse).collect::<Result<_, _>>()?)
}

/// Linux switches scheduler statistics on and off by rewriting jumps in code that all processors
/// execute.
fn code_is_patched_under_load(serial: &mut Serial, cpus: u32) -> Result<()> {
    serial.shell(
        &format!(
            "(for c in $(seq {cpus}); do sh -c \
             'i=0; while [ $i -lt 300 ]; do i=$((i+1)); /bin/true; done' & done; \
             for i in $(seq 100); do echo $((i%2)) > /proc/sys/kernel/sched_schedstats; done; wait)"
        ),
        5 * MINUTE,
    )?;
    Ok(())
}

fn processors_leave_and_come_back(serial: &mut Serial, cpus: u32) -> Result<()> {
    for online in [0, 1] {
        for cpu in 1..cpus {
            serial.shell(
                &format!("echo {online} > /sys/devices/system/cpu/cpu{cpu}/online"),
                MINUTE,
            )?;
        }
        let there = if online == 0 { 1 } else { cpus };
        let seen = serial.shell("nproc", MINUTE)?;
        ensure!(seen == there.to_string(), "{seen} of {there} processors");
    }
    Ok(())
}

/// Processors that compute, that wait for a disk and that sleep, for a while.
fn mixed_load(serial: &mut Serial) -> Result<()> {
    let seconds: u32 = if is_long() { 600 } else { 15 };
    serial.shell(
        &format!(
            "timeout {seconds} sh -c '(while :; do sha256sum /usr/bin/perl >/dev/null; done) & \
             (while :; do sleep 0.3; sync; done) & \
             while :; do dd if=/dev/zero of=/tmp/mixed bs=64k count=64 status=none; sleep 1; done' \
             || [ $? = 124 ]"
        ),
        Duration::from_secs(u64::from(seconds)) + 3 * MINUTE,
    )?;
    Ok(())
}

fn no_complaints(serial: &mut Serial) -> Result<()> {
    let source = serial.shell(
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        MINUTE,
    )?;
    ensure!(source == "tsc", "the clock source is {source}");
    let complaints = serial.shell(
        "dmesg | grep -E 'BUG:|Oops|unstable|rcu.*stall|lockup|LOCKUP|WARNING: CPU|lost ticks' || true",
        MINUTE,
    )?;
    ensure!(complaints.is_empty(), "the kernel complains:\n{complaints}");
    Ok(())
}

/// The guest's clock at a moment of the host's.
struct Clock {
    host: Instant,
    /// Seconds.
    guest: f64,
    /// Seconds that `host` may be off.
    error: f64,
}

/// What the guest's clock may gain or lose, in seconds.
const TOLERANCE: f64 = 0.05;

impl Clock {
    /// The closest of several readings.
    fn read(serial: &mut Serial) -> Result<Clock> {
        let mut best: Option<Clock> = None;
        for _ in 0..20 {
            let asked = Instant::now();
            serial.send_line("echo \"[time $EPOCHREALTIME]\"")?;
            serial.wait_for("[time ", MINUTE)?;
            let trip = asked.elapsed();
            let guest = serial.wait_for("]", MINUTE)?.parse()?;
            serial.wait_for("root@oxbox:~# ", MINUTE)?;
            let clock = Clock {
                host: asked + trip / 2,
                guest,
                error: trip.as_secs_f64() / 2.0,
            };
            if best.as_ref().is_none_or(|b| clock.error < b.error) {
                best = Some(clock);
            }
        }
        best.context("no reading")
    }

    /// Both clocks went on by the same time from here to `later`.
    fn compare(&self, later: &Clock) -> Result<()> {
        let host = later.host.duration_since(self.host).as_secs_f64();
        let gained = later.guest - self.guest - host;
        let error = self.error + later.error;
        eprintln!("in {host:.1} s the guest's clock gained {gained:.4} s (+- {error:.4})");
        ensure!(
            gained.abs() <= TOLERANCE + error,
            "in {host:.3} s the guest's clock gained {gained:.4} s (+- {error:.4})"
        );
        Ok(())
    }
}
