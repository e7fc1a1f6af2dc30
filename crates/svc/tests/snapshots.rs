//! Snapshots through the typed client, against a real service process. What a disk holds is read
//! from the images as the settings file names them.

mod common;

use api::client;
use api::types::*;
use common::Service;
use settings::model::{AttachedMedium, HardDisk, Hardware, Machine, Snapshot};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use storage::{Container, OpenMode};
use uuid::Uuid;

const SIZE: u64 = 12 << 20;

#[test]
fn role() {}

struct Fixture {
    service: Service,
    client: Option<api::connect::Client>,
    file: PathBuf,
    seed: u64,
}

/// The present state and the snapshots, by UUID; nil is the present state.
type Contents = BTreeMap<Uuid, Vec<u8>>;

impl Fixture {
    fn new(seed: u64) -> Self {
        let service = Service::start();
        let client = service.client();
        let vbox = client.virtualbox();
        let machine = vbox
            .create_machine("", "m", &[], "Debian_64", "", "", "", "")
            .expect("create");
        vbox.register_machine(&machine).expect("register");
        let file = PathBuf::from(machine.settings_file_path().expect("path"));
        let disk = file.with_file_name("disk.vdi");
        let disk = vbox
            .create_medium(
                "VDI",
                disk.to_str().expect("UTF-8"),
                AccessMode::ReadWrite,
                DeviceType::HardDisk,
            )
            .expect("medium");
        disk.create_base_storage(SIZE as i64, &[MediumVariant::Standard])
            .expect("create")
            .finish()
            .expect("created");
        let mut this = Self {
            service,
            client: Some(client),
            file,
            seed,
        };
        this.locked(|m| {
            m.add_storage_controller("SATA", StorageBus::SATA)
                .expect("controller");
            m.attach_device("SATA", 0, 0, DeviceType::HardDisk, Some(&disk))
                .expect("attach");
            m.save_settings().expect("save");
        });
        this
    }

    fn client(&mut self) -> &api::connect::Client {
        let service = &self.service;
        self.client.get_or_insert_with(|| service.client())
    }

    fn machine(&mut self) -> client::Machine {
        let vbox = self.client().virtualbox();
        vbox.find_machine("m").expect("found")
    }

    fn locked<R>(&mut self, f: impl FnOnce(&client::Machine) -> R) -> R {
        let machine = self.machine();
        let session = self.client().session().expect("session");
        machine
            .lock_machine(&session, LockType::Write)
            .expect("lock");
        let result = f(&session.machine().expect("machine").expect("there"));
        session.unlock_machine().expect("unlock");
        result
    }

    fn take(&mut self, name: &str) -> Uuid {
        self.locked(|m| {
            let (progress, id) = m.take_snapshot(name, "why", true).expect("take");
            progress.finish().expect("taken");
            id.parse().expect("UUID")
        })
    }

    fn restore(&mut self, id: Uuid) {
        self.locked(|m| {
            let snapshot = m.find_snapshot(&id.to_string()).expect("found");
            let progress = m.restore_snapshot(&snapshot).expect("restore");
            progress.finish().expect("restored");
        });
    }

    fn delete(&mut self, id: Uuid) {
        self.locked(|m| {
            let progress = m.delete_snapshot(&id.to_string()).expect("delete");
            progress.finish().expect("deleted");
        });
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    fn settings(&self) -> Machine {
        settings::MachineFile::load(&self.file)
            .expect("settings")
            .content
    }

    /// Writes here and there, zeros too; ranges that are not whole blocks.
    fn write(&mut self) {
        let settings = self.settings();
        let files = chain(&settings, &settings.hardware, &self.file);
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let mut disk = Container::open_chain(&files, OpenMode::ReadWrite).expect("chain");
        for _ in 0..6 {
            let at = self.random(SIZE / 512 - 400) * 512;
            let len = (1 + self.random(399)) * 512;
            let byte = self.random(4) as u8;
            let data: Vec<u8> = (0..len).map(|i| byte * (i / 512 % 251) as u8).collect();
            disk.write_at(at, &data).expect("write");
        }
        disk.flush().expect("flush");
    }

    fn contents(&self) -> Contents {
        let settings = self.settings();
        let mut all = Contents::new();
        all.insert(Uuid::nil(), read(&settings, &settings.hardware, &self.file));
        let mut open: Vec<&Snapshot> = settings.snapshot.as_deref().into_iter().collect();
        while let Some(s) = open.pop() {
            all.insert(s.uuid, read(&settings, &s.hardware, &self.file));
            open.extend(&s.children);
        }
        all
    }

    fn images(&self) -> usize {
        let folder = self.file.with_file_name("Snapshots");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

fn read(settings: &Machine, hardware: &Hardware, file: &Path) -> Vec<u8> {
    let files = chain(settings, hardware, file);
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let disk = Container::open_chain(&files, OpenMode::ReadOnly).expect("chain");
    let mut bytes = vec![0; SIZE as usize];
    disk.read_at(0, &mut bytes).expect("read");
    bytes
}

/// The files of the first disk, base first.
fn chain(settings: &Machine, hardware: &Hardware, file: &Path) -> Vec<PathBuf> {
    fn find(disk: &HardDisk, id: Uuid, folder: &Path, at: &mut Vec<PathBuf>) -> bool {
        at.push(settings::resolve_path(&disk.location, folder));
        if disk.uuid == id || disk.children.iter().any(|c| find(c, id, folder, at)) {
            return true;
        }
        at.pop();
        false
    }
    let AttachedMedium::Image(id) = hardware.storage[0].devices[0].medium else {
        panic!("no disk");
    };
    let mut files = Vec::new();
    let folder = file.parent().expect("folder");
    assert!(
        settings
            .media
            .hard_disks
            .iter()
            .any(|d| find(d, id, folder, &mut files)),
        "{id} is not registered"
    );
    files
}

#[test]
fn the_disk_follows_snapshots() {
    let mut f = Fixture::new(0x1234_5678_9abc_def1);
    f.write();
    let mut ids = Vec::new();
    let mut expected = Contents::new();
    for n in 0..19 {
        expected.insert(Uuid::nil(), f.contents()[&Uuid::nil()].clone());
        let id = f.take(&format!("s{n}"));
        expected.insert(id, expected[&Uuid::nil()].clone());
        ids.push(id);
        f.write();
    }
    let machine = f.machine();
    assert_eq!(machine.snapshot_count().expect("count"), 19);
    let current = machine.current_snapshot().expect("current").expect("one");
    assert_eq!(current.id().expect("id"), ids[18].to_string());
    assert_eq!(f.images(), 19);
    expected.insert(Uuid::nil(), f.contents()[&Uuid::nil()].clone());
    assert!(f.contents() == expected, "19 deep");

    // In the middle, the first (into the base) and the current one.
    for at in [7, 0, 18, 8] {
        f.delete(ids[at]);
        expected.remove(&ids[at]);
        assert!(f.contents() == expected, "after deleting {at}");
    }
    assert_eq!(f.images(), 15);
    f.restore(ids[3]);
    expected.insert(Uuid::nil(), expected[&ids[3]].clone());
    assert!(f.contents() == expected, "restored");
    let e = f.locked(|m| {
        m.delete_snapshot(&ids[3].to_string())
            .expect_err("branches")
    });
    assert_eq!(e.code, ResultCode::VBOX_E_INVALID_OBJECT_STATE);
    f.write();
    let branch = f.take("branch");
    expected.insert(Uuid::nil(), f.contents()[&Uuid::nil()].clone());
    expected.insert(branch, expected[&Uuid::nil()].clone());
    f.restore(ids[17]);
    expected.insert(Uuid::nil(), expected[&ids[17]].clone());
    assert!(f.contents() == expected, "another branch");
    f.delete(branch);
    expected.remove(&branch);
    for (n, id) in ids.iter().enumerate() {
        if expected.remove(id).is_some() {
            f.delete(*id);
            assert!(f.contents() == expected, "after deleting {n}");
        }
    }
    assert_eq!(f.images(), 0, "all in the base again");
    assert_eq!(f.machine().snapshot_count().expect("count"), 0);
}

#[test]
fn a_snapshot_is_renamed_and_kept_by_the_next_service() {
    let mut f = Fixture::new(7);
    let id = f.take("old");
    f.locked(|m| {
        let snapshot = m.find_snapshot("old").expect("found");
        snapshot.set_name("new").expect("name");
        snapshot.set_description("text").expect("description");
    });
    f.client = None;
    f.service.kill();
    f.service.run();
    let snapshot = f.machine().find_snapshot("new").expect("found");
    assert_eq!(snapshot.id().expect("id"), id.to_string());
    assert_eq!(snapshot.description().expect("text"), "text");
    assert!(!snapshot.online().expect("online"));
    assert!(!f.machine().current_state_modified().expect("modified"));
}

#[test]
fn writethrough_disks_take_no_part() {
    let mut f = Fixture::new(9);
    let machine = f.machine();
    let disk = machine
        .get_medium("SATA", 0, 0)
        .expect("disk")
        .expect("one");
    f.locked(|m| {
        m.detach_device("SATA", 0, 0).expect("detach");
        m.save_settings().expect("save");
        disk.set_type_(MediumType::Writethrough).expect("type");
        m.attach_device("SATA", 0, 0, DeviceType::HardDisk, Some(&disk))
            .expect("attach");
        m.save_settings().expect("save");
    });
    let id = f.take("s");
    assert_eq!(f.images(), 0);
    f.restore(id);
    f.delete(id);
    let now = machine.get_medium("SATA", 0, 0).expect("disk");
    assert_eq!(now, Some(disk));
}

#[test]
fn a_kill_during_a_deletion_loses_nothing() {
    let mut f = Fixture::new(0xfeed_beef_1234_5671);
    for round in 0..6_u64 {
        f.write();
        f.take(&format!("a{round}"));
        f.write();
        let victim = f.take(&format!("b{round}"));
        f.write();
        f.take(&format!("c{round}"));
        f.write();
        let settings = f.settings();
        // Each third time the first one, which is merged into the base.
        let victim = match (round % 3, &settings.snapshot) {
            (0, Some(first)) => first.uuid,
            _ => victim,
        };
        let mut expected = f.contents();
        let machine = f.machine();
        let session = f.client().session().expect("session");
        machine
            .lock_machine(&session, LockType::Write)
            .expect("lock");
        let mutable = session.machine().expect("machine").expect("there");
        let deleting = mutable.delete_snapshot(&victim.to_string());
        std::thread::sleep(Duration::from_micros(f.random(30_000)));
        drop(deleting);
        f.client = None;
        f.service.kill();
        f.service.run();
        // Looking after what was interrupted is the next operation's first act.
        let probe = f.take("probe");
        let now = f.contents();
        expected.insert(probe, expected[&Uuid::nil()].clone());
        if !now.contains_key(&victim) {
            expected.remove(&victim);
        }
        assert_eq!(
            now.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>()
        );
        assert!(now == expected, "round {round}");
        if now.contains_key(&victim) {
            f.delete(victim);
            expected.remove(&victim);
        }
        f.delete(probe);
        expected.remove(&probe);
        assert!(f.contents() == expected, "round {round}, deleted");
    }
}

#[test]
fn clones_have_the_disk_of_the_snapshot() {
    let mut f = Fixture::new(0x77);
    f.write();
    let id = f.take("s");
    f.write();
    let expected = f.contents();
    let then = f
        .machine()
        .find_snapshot("s")
        .and_then(|s| s.machine())
        .expect("machine");
    assert_eq!(then.memory_size().expect("memory"), 128);
    let vbox = f.client().virtualbox();
    let sources = [
        ("full", f.machine(), vec![], Uuid::nil()),
        ("old", then.clone(), vec![], id),
        ("linked", then, vec![CloneOptions::Link], id),
    ];
    for (name, source, options, state) in sources {
        let target = vbox
            .create_machine("", name, &[], "", "", "", "", "")
            .expect("create");
        source
            .clone_to(&target, CloneMode::MachineState, &options)
            .expect("clone")
            .finish()
            .expect("cloned");
        vbox.register_machine(&target).expect("register");
        let disk = target.get_medium("SATA", 0, 0).expect("disk").expect("one");
        let mut files = Vec::new();
        let mut at = Some(disk);
        while let Some(disk) = at {
            files.insert(0, PathBuf::from(disk.location().expect("path")));
            at = disk.parent().expect("parent");
        }
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        let linked = !options.is_empty();
        assert_eq!(files.len(), if linked { 2 } else { 1 });
        let disk = Container::open_chain(&files, OpenMode::ReadOnly).expect("chain");
        let mut bytes = vec![0; SIZE as usize];
        disk.read_at(0, &mut bytes).expect("read");
        assert!(bytes == expected[&state], "{name}");
    }
    let e = f.locked(|m| m.delete_snapshot(&id.to_string()).expect_err("linked"));
    assert_eq!(e.code, ResultCode::VBOX_E_INVALID_OBJECT_STATE);
    let e = f.machine().unregister(CleanupMode::Full);
    assert_eq!(
        e.expect_err("linked").code,
        ResultCode::VBOX_E_OBJECT_IN_USE
    );
    let linked = vbox.find_machine("linked").expect("found");
    let media = linked.unregister(CleanupMode::Full).expect("unregister");
    assert_eq!(media.len(), 1, "its own image only");
    linked
        .delete_config(&media)
        .expect("delete")
        .finish()
        .expect("deleted");
    assert!(f.contents() == expected);
    f.delete(id);
    assert!(f.contents()[&Uuid::nil()] == expected[&Uuid::nil()]);
    assert_eq!(f.images(), 0);
}

/// What each state of a machine holds, by the snapshot's name; the present state's is empty.
fn by_name(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let settings = settings::MachineFile::load(file).expect("settings").content;
    let mut all = BTreeMap::new();
    all.insert(String::new(), read(&settings, &settings.hardware, file));
    let mut open: Vec<&Snapshot> = settings.snapshot.as_deref().into_iter().collect();
    while let Some(s) = open.pop() {
        all.insert(s.name.clone(), read(&settings, &s.hardware, file));
        open.extend(&s.children);
    }
    all
}

#[test]
fn clones_have_the_snapshots_they_are_to_have() {
    let mut f = Fixture::new(0x4711);
    f.write();
    f.take("root");
    f.write();
    let fork = f.take("fork");
    f.write();
    f.take("left");
    f.write();
    f.restore(fork);
    f.write();
    f.take("right");
    f.write();
    let origin = by_name(&f.file);
    let before = std::fs::read(&f.file).expect("settings");
    assert_eq!(origin.len(), 5);
    let at_fork = f.machine().find_snapshot("fork").expect("found");
    let at_fork = at_fork.machine().expect("machine");
    let vbox = f.client().virtualbox();
    let clone = |source: &client::Machine, name: &str, mode| {
        let target = vbox
            .create_machine("", name, &[], "", "", "", "", "")
            .expect("create");
        source
            .clone_to(&target, mode, &[])
            .expect("clone")
            .finish()
            .expect("cloned");
        vbox.register_machine(&target).expect("register");
        target
    };
    let file = |m: &client::Machine| PathBuf::from(m.settings_file_path().expect("path"));
    let snapshot_of = |m: &client::Machine| {
        let current = m.current_snapshot().expect("current").expect("one");
        current.name().expect("name")
    };

    let all = clone(&f.machine(), "all", CloneMode::AllStates);
    assert!(by_name(&file(&all)) == origin);
    assert_eq!(snapshot_of(&all), "right");

    let some = clone(&at_fork, "some", CloneMode::MachineAndChildStates);
    let mut expected = origin.clone();
    expected.remove("root");
    expected.insert(String::new(), origin["fork"].clone());
    assert!(by_name(&file(&some)) == expected);
    assert_eq!(snapshot_of(&some), "fork");

    // Nothing is shared: the origin is as it was, and goes without the clones.
    assert_eq!(std::fs::read(&f.file).expect("settings"), before);
    let media = f.machine().unregister(CleanupMode::Full).expect("free");
    assert_eq!(media.len(), 5);
    assert!(by_name(&file(&all)) == origin);
    assert!(by_name(&file(&some)) == expected);
}
