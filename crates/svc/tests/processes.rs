//! Processes: auto-start, idle end, VM processes that start, stop, die, and outlive the service.

mod common;

use api::client;
use api::connect::Client;
use api::ipc::{ObjectSpace, Peer};
use api::types::*;
use api::vm::{VmHooks, VmLink};
use api::{Call, ObjRef, Object, server};
use common::{ROLE, Service, eventually};
use std::process::Stdio;
use std::sync::Arc;

/// What this program does when it plays another one; nothing as a test.
#[test]
fn role() {
    match std::env::var(ROLE).unwrap_or_default().split_once(':') {
        Some(("client", text)) => {
            let client = Client::connect().expect("connects, starting the service");
            client
                .virtualbox()
                .set_extra_data(text, "here")
                .expect("set");
            println!("PID {}", client.peer().pid().unwrap_or(0));
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
        Some(("vm", id)) => play_vm(id),
        _ => {}
    }
}

struct Console(Arc<std::sync::OnceLock<Arc<VmLink>>>);

impl Console {
    fn set(&self, state: MachineState) {
        if let Some(link) = self.0.get() {
            link.set_state(state);
        }
    }
}

impl server::IConsole for Console {
    fn pause(&self, _cx: &Call) -> api::Result<()> {
        self.set(MachineState::Paused);
        Ok(())
    }
    fn resume(&self, _cx: &Call) -> api::Result<()> {
        self.set(MachineState::Running);
        Ok(())
    }
    fn keyboard(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/Console/Keyboard"))
    }
    fn power_down(&self, cx: &Call) -> api::Result<ObjRef> {
        let link = self.0.clone();
        let progress =
            api::progress::Progress::spawn("Stopping virtual machine", false, move |_| {
                if let Some(link) = link.get() {
                    link.set_state(MachineState::Stopping);
                    link.set_state(MachineState::PoweredOff);
                    link.stop();
                }
                std::thread::spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    std::process::exit(0);
                });
                Ok(())
            });
        Ok(cx.export(progress))
    }
}
api::object!(Console: IConsole);

struct Keyboard;
impl server::IKeyboard for Keyboard {
    fn put_scancodes(&self, _cx: &Call, scancodes: Vec<i32>) -> api::Result<u32> {
        Ok(u32::try_from(scancodes.len()).expect("few"))
    }
}
api::object!(Keyboard: IKeyboard);

struct Objects(Arc<std::sync::OnceLock<Arc<VmLink>>>);
impl ObjectSpace for Objects {
    fn resolve(&self, _peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        match path {
            "/Console" => Some(Arc::new(Console(self.0.clone()))),
            "/Console/Keyboard" => Some(Arc::new(Keyboard)),
            _ => None,
        }
    }
}

struct Hooks;
impl VmHooks for Hooks {
    fn medium_changed(&self, _: &str, _: i32, _: i32, _: bool) -> api::Result<()> {
        Ok(())
    }
    fn network_adapter_changed(&self, _: u32, _: bool) -> api::Result<()> {
        Ok(())
    }
    fn uninitialize(&self) {}
}

fn play_vm(id: &str) {
    let (_client, session, machine) = api::vm::lock_machine(id).expect("lock");
    if machine.name().expect("name") == "dies" {
        eprintln!("no such engine");
        std::process::exit(3);
    }
    let cell = Arc::new(std::sync::OnceLock::new());
    let objects = Arc::new(Objects(cell.clone()));
    let link = VmLink::start(&session, id, "headless", objects, Arc::new(Hooks)).expect("link");
    let _ = cell.set(link.clone());
    if machine.name().expect("name") == "fails" {
        let e = api::Error::new(ResultCode::VBOX_E_VM_ERROR, "no firmware");
        link.set_state(MachineState::PoweredOff);
        link.power_up_done(&Err(e));
        link.stop();
        std::process::exit(1);
    }
    link.set_state(MachineState::Running);
    link.power_up_done(&Ok(()));
    let service = link.service().expect("it is there");
    service
        .push_guest_property("/test/kept", "yes", 5, "")
        .expect("property");
    service
        .push_guest_property("/test/gone", "yes", 5, "TRANSIENT")
        .expect("property");
    assert!(
        !link
            .settings()
            .expect("settings")
            .name()
            .expect("name")
            .is_empty()
    );
    // A failed test must not leave this behind for ever.
    std::thread::sleep(std::time::Duration::from_secs(120));
    std::process::exit(0);
}

fn create(client: &Client, name: &str) -> client::Machine {
    let vbox = client.virtualbox();
    let machine = vbox
        .create_machine("", name, &[], "Other", "", "", "", "")
        .expect("create");
    vbox.register_machine(&machine).expect("register");
    machine
}

fn start(client: &Client, machine: &client::Machine) -> (client::Session, client::Console) {
    let session = client.session().expect("session");
    let progress = machine
        .launch_vm_process(&session, "headless", &[])
        .expect("launch");
    progress.finish().expect("started");
    assert_eq!(machine.state().expect("state"), MachineState::Running);
    let console = session.console().expect("console").expect("there");
    (session, console)
}

fn kill(pid: u32) {
    // The shell's own: the program is in a package that a small system lacks.
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("kill -9 {pid}")])
        .status();
    assert!(status.expect("kill").success());
}

#[test]
fn two_first_clients_get_one_service_which_ends_after_them() {
    let service = Service::prepare();
    let spawn = |name: &str| {
        let mut player = service.player(&format!("client:{name}"));
        player.stdout(Stdio::piped()).spawn().expect("player")
    };
    let players: Vec<_> = ["a", "b", "c"].iter().map(|n| spawn(n)).collect();
    let mut pids: Vec<String> = Vec::new();
    for player in players {
        let output = player.wait_with_output().expect("output");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        pids.extend(
            text.lines()
                .filter_map(|l| l.split("PID ").nth(1))
                .map(str::to_owned),
        );
    }
    assert_eq!(pids.len(), 3);
    pids.dedup();
    assert_eq!(pids.len(), 1, "one service for all");
    eventually("the service ends", || {
        !std::path::Path::new(&format!("/proc/{}", pids[0])).exists()
    });
    let xml = std::fs::read_to_string(service.home().join("VirtualBox.xml")).expect("settings");
    for name in ["a", "b", "c"] {
        assert!(xml.contains(&format!("name=\"{name}\"")), "{xml}");
    }
}

#[test]
fn a_machine_starts_obeys_and_stops() {
    let service = Service::start();
    let client = service.client();
    let machine = create(&client, "vm");
    let (session, console) = start(&client, &machine);
    assert_eq!(
        machine.session_state().expect("state"),
        SessionState::Locked
    );
    assert_eq!(machine.session_name().expect("name"), "headless");
    let e = machine.launch_vm_process(&client.session().expect("session"), "headless", &[]);
    assert_eq!(
        e.expect_err("runs").text,
        "The machine 'vm' is already locked by a session (or being locked or unlocked)"
    );
    let e = session
        .machine()
        .expect("machine")
        .expect("there")
        .set_memory_size(64);
    assert_eq!(
        e.expect_err("runs").text,
        "The machine is not mutable (state is Running)"
    );
    session.unlock_machine().expect("startvm lets go");
    assert_eq!(machine.state().expect("state"), MachineState::Running);

    let other = service.client();
    let same = other.virtualbox().find_machine("vm").expect("found");
    let shared = other.session().expect("session");
    same.lock_machine(&shared, LockType::Shared)
        .expect("shared");
    assert_eq!(shared.type_().expect("type"), SessionType::Remote);
    let remote = shared.console().expect("console").expect("there");
    remote.pause().expect("pause");
    assert_eq!(machine.state().expect("state"), MachineState::Paused);
    remote.resume().expect("resume");
    assert_eq!(
        remote
            .keyboard()
            .expect("keyboard")
            .put_scancodes(&[1, 2])
            .expect("codes"),
        2
    );
    let e = remote.sleep_button().expect_err("no room");
    assert_eq!(e.code, ResultCode::E_NOTIMPL);
    remote
        .power_down()
        .expect("power down")
        .finish()
        .expect("off");
    // At once: what comes after a power off must find the machine free.
    assert_eq!(
        machine.session_state().expect("state"),
        SessionState::Unlocked
    );
    assert_eq!(machine.state().expect("state"), MachineState::PoweredOff);
    assert!(console.pause().is_err());
    assert_eq!(
        machine
            .get_guest_property_value("/test/kept")
            .expect("property"),
        "yes"
    );
    assert_eq!(
        machine
            .get_guest_property_value("/test/gone")
            .expect("property"),
        ""
    );
}

#[test]
fn a_failed_start_says_why() {
    let service = Service::start();
    let client = service.client();
    let session = client.session().expect("session");
    for (name, code, text) in [
        ("fails", ResultCode::VBOX_E_VM_ERROR, "no firmware"),
        (
            "dies",
            ResultCode::NS_ERROR_FAILURE,
            "The virtual machine 'dies' has terminated unexpectedly during startup with exit code 3 (0x3)",
        ),
    ] {
        let machine = create(&client, name);
        let e = machine
            .launch_vm_process(&session, "headless", &[])
            .expect("launch")
            .finish();
        let e = e.expect_err("it fails");
        assert_eq!(e.code, code);
        assert!(e.text.starts_with(text), "{}", e.text);
        eventually("unlocked", || {
            machine.session_state().expect("s") == SessionState::Unlocked
        });
        assert_eq!(machine.state().expect("state"), MachineState::PoweredOff);
        assert_eq!(session.state().expect("state"), SessionState::Unlocked);
    }
    let machine = create(&client, "g");
    let e = machine
        .launch_vm_process(&session, "gui", &[])
        .expect_err("no GUI");
    assert_eq!(e.code, ResultCode::E_NOTIMPL);
    let e = machine
        .launch_vm_process(&session, "foo", &[])
        .expect_err("unknown");
    assert_eq!(e.text, "Invalid frontend name: 'foo'");
}

/// `OXBOX_KILL_ROUNDS` sets how often, 10 by default.
#[test]
fn killed_vm_processes_leave_aborted_machines() {
    let rounds = std::env::var("OXBOX_KILL_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(10);
    let service = Service::start();
    let client = service.client();
    let machine = create(&client, "vm");
    for round in 0..rounds {
        let (session, _console) = start(&client, &machine);
        kill(machine.session_pid().expect("pid"));
        eventually("aborted", || {
            machine.state().expect("state") == MachineState::Aborted
        });
        eventually("unlocked", || {
            machine.session_state().expect("s") == SessionState::Unlocked
        });
        assert_eq!(
            session.state().expect("state"),
            SessionState::Unlocked,
            "round {round}"
        );
    }
    let file = machine.settings_file_path().expect("path");
    assert!(
        std::fs::read_to_string(file)
            .expect("file")
            .contains("aborted=\"true\"")
    );
    let left: Vec<_> = std::fs::read_dir(service.runtime())
        .expect("folder")
        .flatten()
        .collect();
    assert!(
        left.iter()
            .all(|f| !f.file_name().to_string_lossy().starts_with("vm-")),
        "{left:?}"
    );
}

/// `OXBOX_KILL_ROUNDS` sets how often.
#[test]
fn machines_outlive_a_killed_service() {
    let rounds = std::env::var("OXBOX_KILL_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(10);
    let mut service = Service::start();
    let client = service.client();
    let machine = create(&client, "vm");
    let doomed = create(&client, "doomed");
    let id = machine.id().expect("id");
    let (_session, _console) = start(&client, &machine);
    let pid = machine.session_pid().expect("pid");
    let _keep = start(&client, &doomed);
    let doomed_pid = doomed.session_pid().expect("pid");
    for round in 0..rounds {
        service.kill();
        if round == 0 {
            // One dies while nobody looks.
            kill(doomed_pid);
            eventually("dead", || {
                !std::path::Path::new(&format!("/proc/{doomed_pid}/exe")).exists()
            });
        }
        service.run();
        let client = service.client();
        let vbox = client.virtualbox();
        let machine = vbox.find_machine(&id).expect("found");
        assert_eq!(
            machine.state().expect("state"),
            MachineState::Running,
            "round {round}"
        );
        assert_eq!(machine.session_pid().expect("pid"), pid);
        assert_eq!(
            machine.session_state().expect("state"),
            SessionState::Locked
        );
        let doomed = vbox.find_machine("doomed").expect("found");
        assert_eq!(doomed.state().expect("state"), MachineState::Aborted);
        let session = client.session().expect("session");
        machine
            .lock_machine(&session, LockType::Shared)
            .expect("shared");
        let console = session.console().expect("console").expect("there");
        console.pause().expect("pause");
        assert_eq!(machine.state().expect("state"), MachineState::Paused);
        console.resume().expect("resume");
        if round + 1 == rounds {
            console
                .power_down()
                .expect("power down")
                .finish()
                .expect("off");
            eventually("off", || {
                machine.state().expect("s") == MachineState::PoweredOff
            });
        }
    }
}
