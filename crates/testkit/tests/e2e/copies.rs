//! A Debian machine is snapshot, restored, cloned, exported and imported; each copy boots and has
//! the data of its origin.

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, guest, need};

use crate::MINUTE;
use crate::debian::shut_down;

#[test]
fn copies_of_debian() {
    need(
        "copies_of_debian",
        || Ok((Home::new()?, guest("debian-disk", &["amd64"])?)),
        |(home, disk)| {
            let plan = Plan {
                os_type: "Debian_64",
                memory_mib: 512,
                disk: Some(&disk),
                ..Plan::default()
            };
            let folder = home.path().join("machines").to_string_lossy().into_owned();
            home.manage(&["setproperty", "machinefolder", &folder])?;
            let machine = Machine::create(&home, "origin", &plan)?;
            let snapshot =
                |arguments: &[&str]| home.manage(&[&["snapshot", "origin"], arguments].concat());

            // A tree: "first" with one set of data, "second" below it with another, and the machine
            // back at the first.
            let first = write_data(&machine)?;
            snapshot(&["take", "first"])?;
            let second = write_data(&machine)?;
            ensure!(first != second, "the data were not written");
            snapshot(&["take", "second"])?;
            snapshot(&["restore", "first"])?;
            let list = snapshot(&["list"])?;
            ensure!(
                list.contains("Name: first") && list.contains("      Name: second"),
                "no tree: {list}"
            );

            home.manage(&[
                "clonevm",
                "origin",
                "--snapshot",
                "second",
                "--options",
                "link",
                "--name",
                "linked",
                "--register",
            ])?;
            let package = home.path().join("package.ova");
            let package = package.to_string_lossy().into_owned();
            home.manage(&["export", "origin", "-o", &package, "--manifest"])?;
            packed_well(&home, &package)?;
            home.manage(&["import", &package, "--vsys", "0", "--vmname", "imported"])?;

            ensure!(
                read_data(&home, "imported")? == first,
                "the import has other data"
            );
            ensure!(
                read_data(&home, "linked")? == second,
                "the linked clone has other data"
            );
            ensure!(
                read_data(&home, "origin")? == first,
                "the origin has other data"
            );
            Ok(())
        },
    );
}

/// Boots the machine, has it write new random data, and shuts it down. The data's checksum.
fn write_data(machine: &Machine<'_>) -> Result<String> {
    let mut serial = machine.start()?;
    serial.log_in(5 * MINUTE)?;
    serial.shell(
        "dd if=/dev/urandom of=/data bs=1M count=40 status=none && sync",
        3 * MINUTE,
    )?;
    let sum = serial.shell("sha256sum /data", MINUTE)?;
    shut_down(machine, &mut serial)?;
    Ok(sum)
}

/// Boots the machine and has it read those data.
fn read_data(home: &Home, name: &str) -> Result<String> {
    let machine = Machine::registered(home, name)?;
    let mut serial = machine.start()?;
    serial.log_in(5 * MINUTE)?;
    let sum = serial.shell("sha256sum /data", MINUTE)?;
    shut_down(&machine, &mut serial)?;
    Ok(sum)
}

/// `tar` lists the package in the order that the standard asks for, and the sums of its manifest are
/// those that `sha1sum` or `sha256sum` find.
fn packed_well(home: &Home, package: &str) -> Result<()> {
    let folder = home.path().join("unpacked");
    std::fs::create_dir(&folder)?;
    let list = output(home, "tar", &["tf", package])?;
    let names: Vec<&str> = list.lines().collect();
    ensure!(
        names.first().is_some_and(|n| n.ends_with(".ovf"))
            && names.iter().any(|n| n.ends_with(".vmdk"))
            && names.iter().any(|n| n.ends_with(".mf")),
        "in the package: {list}"
    );
    let to = folder.to_string_lossy().into_owned();
    output(home, "tar", &["xf", package, "-C", &to])?;
    let manifest = names.iter().find(|n| n.ends_with(".mf"));
    let manifest = folder.join(manifest.context("a manifest")?);
    for line in std::fs::read_to_string(manifest)?.lines() {
        // SHA256 (disk.vmdk) = sum
        let (kind, rest) = line.split_once('(').context("an algorithm")?;
        let (file, sum) = rest.split_once(')').context("a file")?;
        let sum = sum.trim_start_matches([' ', '=']);
        let program = format!("{}sum", kind.trim().to_lowercase());
        let file = folder.join(file).to_string_lossy().into_owned();
        let found = output(home, &program, &[&file])?;
        ensure!(found.starts_with(sum), "{line}: {program} says {found}");
    }
    Ok(())
}

fn output(home: &Home, program: &str, arguments: &[&str]) -> Result<String> {
    let done = home.other(program).args(arguments).output()?;
    ensure!(done.status.success(), "{program} {arguments:?} failed");
    Ok(String::from_utf8(done.stdout)?)
}
