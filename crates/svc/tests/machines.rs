//! Machines, media, locks and events through the typed client, against a real service process.

mod common;

use api::client;
use api::types::*;
use common::{Service, eventually};

/// Not used here; keeps the helper processes of the other test file apart.
#[test]
fn role() {}

fn create(service: &Service, name: &str) -> (api::connect::Client, client::Machine) {
    let client = service.client();
    let vbox = client.virtualbox();
    let machine = vbox
        .create_machine("", name, &[], "Debian_64", "", "", "", "")
        .expect("create");
    vbox.register_machine(&machine).expect("register");
    (client, machine)
}

#[test]
fn a_machine_is_made_changed_found_and_removed() {
    let mut service = Service::start();
    let client = service.client();
    let vbox = client.virtualbox();
    assert!(vbox.version().expect("version").starts_with("7.0.20_Oxbox"));
    assert!(vbox.machines().expect("machines").is_empty());

    let machine = vbox
        .create_machine("", "deb", &["/a"], "Debian_64", "", "", "", "")
        .expect("create");
    assert!(vbox.find_machine("deb").is_err(), "not registered yet");
    machine
        .set_memory_size(256)
        .expect("unregistered machines are writable");
    vbox.register_machine(&machine).expect("register");
    let file = machine.settings_file_path().expect("path");
    assert_eq!(file, service.path("VirtualBox VMs/a/deb/deb.vbox"));
    assert!(
        std::fs::read_to_string(&file)
            .expect("file")
            .contains("RAMSize=\"256\"")
    );

    let e = machine
        .set_memory_size(512)
        .expect_err("only through a session");
    assert_eq!(e.code, ResultCode::VBOX_E_INVALID_VM_STATE);
    assert_eq!(e.text, "The machine is not mutable (state is PoweredOff)");

    let session = client.session().expect("session");
    machine
        .lock_machine(&session, LockType::Write)
        .expect("lock");
    assert_eq!(session.state().expect("state"), SessionState::Locked);
    let mutable = session.machine().expect("machine").expect("there");
    mutable.set_memory_size(512).expect("set");
    assert_eq!(
        mutable.set_memory_size(1).expect_err("too small").code,
        ResultCode::E_INVALIDARG
    );
    mutable.set_cpu_count(2).expect("set");
    mutable
        .bios_settings()
        .expect("bios")
        .set_ioapic_enabled(true)
        .expect("ioapic");
    mutable
        .graphics_adapter()
        .expect("graphics")
        .set_vram_size(16)
        .expect("vram");
    let nic = mutable.get_network_adapter(0).expect("nic");
    nic.set_attachment_type(NetworkAttachmentType::NAT)
        .expect("nat");
    let nat = nic.nat_engine().expect("engine");
    nat.add_redirect("ssh", NATProtocol::TCP, "", 2222, "", 22)
        .expect("redirect");
    let port = mutable.get_serial_port(0).expect("port");
    port.set_path(&service.path("serial")).expect("path");
    port.set_host_mode(PortMode::RawFile).expect("mode");
    port.set_enabled(true).expect("enabled");
    mutable
        .set_boot_order(1, DeviceType::HardDisk)
        .expect("boot order");
    assert_eq!(
        machine.memory_size().expect("saved value"),
        256,
        "not saved yet"
    );
    assert!(mutable.settings_modified().expect("modified"));
    mutable.save_settings().expect("save");
    session.unlock_machine().expect("unlock");
    assert_eq!(machine.memory_size().expect("memory"), 512);
    assert_eq!(nat_rules(&machine), ["ssh,1,,2222,,22"]);
    assert_eq!(
        vbox.find_machine(&machine.id().expect("id"))
            .expect("by UUID"),
        machine
    );

    machine
        .lock_machine(&session, LockType::Write)
        .expect("again");
    session
        .machine()
        .expect("machine")
        .expect("there")
        .set_memory_size(99)
        .expect("set");
    session.unlock_machine().expect("unlock discards");
    assert_eq!(machine.memory_size().expect("memory"), 512);

    machine
        .set_extra_data("key", "value <&>")
        .expect("extra data needs no session");
    drop(session);
    drop(client);
    service.kill();
    service.run();
    let client = service.client();
    let vbox = client.virtualbox();
    let machine = vbox.find_machine("deb").expect("still there");
    assert_eq!(machine.memory_size().expect("memory"), 512);
    assert_eq!(machine.cpu_count().expect("cpus"), 2);
    assert_eq!(machine.groups().expect("groups"), ["/a"]);
    assert_eq!(machine.get_extra_data("key").expect("extra"), "value <&>");
    assert_eq!(
        machine.get_boot_order(1).expect("boot"),
        DeviceType::HardDisk
    );
    assert_eq!(
        machine
            .get_serial_port(0)
            .expect("port")
            .host_mode()
            .expect("mode"),
        PortMode::RawFile
    );
    assert_eq!(nat_rules(&machine), ["ssh,1,,2222,,22"]);

    machine
        .unregister(CleanupMode::DetachAllReturnNone)
        .expect("unregister");
    assert!(vbox.machines().expect("machines").is_empty());
    machine
        .delete_config(&[])
        .expect("delete")
        .finish()
        .expect("done");
    assert!(!std::path::Path::new(&file).exists());
    assert!(!std::path::Path::new(&service.path("VirtualBox VMs/a/deb")).exists());
}

fn nat_rules(machine: &client::Machine) -> Vec<String> {
    let nic = machine.get_network_adapter(0).expect("nic");
    nic.nat_engine()
        .expect("engine")
        .redirects()
        .expect("rules")
}

#[test]
fn a_renamed_machine_takes_its_folder_along() {
    let service = Service::start();
    let (client, machine) = create(&service, "old");
    let session = client.session().expect("session");
    machine
        .lock_machine(&session, LockType::Write)
        .expect("lock");
    let mutable = session.machine().expect("machine").expect("there");
    assert_eq!(
        mutable.set_name("a/b").expect_err("bad").code,
        ResultCode::E_INVALIDARG
    );
    mutable.set_name("new").expect("rename");
    mutable.save_settings().expect("save");
    session.unlock_machine().expect("unlock");
    assert_eq!(
        machine.settings_file_path().expect("path"),
        service.path("VirtualBox VMs/new/new.vbox")
    );
    assert!(!std::path::Path::new(&service.path("VirtualBox VMs/old")).exists());
    let xml = std::fs::read_to_string(service.home().join("VirtualBox.xml")).expect("registry");
    assert!(
        xml.contains("new.vbox") && !xml.contains("old.vbox"),
        "{xml}"
    );
}

#[test]
fn errors_are_virtualboxs() {
    let service = Service::start();
    let (client, machine) = create(&service, "m");
    let vbox = client.virtualbox();
    let e = vbox.find_machine("nobody").expect_err("unknown");
    assert_eq!(e.code, ResultCode::VBOX_E_OBJECT_NOT_FOUND);
    assert_eq!(e.text, "Could not find a registered machine named 'nobody'");
    assert_eq!(
        (e.component.as_str(), e.interface.as_str()),
        ("VirtualBoxWrap", "IVirtualBox")
    );
    let e = vbox
        .create_machine("", "m", &[], "", "", "", "", "")
        .expect_err("exists");
    assert_eq!(e.code, ResultCode::VBOX_E_FILE_ERROR);
    let e = machine.take_snapshot("s", "", false).expect_err("no lock");
    assert_eq!(e.code, ResultCode::VBOX_E_INVALID_VM_STATE);
    let e = vbox.open_medium(
        "/nowhere.vdi",
        DeviceType::HardDisk,
        AccessMode::ReadWrite,
        false,
    );
    let e = e.expect_err("no file");
    assert_eq!(e.code, ResultCode::VBOX_E_FILE_ERROR);
    assert_eq!(
        e.text,
        "Could not find file for the medium '/nowhere.vdi' (VERR_FILE_NOT_FOUND)"
    );
}

#[test]
fn locks_exclude_each_other_and_die_with_their_client() {
    let service = Service::start();
    let (first, machine) = create(&service, "m");
    let second = service.client();
    let same = second.virtualbox().find_machine("m").expect("found");
    let (s1, s2) = (
        first.session().expect("session"),
        second.session().expect("session"),
    );
    machine.lock_machine(&s1, LockType::Write).expect("lock");
    assert_eq!(
        machine
            .lock_machine(&s1, LockType::Write)
            .expect_err("busy")
            .text,
        "The given session is busy"
    );
    for kind in [LockType::Write, LockType::Shared] {
        let e = same.lock_machine(&s2, kind).expect_err("locked");
        assert_eq!(e.code, ResultCode::VBOX_E_INVALID_OBJECT_STATE);
        assert_eq!(
            e.text,
            "The machine 'm' is already locked by a session (or being locked or unlocked)"
        );
    }
    let e = same.unregister(CleanupMode::Full).expect_err("locked");
    assert_eq!(e.code, ResultCode::VBOX_E_INVALID_OBJECT_STATE);
    // The other's session machine is not ours to write to.
    let stolen: client::Machine =
        second.object(&s1.machine().expect("machine").expect("there").proxy_path());
    assert!(stolen.set_memory_size(128).is_err());

    first.peer().close();
    eventually("the dead client's lock goes", || {
        same.session_state().expect("state") == SessionState::Unlocked
    });
    same.lock_machine(&s2, LockType::Shared).expect("shared");
    let third = service.client();
    let s3 = third.session().expect("session");
    let again = third.virtualbox().find_machine("m").expect("found");
    again
        .lock_machine(&s3, LockType::Shared)
        .expect("shared with shared");
    assert_eq!(s3.type_().expect("type"), SessionType::Shared);
    s2.unlock_machine().expect("the owner leaves");
    assert_eq!(s3.state().expect("state"), SessionState::Unlocked);
}

trait ProxyPath {
    fn proxy_path(&self) -> String;
}

impl ProxyPath for client::Machine {
    fn proxy_path(&self) -> String {
        use api::Remote;
        self.proxy().path().path().to_owned()
    }
}

#[test]
fn disks_are_created_attached_resized_cloned_and_deleted() {
    let service = Service::start();
    let (client, machine) = create(&service, "m");
    let vbox = client.virtualbox();
    let file = service.path("disk.vdi");
    let disk = vbox
        .create_medium("VDI", &file, AccessMode::ReadWrite, DeviceType::HardDisk)
        .expect("medium");
    assert_eq!(disk.state().expect("state"), MediumState::NotCreated);
    disk.create_base_storage(8 << 20, &[MediumVariant::Standard])
        .expect("create")
        .finish()
        .expect("created");
    assert_eq!(disk.state().expect("state"), MediumState::Created);
    assert_eq!(disk.logical_size().expect("size"), 8 << 20);
    let e = vbox.create_medium("VDI", &file, AccessMode::ReadWrite, DeviceType::HardDisk);
    assert_eq!(e.expect_err("known").code, ResultCode::VBOX_E_OBJECT_IN_USE);

    let session = client.session().expect("session");
    machine
        .lock_machine(&session, LockType::Write)
        .expect("lock");
    let mutable = session.machine().expect("machine").expect("there");
    let ide = mutable
        .add_storage_controller("IDE Controller", StorageBus::IDE)
        .expect("controller");
    assert_eq!(
        ide.controller_type().expect("type"),
        StorageControllerType::PIIX4
    );
    mutable
        .attach_device("IDE Controller", 0, 0, DeviceType::HardDisk, Some(&disk))
        .expect("attach");
    mutable
        .attach_device_without_medium("IDE Controller", 1, 0, DeviceType::DVD)
        .expect("drive");
    let e = mutable.attach_device("IDE Controller", 0, 1, DeviceType::HardDisk, Some(&disk));
    assert_eq!(e.expect_err("twice").code, ResultCode::VBOX_E_OBJECT_IN_USE);
    let e = mutable
        .attach_device("IDE Controller", 2, 0, DeviceType::DVD, None)
        .expect_err("range");
    assert_eq!(e.code, ResultCode::E_INVALIDARG);
    let e = mutable
        .attach_device("SATA", 0, 0, DeviceType::DVD, None)
        .expect_err("controller");
    assert_eq!(e.text, "Could not find a storage controller named 'SATA'");
    let iso = service.path("cd.iso");
    std::fs::write(&iso, vec![0; 1 << 20]).expect("iso");
    let cd = vbox
        .open_medium(&iso, DeviceType::DVD, AccessMode::ReadOnly, false)
        .expect("open");
    mutable
        .mount_medium("IDE Controller", 1, 0, Some(&cd), false)
        .expect("mount");
    mutable.save_settings().expect("save");
    session.unlock_machine().expect("unlock");

    let attachments = machine.medium_attachments().expect("attachments");
    assert_eq!(attachments.len(), 2);
    assert_eq!(attachments[0].medium.as_ref(), Some(&disk));
    assert_eq!(
        (attachments[1].type_, attachments[1].port),
        (DeviceType::DVD, 1)
    );
    assert_eq!(
        machine.get_medium("IDE Controller", 1, 0).expect("medium"),
        Some(cd.clone())
    );
    assert_eq!(
        disk.machine_ids().expect("users"),
        [machine.id().expect("id")]
    );
    assert_eq!(
        disk.close().expect_err("in use").code,
        ResultCode::VBOX_E_OBJECT_IN_USE
    );
    let xml = std::fs::read_to_string(machine.settings_file_path().expect("path")).expect("file");
    assert!(xml.contains("disk.vdi") && xml.contains("cd.iso"), "{xml}");

    disk.resize(16 << 20)
        .expect("resize")
        .finish()
        .expect("resized");
    assert_eq!(disk.logical_size().expect("size"), 16 << 20);
    let copy_file = service.path("copy.vdi");
    let copy = vbox
        .create_medium(
            "VDI",
            &copy_file,
            AccessMode::ReadWrite,
            DeviceType::HardDisk,
        )
        .expect("medium");
    disk.clone_to_base(&copy, &[MediumVariant::Fixed])
        .expect("clone")
        .finish()
        .expect("cloned");
    assert_eq!(copy.variant().expect("variant"), [MediumVariant::Fixed]);
    assert_eq!(vbox.hard_disks().expect("disks").len(), 2);
    copy.delete_storage()
        .expect("delete")
        .finish()
        .expect("deleted");
    assert!(!std::path::Path::new(&copy_file).exists());

    let media = machine.unregister(CleanupMode::Full).expect("unregister");
    assert_eq!(media.len(), 2);
    let disks: Vec<_> = media
        .into_iter()
        .filter(|m| m.device_type().expect("type") == DeviceType::HardDisk)
        .collect();
    machine
        .delete_config(&disks)
        .expect("delete")
        .finish()
        .expect("deleted");
    assert!(!std::path::Path::new(&file).exists());
    assert!(std::path::Path::new(&iso).exists());
}

#[test]
fn events_reach_another_client() {
    let service = Service::start();
    let listening = service.client();
    let source = listening.virtualbox().event_source().expect("source");
    let listener = source.create_listener().expect("listener");
    source
        .register_listener(
            &listener,
            &[
                VBoxEventType::MachineEvent,
                VBoxEventType::OnExtraDataChanged,
            ],
            false,
        )
        .expect("register");
    assert!(source.get_event(&listener, 0).expect("poll").is_none());
    let (_client, machine) = create(&service, "m");
    machine.set_extra_data("k", "v").expect("set");
    let id = machine.id().expect("id");
    let (mut registered, mut extra) = (false, false);
    for _ in 0..10 {
        let Some(event) = source.get_event(&listener, 2000).expect("event") else {
            break;
        };
        match event.type_().expect("type") {
            VBoxEventType::OnMachineRegistered => {
                use api::Remote;
                let event = event.cast::<client::MachineRegisteredEvent>();
                assert!(event.registered().expect("registered"));
                assert_eq!(event.machine_id().expect("id"), id);
                registered = true;
            }
            VBoxEventType::OnExtraDataChanged => {
                use api::Remote;
                let event = event.cast::<client::ExtraDataChangedEvent>();
                assert_eq!(
                    (event.key().expect("key"), event.value().expect("value")),
                    ("k".into(), "v".into())
                );
                extra = true;
            }
            _ => {}
        }
        source
            .event_processed(&listener, &event)
            .expect("processed");
        if registered && extra {
            break;
        }
    }
    assert!(registered && extra);
    // An active listener gets signals.
    let (sender, receiver) = std::sync::mpsc::channel();
    listening
        .peer()
        .on_signal(Box::new(move |_, interface, _, _| {
            let _ = sender.send(interface.to_owned());
        }));
    let active = source.create_listener().expect("listener");
    source
        .register_listener(&active, &[VBoxEventType::OnExtraDataChanged], true)
        .expect("register");
    machine.set_extra_data("k", "w").expect("set");
    let got = receiver
        .recv_timeout(std::time::Duration::from_secs(30))
        .expect("signal");
    assert_eq!(got, "IExtraDataChangedEvent");
}

#[test]
fn a_broken_settings_file_makes_its_machine_inaccessible_only() {
    let mut service = Service::start();
    let (client, machine) = create(&service, "m");
    let file = machine.settings_file_path().expect("path");
    drop(client);
    service.kill();
    let good = std::fs::read_to_string(&file).expect("read");
    std::fs::write(&file, good.replace("</Machine>", "</Macine>")).expect("break it");
    service.run();
    let client = service.client();
    let machines = client.virtualbox().machines().expect("machines");
    let [machine] = &machines[..] else {
        panic!("one machine")
    };
    assert!(!machine.accessible().expect("accessible"));
    let error = machine
        .access_error()
        .expect("error")
        .expect("there")
        .text()
        .expect("text");
    assert!(
        error.contains("line") && error.contains("column"),
        "{error}"
    );
    assert_eq!(
        machine.name().expect_err("unknown").code,
        ResultCode::E_ACCESSDENIED
    );
    assert!(!machine.id().expect("the UUID is known").is_empty());
    std::fs::write(&file, good).expect("repair");
    assert!(machine.accessible().expect("accessible again"));
    assert_eq!(machine.name().expect("name"), "m");
}

#[test]
fn many_clients_lose_nothing() {
    let service = Service::start();
    let (_client, machine) = create(&service, "m");
    let id = machine.id().expect("id");
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (service, id) = (&service, &id);
            scope.spawn(move || {
                let client = service.client();
                let machine = client.virtualbox().find_machine(id).expect("found");
                for k in 0..5 {
                    machine
                        .set_extra_data(&format!("c{n}/{k}"), "x")
                        .expect("set");
                }
            });
        }
    });
    assert_eq!(machine.get_extra_data_keys().expect("keys").len(), 100);
    assert!(service.folder().exists());
}

#[test]
fn garbage_ends_its_own_connection_only() {
    use std::io::{Read, Write};
    let service = Service::start();
    let socket = api::ipc::paths::service_socket(&service.runtime());
    let connect = || std::os::unix::net::UnixStream::connect(&socket).expect("connect");
    // Seeded, so that a failure can be repeated.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |n: usize| {
        let mut bytes = Vec::with_capacity(n);
        for _ in 0..n {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.push(seed as u8);
        }
        bytes
    };
    for round in 0..40 {
        let mut stream = connect();
        if round % 2 == 1 {
            // Past the greeting, so that the messages are nonsense and not the greeting.
            let uid = rustix::process::geteuid().as_raw().to_string();
            let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
            stream
                .write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())
                .expect("auth");
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).expect("OK");
            assert_eq!(&answer, b"OK ");
            stream.write_all(b"BEGIN\r\n").expect("begin");
            // A header that promises 4 GiB, then noise.
            stream
                .write_all(b"l\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00")
                .expect("header");
        }
        // The service may hang up at any byte.
        let _ = stream.write_all(&noise(4096));
    }
    let client = service.client();
    assert!(
        client
            .virtualbox()
            .version()
            .expect("it still answers")
            .starts_with("7.0")
    );
}

#[test]
fn stock_tools_see_the_objects() {
    let service = Service::start();
    let (_client, machine) = create(&service, "m");
    let id = machine.id().expect("id").replace('-', "");
    let socket = api::ipc::paths::service_socket(&service.runtime());
    let address = format!("unix:path={}", socket.display());
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new("gdbus");
        command
            .args(arguments.iter().take(1))
            .args(["--address", &address, "--dest", ":1.1"]);
        match command.args(&arguments[1..]).output() {
            Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(e) => {
                eprintln!("skipped: gdbus: {e}");
                None
            }
        }
    };
    let Some(tree) = run(&["introspect", "--recurse", "--object-path", "/Machine"]) else {
        return;
    };
    assert!(
        tree.contains(&id) && tree.contains("readwrite s name = 'm'"),
        "{tree}"
    );
    let found = run(&[
        "call",
        "--object-path",
        "/VirtualBox",
        "--method",
        "org.oxbox.IVirtualBox.findMachine",
        "m",
    ]);
    assert_eq!(
        found.expect("gdbus").trim(),
        format!("(objectpath '/Machine/{id}',)")
    );
}
