//! Small boot images: GRUB's rescue CD and floppy, iPXE.

use anyhow::{Result, ensure};
use testkit::{Home, Machine, Plan, guest, kvm, need, skip};

use crate::MINUTE;

#[test]
fn rescue_cdrom() {
    need(
        "rescue_cdrom",
        || Ok((Home::new()?, guest("rescue", &["cdrom"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            grub_prompt(&Machine::create(&home, "rescue-cdrom", &plan)?)
        },
    );
}

#[test]
fn rescue_floppy() {
    need(
        "rescue_floppy",
        || Ok((Home::new()?, guest("rescue", &["floppy"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                floppy: Some(&image),
                ..Plan::default()
            };
            grub_prompt(&Machine::create(&home, "rescue-floppy", &plan)?)
        },
    );
}

#[test]
fn rescue_cdrom_with_kvm() {
    if let Err(error) = kvm() {
        return skip("rescue_cdrom_with_kvm", &format!("{error:#}"));
    }
    need(
        "rescue_cdrom_with_kvm",
        || Ok((Home::new()?, guest("rescue", &["cdrom"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                hardware: true,
                ..Plan::default()
            };
            let machine = Machine::create(&home, "rescue-kvm", &plan)?;
            // Also a KVM that lacks things and would not be chosen by itself.
            let key = "VBoxInternal/EM/ForceEngine";
            home.manage(&["setextradata", "rescue-kvm", key, "kvm"])?;
            grub_prompt(&machine)?;
            ensure!(
                machine
                    .log()?
                    .contains("the hardware engine (HWACCM, KVM) runs this machine"),
                "the log does not say that KVM ran"
            );
            Ok(())
        },
    );
}

#[test]
fn ipxe() {
    need(
        "ipxe",
        || Ok((Home::new()?, guest("ipxe", &[])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "ipxe", &plan)?;
            let _serial = machine.start()?;
            machine.wait_screen("Press Ctrl-B for the iPXE command line", 2 * MINUTE)?;
            // Ctrl down, B, B up, Ctrl up.
            machine.control(&["keyboardputscancode", "1d", "30", "b0", "9d"])?;
            machine.wait_screen("iPXE>", MINUTE)?;
            machine.control(&["poweroff"])?;
            machine.wait_state("poweroff", MINUTE)
        },
    );
}

/// From power-on to GRUB's menu and, by its key `c`, to its command line, which then answers.
fn grub_prompt(machine: &Machine<'_>) -> Result<()> {
    let _serial = machine.start()?;
    // A KVM that emulates ring 0 takes its time.
    machine.wait_screen("Press enter to boot the selected OS", 5 * MINUTE)?;
    machine.control(&["keyboardputscancode", "2e", "ae"])?;
    machine.wait_screen("grub>", 3 * MINUTE)?;
    machine.control(&["keyboardputstring", "echo answer-$grub_platform\n"])?;
    machine.wait_screen("answer-pc", 3 * MINUTE)?;
    machine.control(&["poweroff"])?;
    machine.wait_state("poweroff", MINUTE)
}
