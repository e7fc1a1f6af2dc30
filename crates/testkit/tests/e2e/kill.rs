//! Processes that die: a VM process, the service while a guest runs, and two first clients at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, kill_process};
use testkit::{Home, Machine, Plan, eventually, guest, is_long, need};

use crate::MINUTE;

/// How often each kill is repeated.
fn rounds() -> usize {
    if is_long() { 100 } else { 5 }
}

fn with_machine(test: &str, body: impl FnOnce(&Home, &Machine<'_>) -> Result<()>) {
    need(
        test,
        || Ok((Home::new()?, guest("rescue", &["cdrom"])?)),
        |(home, image)| {
            let plan = Plan {
                os_type: "Other",
                memory_mib: 64,
                dvd: Some(&image),
                ..Plan::default()
            };
            let machine = Machine::create(&home, "victim", &plan)?;
            body(&home, &machine)
        },
    );
}

#[test]
fn killed_vm_process_leaves_its_machine_aborted() {
    with_machine(
        "killed_vm_process_leaves_its_machine_aborted",
        |home, machine| {
            for round in 0..rounds() {
                let _serial = machine.start()?;
                // At another moment of the start in every round.
                std::thread::sleep(Duration::from_millis(37 * (round as u64 % 30)));
                let process = *home
                    .processes_of("VBoxHeadless")
                    .first()
                    .context("no VBoxHeadless")?;
                kill_process(process, Signal::KILL)?;
                machine
                    .wait_state("aborted", Duration::from_secs(1))
                    .with_context(|| format!("round {round}"))?;
                let running = home.manage(&["list", "runningvms"])?;
                ensure!(
                    running.trim().is_empty(),
                    "still listed as running: {running}"
                );
            }
            Ok(())
        },
    );
}

#[test]
fn killed_service_leaves_guests_running() {
    with_machine("killed_service_leaves_guests_running", |home, machine| {
        let _serial = machine.start()?;
        machine.wait_screen("Press enter to boot the selected OS", 2 * MINUTE)?;
        let guest = home.processes_of("VBoxHeadless");
        for round in 0..rounds() {
            let services = home.processes_of("VBoxSVC");
            ensure!(
                services.len() == 1,
                "round {round}: {} services",
                services.len()
            );
            kill_process(services[0], Signal::KILL)?;
            eventually("end of the service", MINUTE, || {
                Ok((!home.processes_of("VBoxSVC").contains(&services[0])).then_some(()))
            })?;
            ensure!(
                home.processes_of("VBoxHeadless") == guest,
                "round {round}: the guest's process is gone"
            );
            machine
                .wait_state("running", Duration::from_secs(10))
                .with_context(|| format!("round {round}"))?;
            // The new service reaches the old process, not only its record.
            machine
                .screen()
                .with_context(|| format!("round {round}: screenshot"))?;
        }
        machine.control(&["poweroff"])?;
        machine.wait_state("poweroff", MINUTE)
    });
}

#[test]
fn first_clients_at_once_share_one_service() {
    need(
        "first_clients_at_once_share_one_service",
        Home::new,
        |home| {
            for round in 0..rounds() {
                let clients: Vec<_> = (0..8)
                    .map(|_| {
                        home.command(&["list", "vms"])
                            .spawn()
                            .context("start a client")
                    })
                    .collect::<Result<_>>()?;
                let mut most = 0;
                let start = Instant::now();
                for mut client in clients {
                    while client.try_wait()?.is_none() {
                        most = most.max(home.processes_of("VBoxSVC").len());
                        ensure!(
                            start.elapsed() < MINUTE,
                            "round {round}: a client does not end"
                        );
                    }
                    ensure!(client.wait()?.success(), "round {round}: a client failed");
                }
                // A service that loses the race may live for a moment; one remains.
                ensure!(
                    home.processes_of("VBoxSVC").len() <= 1,
                    "round {round}: several services remain (most {most})"
                );
                eventually("end of the service after its last client", MINUTE, || {
                    Ok(home.processes_of("VBoxSVC").is_empty().then_some(()))
                })?;
            }
            Ok(())
        },
    );
}
