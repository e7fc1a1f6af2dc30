//! A server and a client in one process, over a real socket: calls, errors, counted references,
//! calls back, and stock D-Bus tools.

use api::ipc::{ObjectSpace, Peer, Server};
use api::proxy::{Proxy, Remote};
use api::types::{LockType, MachineState, MediumState, ResultCode};
use api::{Call, Error, ObjRef, Object, client, server};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

struct Machine {
    memory: Mutex<u32>,
}

impl server::IMachine for Machine {
    fn name(&self, _cx: &Call) -> api::Result<String> {
        Ok("tëst".into())
    }
    fn memory_size(&self, _cx: &Call) -> api::Result<u32> {
        Ok(*self.memory.lock().expect("lock"))
    }
    fn set_memory_size(&self, _cx: &Call, value: u32) -> api::Result<()> {
        if value == 0 {
            return Err(Error::new(
                ResultCode::E_INVALIDARG,
                "Invalid RAM size: 0 MB",
            ));
        }
        *self.memory.lock().expect("lock") = value;
        Ok(())
    }
    fn state(&self, _cx: &Call) -> api::Result<MachineState> {
        Ok(MachineState::PoweredOff)
    }
    fn groups(&self, _cx: &Call) -> api::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn current_snapshot(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::null())
    }
    fn lock_machine(&self, cx: &Call, session: ObjRef, _t: LockType) -> api::Result<()> {
        // The session is an object of the caller: ask it something.
        let back = client::Session::from_proxy(Proxy::new(cx.peer.clone(), session));
        assert_eq!(back.name()?, "mine");
        Ok(())
    }
    fn read_log(&self, _cx: &Call, _i: u32, _o: i64, size: i64) -> api::Result<Vec<u8>> {
        Ok(vec![7; usize::try_from(size).unwrap_or(0)])
    }
    fn get_guest_property(&self, _cx: &Call, _n: String) -> api::Result<(String, i64, String)> {
        Ok(("v".into(), -1, "TRANSIENT".into()))
    }
    fn save_state(&self, cx: &Call) -> api::Result<ObjRef> {
        Ok(cx.export(Arc::new(Progress)))
    }
}
api::object!(Machine: IMachine);

static RELEASED: AtomicU32 = AtomicU32::new(0);

struct Progress;
impl server::IProgress for Progress {
    fn percent(&self, _cx: &Call) -> api::Result<u32> {
        Ok(42)
    }
}
api::object!(Progress: IProgress; released = |_, _| { RELEASED.fetch_add(1, Ordering::SeqCst); });

struct ClientSession;
impl server::ISession for ClientSession {
    fn name(&self, _cx: &Call) -> api::Result<String> {
        Ok("mine".into())
    }
}
api::object!(ClientSession: ISession);

struct Space(&'static str, Arc<dyn Object>);
impl ObjectSpace for Space {
    fn resolve(&self, _peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        (path == self.0).then(|| self.1.clone())
    }
}

fn start() -> (tempfile::TempDir, PathBuf, Server) {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("s");
    let machine = Arc::new(Machine {
        memory: Mutex::new(64),
    });
    let server = Server::listen(&path, Arc::new(Space("/Machine/1", machine))).expect("listen");
    (dir, path, server)
}

fn connect(path: &PathBuf) -> Arc<Peer> {
    let space = Arc::new(Space("/Session", Arc::new(ClientSession)));
    Peer::connect(UnixStream::connect(path).expect("socket"), Some(space)).expect("connect")
}

#[test]
fn calls_go_both_ways() {
    let (_dir, path, _server) = start();
    let peer = connect(&path);
    let machine = client::Machine::from_proxy(Proxy::new(peer.clone(), ObjRef::new("/Machine/1")));
    assert_eq!(machine.name().expect("name"), "tëst");
    assert_eq!(machine.state().expect("state"), MachineState::PoweredOff);
    machine.set_memory_size(128).expect("set");
    assert_eq!(machine.memory_size().expect("get"), 128);
    assert!(machine.groups().expect("groups").is_empty());
    assert!(machine.current_snapshot().expect("snapshot").is_none());
    assert_eq!(
        machine.read_log(0, 0, 3_000_000).expect("log").len(),
        3_000_000
    );
    assert!(machine.read_log(0, 0, 0).expect("log").is_empty());
    assert_eq!(
        machine.get_guest_property("x").expect("property"),
        ("v".into(), -1, "TRANSIENT".into())
    );
    let session = client::Session::from_proxy(Proxy::new(peer, ObjRef::new("/Session")));
    machine
        .lock_machine(&session, LockType::Shared)
        .expect("lock");

    let e = machine.set_memory_size(0).expect_err("refused");
    assert_eq!(
        (e.code, e.text.as_str()),
        (ResultCode::E_INVALIDARG, "Invalid RAM size: 0 MB")
    );
    assert_eq!(
        (e.component.as_str(), e.interface.as_str()),
        ("MachineWrap", "IMachine")
    );
    let e = machine.description().expect_err("no room");
    assert_eq!(e.code, ResultCode::E_NOTIMPL);
    assert!(e.text.contains("IMachine::description"), "{}", e.text);
    let e = machine
        .cast::<client::Medium>()
        .state()
        .expect_err("not a medium");
    assert_ne!(e.code, ResultCode::S_OK);
    assert_ne!(MediumState::Created.name(), "");
}

#[test]
fn counted_references_end_with_drop_and_with_the_connection() {
    let (_dir, path, _server) = start();
    let peer = connect(&path);
    let machine = client::Machine::from_proxy(Proxy::new(peer.clone(), ObjRef::new("/Machine/1")));
    let wait = |n: u32| {
        for _ in 0..1000 {
            if RELEASED.load(Ordering::SeqCst) >= n {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("nothing was released");
    };
    let progress = machine.save_state().expect("progress");
    assert_eq!(progress.percent().expect("percent"), 42);
    let again = progress.clone();
    drop(progress);
    assert_eq!(again.percent().expect("still there"), 42);
    drop(again);
    wait(1);
    let held = machine.save_state().expect("progress");
    peer.close();
    wait(2);
    assert_eq!(
        held.percent().expect_err("gone").code,
        ResultCode::NS_ERROR_CALL_FAILED
    );
}

#[test]
fn stock_tools_can_look_around() {
    let (_dir, path, _server) = start();
    let address = format!("unix:path={}", path.display());
    let run = |program: &str, args: &[&str]| match std::process::Command::new(program)
        .args(args)
        .output()
    {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{program}: {output:?}");
            Some(text)
        }
        Err(e) => {
            eprintln!("skipped: {program}: {e}");
            None
        }
    };
    let gdbus = [
        "introspect",
        "--address",
        &address,
        "--dest",
        ":1.1",
        "--object-path",
        "/Machine/1",
    ];
    if let Some(text) = run("gdbus", &gdbus) {
        assert!(text.contains("interface org.oxbox.IMachine"), "{text}");
        assert!(text.contains("lockMachine"), "{text}");
        assert!(text.contains("readwrite u memorySize = 64"), "{text}");
    }
    let address = format!("--address={address}");
    let busctl = [
        &address,
        "get-property",
        ":1.1",
        "/Machine/1",
        "org.oxbox.IMachine",
        "name",
    ];
    if let Some(text) = run("busctl", &busctl) {
        assert!(text.starts_with("s \"t"), "{text}");
    }
}
