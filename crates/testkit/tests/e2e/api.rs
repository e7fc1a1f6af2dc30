//! The Main API from programs that know nothing of it but its socket.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use testkit::{Home, Machine, Plan, guest, need};

use crate::MINUTE;

/// The interpreter that Debian's packages are for.
const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/examples/machines.py"
);

#[test]
fn a_python_script_lists_machines_and_starts_one() {
    need(
        "a_python_script_lists_machines_and_starts_one",
        || {
            said(Command::new(PYTHON).args(["-c", "import dbus"]))
                .context("needs Debian's python3-dbus")?;
            Ok((Home::new()?, guest("rescue", &["cdrom"])?))
        },
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "rescue", &plan)?;
            let folder = home.path().to_string_lossy().into_owned();
            home.manage(&[
                "createvm",
                "--name",
                "other one",
                "--basefolder",
                &folder,
                "--register",
            ])?;
            let listed = said(home.other(PYTHON).arg(SCRIPT))?;
            let names: Vec<_> = listed.lines().filter_map(|l| l.rsplit_once(' ')).collect();
            ensure!(
                names.len() == 2 && names[0].0 == "rescue" && names[1].0 == "other one",
                "the script lists {listed}"
            );
            let started = said(home.other(PYTHON).args([SCRIPT, "rescue"]))?;
            ensure!(started.ends_with("rescue: started\n"), "{started}");
            ensure!(machine.state()? == "running", "it does not run");
            machine.wait_screen("Press enter to boot the selected OS", 5 * MINUTE)?;

            // Stock tools find their way, too.
            let address = said(home.other("VBoxSVC").arg("--address"))?;
            let address = address.trim();
            let tree = said(Command::new("gdbus").args([
                "introspect",
                "--recurse",
                "--address",
                address,
                "--dest",
                ":1.1",
                "--object-path",
                "/Machine",
            ]))?;
            ensure!(
                tree.contains("interface org.oxbox.IMachine") && tree.contains("'other one'"),
                "gdbus sees {tree}"
            );
            let version = said(Command::new("busctl").args([
                &format!("--address={address}"),
                "get-property",
                ":1.1",
                "/VirtualBox",
                "org.oxbox.IVirtualBox",
                "version",
            ]))?;
            ensure!(version.starts_with("s \"7.0."), "busctl reads {version}");
            machine.control(&["poweroff"]).map(drop)
        },
    );
}

/// What a program says when it succeeds.
fn said(command: &mut Command) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    let errors = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{command:?}: {status}:\n{text}{errors}");
    Ok(text)
}
