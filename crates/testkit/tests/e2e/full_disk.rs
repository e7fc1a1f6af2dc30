//! A host whose disk is full while a guest writes: the machine pauses and goes on when there is room.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, guest, need};

use crate::MINUTE;

/// A small file system of its own, gone with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Result<SmallDisk> {
        std::fs::create_dir_all(folder)?;
        let options = format!("size={size}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "oxbox"])
            .arg(folder)
            .status()?;
        ensure!(done.success(), "no tmpfs can be mounted here (needs root)");
        Ok(SmallDisk(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may still hold a file open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full_host_disk_pauses_the_machine() {
    let can_mount = tempfile::tempdir()
        .map_err(anyhow::Error::from)
        .and_then(|f| SmallDisk::mount(f.path(), "1m"));
    if let Err(error) = can_mount {
        return testkit::skip("full_host_disk_pauses_the_machine", &format!("{error:#}"));
    }
    need(
        "full_host_disk_pauses_the_machine",
        || Ok((Home::new()?, guest("debian-disk", &["i386"])?)),
        |(home, disk)| {
            let plan = Plan {
                os_type: "Debian",
                memory_mib: 512,
                disk: Some(&disk),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "full-disk", &plan)?;
            // A second disk of 256 MiB on a file system of 64.
            let small = SmallDisk::mount(&home.path().join("small"), "64m")?;
            let medium = small.0.join("data.vdi").to_string_lossy().into_owned();
            home.manage(&[
                "createmedium",
                "disk",
                "--filename",
                &medium,
                "--size",
                "256",
                "--format",
                "VDI",
            ])?;
            let place = [
                "--storagectl",
                "IDE",
                "--port",
                "0",
                "--device",
                "1",
                "--type",
                "hdd",
                "--medium",
                &medium,
            ];
            home.manage(&[&["storageattach", "full-disk"], &place[..]].concat())?;

            let mut serial = machine.start()?;
            serial.log_in(8 * MINUTE)?;
            // Linux names disks in the order in which they answer: find the one of 256 MiB.
            serial.shell(
                "for d in /sys/block/sd?; do [ $(cat $d/size) = 524288 ] && disk=/dev/${d##*/}; done; echo it is $disk",
                MINUTE,
            )?;
            serial.send_line("dd if=/dev/urandom of=/tmp/block bs=1M count=1 status=none; for i in $(seq 128); do cat /tmp/block; done | tee $disk | sha256sum; sync; echo written")?;
            machine
                .wait_state("paused", 5 * MINUTE)
                .context("the disk is full")?;
            ensure!(
                machine.log()?.contains("full"),
                "the log does not say why the machine paused"
            );

            let more = Command::new("mount")
                .args(["-o", "remount,size=512m"])
                .arg(&small.0)
                .status()?;
            ensure!(more.success(), "remount failed");
            machine.control(&["resume"])?;
            let sent = serial.wait_for("written", 5 * MINUTE)?;
            let sum = sent
                .split_whitespace()
                .find(|word| word.len() == 64)
                .context("no checksum")?
                .to_owned();
            serial.wait_for("root@oxbox:~# ", MINUTE)?;
            let back = serial.shell(
                "echo 3 >/proc/sys/vm/drop_caches; head -c 128M $disk | sha256sum",
                3 * MINUTE,
            )?;
            ensure!(back.contains(&sum), "read back {back}, written {sum}");
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)?;
            File::open(&medium).context("the medium is still there")?;
            Ok(())
        },
    );
}
