//! A guest with two processors under mixed load, disturbed at random: pauses, resets, screenshots,
//! keys. The load (`soak.pl`) checks all it computes against what the host computed; the memory of
//! the machine's process must not grow.
//!
//! With `OXBOX_LONG=1` it lasts `OXBOX_SOAK_MINUTES` (60), otherwise it is only tried out.
//! `OXBOX_SOAK_SEED` repeats the order of events of an earlier run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Pid;
use testkit::{Font, Home, Machine, Plan, Serial, guest, guest_text, is_long, need};

use crate::MINUTE;
use crate::memory::Memory;

/// What the machine's process may grow by, in MiB per hour.
const LEAK_LIMIT: f64 = 5.0;
/// How long every worker of the load may need for a round, disturbed as it is.
const ROUND_LIMIT: Duration = Duration::from_secs(400);
/// The workers of `soak.pl`.
const WORKERS: &[&str] = &[
    "cc1", "cc2", "clock", "compute", "disk", "memory", "pipe", "rows",
];
const ROWS: &[&str] = &[
    "coremix",
    "drystring",
    "sieve",
    "qsort",
    "sha256",
    "md5",
    "gzip",
    "fib",
    "indirect",
    "strings",
    "memcpy",
    "repmovs",
    "jit",
    "matmul",
    "nbody",
    "mandel_x87",
    "mandel_sse",
    "mandel_avx2",
    "lua",
    "python",
    "compiler",
];

#[test]
fn soak() {
    need(
        "soak",
        || {
            let images = Images {
                disk: guest("debian-disk", &["amd64"])?,
                compiler: guest("compiler", &["cd", "amd64"])?,
                rows: guest("bench-cd", &["rows"])?,
                row_files: guest("bench-cd", &["files"])?,
            };
            Ok((Home::new()?, images))
        },
        |(home, images)| {
            let machine = images.machine(&home)?;
            let mut serial = machine.start()?;
            serial.log_in(10 * MINUTE)?;
            install_load(&mut serial, &images)?;
            let process = *home
                .processes_of("VBoxHeadless")
                .first()
                .context("no VBoxHeadless")?;
            let mut soak = Soak {
                machine: &machine,
                serial,
                process,
                random: Random::seeded(),
                start: Instant::now(),
                memory: Vec::new(),
                events: BTreeMap::new(),
                rounds: BTreeMap::new(),
            };
            soak.run()?;
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

struct Images {
    disk: PathBuf,
    compiler: PathBuf,
    rows: PathBuf,
    /// The files of `rows`, to run on the host.
    row_files: PathBuf,
}

impl Images {
    fn machine<'a>(&self, home: &'a Home) -> Result<Machine<'a>> {
        let plan = Plan {
            os_type: "Debian_64",
            memory_mib: 768,
            cpus: 2,
            disk: Some(&self.disk),
            dvd: Some(&self.compiler),
            ..Plan::default()
        };
        let machine = Machine::create(home, "soak", &plan)?;
        // The CD with the rows is one to boot from.
        machine.modify(&["--boot1", "disk", "--boot3", "none"])?;
        // Full before the first quarter is over: what fills up to a bound is no leak.
        let cache = "VBoxInternal/REM/CodeCacheMiB";
        home.manage(&["setextradata", "soak", cache, "16"])?;
        let rows = self.rows.to_string_lossy();
        let place = [
            "storageattach",
            "soak",
            "--storagectl",
            "IDE",
            "--port",
            "1",
            "--device",
            "1",
            "--type",
            "dvddrive",
            "--medium",
            &rows,
        ];
        home.manage(&place)?;
        Ok(machine)
    }

    /// What the load is to find, one result a line, as the host's processor finds it.
    fn expected(&self) -> Result<String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/soak.pl");
        let computed = output_of(Command::new("perl").arg(script).arg("compute"))?;
        let mut expected = format!("compute {computed}");

        let sums = guest_text("compiler", &["sums", "amd64", "lua5.4", "-O2"])?;
        for line in sums.lines() {
            if let Some((sum, object)) = line.split_once("  ")
                && let Some(source) = object.strip_suffix(".o")
            {
                writeln!(expected, "cc {source} {sum}")?;
            }
        }

        let folder = tempfile::tempdir()?;
        output_of(
            Command::new("tar")
                .arg("-C")
                .arg(folder.path())
                .arg("-xf")
                .arg(&self.row_files),
        )?;
        for (program, suffix) in [("init", ""), ("bench32", ".32")] {
            let names: Vec<String> = ROWS.iter().map(|name| format!("{name}{suffix}")).collect();
            let said = output_of(
                Command::new(folder.path().join(program))
                    .args(["0.01", &names.join(",")])
                    .env("BENCH_ROOT", folder.path())
                    .env("BENCH_SCRATCH", folder.path()),
            )?;
            for name in names {
                let sum = said
                    .lines()
                    .find_map(|line| {
                        line.strip_prefix("BENCH ")?
                            .strip_prefix(&name)?
                            .split(' ')
                            .nth(2)
                    })
                    .with_context(|| format!("no row {name} in:\n{said}"))?;
                writeln!(expected, "row {name} {sum}")?;
            }
        }
        Ok(expected)
    }
}

fn output_of(command: &mut Command) -> Result<String> {
    let done = command
        .output()
        .with_context(|| format!("start {command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Writes a file into the guest through its shell.
fn send_file(serial: &mut Serial, name: &str, text: &str) -> Result<()> {
    serial.send_line(&format!("cat >{name} <<'END-OF-FILE'"))?;
    for line in text.lines() {
        serial.send_line(line)?;
    }
    serial.send_line("END-OF-FILE")?;
    serial.wait_for("root@oxbox:~# ", MINUTE)?;
    let size = serial.shell(&format!("stat -c %s {name}"), MINUTE)?;
    ensure!(
        size == text.len().to_string(),
        "{name}: {size} bytes of {} arrived",
        text.len()
    );
    Ok(())
}

/// Once: everything that the load needs goes to the guest's disk.
fn install_load(serial: &mut Serial, images: &Images) -> Result<()> {
    serial.shell("mkdir -p /root/soak/bench; PS2=", MINUTE)?;
    send_file(serial, "/root/soak/soak.pl", include_str!("soak.pl"))?;
    send_file(serial, "/root/soak/expected", &images.expected()?)?;
    serial.shell(
        "for d in /dev/sr0 /dev/sr1; do mount -o ro $d /mnt; \
         [ ! -e /mnt/boot/initrd.gz ] || (cd /root/soak/bench && zcat /mnt/boot/initrd.gz | cpio -id --quiet --no-absolute-filenames); \
         umount /mnt; done; ls /root/soak/bench/bench32 && sync",
        5 * MINUTE,
    )?;
    Ok(())
}

/// xorshift64*: the order of events, to be had again from its seed.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(1, |t| t.as_secs())
        };
        let seed = std::env::var("OXBOX_SOAK_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(clock);
        eprintln!("soak: OXBOX_SOAK_SEED={seed}");
        Random(seed.max(1))
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

struct Soak<'a> {
    machine: &'a Machine<'a>,
    serial: Serial,
    process: Pid,
    random: Random,
    start: Instant,
    /// Of the idle guest, after each boot, with the hours since the start.
    memory: Vec<(f64, Memory)>,
    events: BTreeMap<&'static str, u32>,
    /// Rounds of each worker, all boots together.
    rounds: BTreeMap<String, u64>,
}

impl Soak<'_> {
    fn run(&mut self) -> Result<()> {
        let minutes = std::env::var("OXBOX_SOAK_MINUTES")
            .ok()
            .and_then(|m| m.parse().ok());
        let (total, phase) = if is_long() {
            (minutes.unwrap_or(60) * MINUTE, 4 * MINUTE)
        } else {
            (MINUTE / 4, MINUTE / 4)
        };
        loop {
            self.idle_memory()?;
            if self.start.elapsed() >= total {
                break;
            }
            self.phase(phase)?;
            self.boot_again()?;
        }
        eprintln!("soak: rounds {:?}, events {:?}", self.rounds, self.events);
        if let Some(idle) = WORKERS
            .iter()
            .find(|worker| is_long() && !self.rounds.contains_key(**worker))
        {
            bail!("{idle} has done nothing");
        }
        if is_long() { self.no_leak() } else { Ok(()) }
    }

    /// Load and disturbances for about `length`.
    fn phase(&mut self, length: Duration) -> Result<()> {
        self.serial.shell(
            "for d in /dev/sr0 /dev/sr1; do mount -o ro $d /mnt; [ ! -e /mnt/build ] || break; umount /mnt; done; \
             mount -t tmpfs tmpfs /mnt/tmp && \
             (setsid perl /root/soak/soak.pl run /root/soak >/root/soak/log 2>&1 </dev/null &)",
            MINUTE,
        )?;
        let end = Instant::now() + length + self.random.millis(0..30_000);
        let (mut seen, mut moved) = (BTreeMap::new(), BTreeMap::new());
        while Instant::now() < end {
            std::thread::sleep(self.random.millis(200..6000));
            let event = self.disturb()?;
            *self.events.entry(event).or_default() += 1;
            seen = self.progress(seen, &mut moved)?;
        }
        ensure!(!seen.is_empty(), "the load did nothing");
        for (worker, rounds) in seen {
            *self.rounds.entry(worker).or_default() += rounds;
        }
        let complaints = self.serial.shell(
            "dmesg | grep -E 'BUG:|Oops|unstable|rcu.*stall|lockup|LOCKUP|WARNING: CPU|lost ticks|EXT4-fs error|I/O error|segfault|trap' || true",
            MINUTE,
        )?;
        ensure!(complaints.is_empty(), "the kernel complains:\n{complaints}");
        Ok(())
    }

    fn disturb(&mut self) -> Result<&'static str> {
        match self.random.below(10) {
            0..4 => {
                self.machine.control(&["pause"])?;
                self.machine.wait_state("paused", MINUTE)?;
                let before = cpu_time(self.process)?;
                std::thread::sleep(self.random.millis(300..3000));
                let used = cpu_time(self.process)? - before;
                ensure!(used < 20, "{used} ticks of processor time while paused");
                self.machine.control(&["resume"])?;
                self.machine.wait_state("running", MINUTE)?;
                Ok("pause")
            }
            4..8 => {
                let text = self.machine.screen()?.text(&Font::load()?);
                ensure!(text.contains("oxbox login:"), "the screen shows:\n{text}");
                Ok("screenshot")
            }
            8 => {
                // Shift, pressed and released: nothing that the login prompt would show.
                self.machine.control(&["keyboardputscancode", "2a", "aa"])?;
                Ok("key")
            }
            _ => Ok("nothing"),
        }
    }

    /// The workers' rounds; fails when one found something wrong or stands still.
    fn progress(
        &mut self,
        last: BTreeMap<String, u64>,
        moved: &mut BTreeMap<String, Instant>,
    ) -> Result<BTreeMap<String, u64>> {
        let said = self.serial.shell(
            "(cd /run/soak && for f in *; do echo \"$f $(cat $f)\"; done)",
            3 * MINUTE,
        )?;
        if said.contains("DIVERGED") {
            bail!("the guest computed something else: {said}");
        }
        let now = Instant::now();
        let mut rounds = BTreeMap::new();
        for line in said.lines() {
            if let Some((worker, count)) = line.split_once(' ')
                && let Ok(count) = count.parse::<u64>()
            {
                rounds.insert(worker.to_owned(), count);
                if last.get(worker) != Some(&count) {
                    moved.insert(worker.to_owned(), now);
                }
            }
        }
        for (worker, when) in moved {
            ensure!(
                now.duration_since(*when) < ROUND_LIMIT,
                "{worker} stands still: {said}"
            );
        }
        Ok(rounds)
    }

    /// By the reset button or by the guest itself.
    fn boot_again(&mut self) -> Result<()> {
        let event = if self.random.below(3) > 0 {
            self.machine.control(&["reset"])?;
            "reset"
        } else {
            self.serial.send_line("reboot")?;
            "reboot"
        };
        *self.events.entry(event).or_default() += 1;
        self.serial.log_in(15 * MINUTE)
    }

    /// Notes the memory of a guest that has just booted and does nothing.
    fn idle_memory(&mut self) -> Result<()> {
        // Boot jobs end, and the engine gives back what an idle guest does not need.
        std::thread::sleep(if is_long() { MINUTE / 2 } else { MINUTE / 20 });
        let hours = self.start.elapsed().as_secs_f64() / 3600.0;
        let memory = Memory::read(self.process)?;
        let files = fs::read_dir(format!("/proc/{}/fd", self.process.as_raw_nonzero()))?.count();
        eprintln!(
            "soak: {:.1} min: own {:.1} MiB, code {:.1} MiB, guest {:.1} MiB, {files} files",
            hours * 60.0,
            memory.own,
            memory.code,
            memory.guest
        );
        self.memory.push((hours, memory));
        Ok(())
    }

    /// The median slope (Theil and Sen) of all but the first quarter of the samples.
    fn no_leak(&self) -> Result<()> {
        let warm = &self.memory[self.memory.len() / 4..];
        ensure!(warm.len() >= 3, "too short to tell a leak");
        let mut slopes: Vec<f64> = Vec::new();
        for (i, (before, a)) in warm.iter().enumerate() {
            for (after, b) in &warm[i + 1..] {
                slopes.push((b.added() - a.added()) / (after - before));
            }
        }
        slopes.sort_by(f64::total_cmp);
        let slope = slopes[slopes.len() / 2];
        eprintln!("soak: the machine's process grew by {slope:.2} MiB per hour");
        ensure!(slope <= LEAK_LIMIT, "a leak of {slope:.2} MiB per hour");
        Ok(())
    }
}

/// Processor time that a process has used, in the kernel's ticks (10 ms).
fn cpu_time(process: Pid) -> Result<u64> {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    let text = fs::read_to_string(&path).with_context(|| path)?;
    let (_, fields) = text.rsplit_once(')').context("a stat line")?;
    // proc(5): utime and stime are fields 14 and 15; the first after the name is the third.
    let times = fields.split_whitespace().skip(11).take(2);
    times.map(|t| t.parse::<u64>().context("a number")).sum()
}
