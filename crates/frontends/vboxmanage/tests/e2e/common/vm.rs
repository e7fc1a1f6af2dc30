//! The VM's process: just enough of one to be talked to.

use api::ipc::{ObjectSpace, Peer};
use api::progress::Progress;
use api::types::*;
use api::vm::{VmHooks, VmLink};
use api::{Call, ObjRef, Object, server};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

#[derive(Default)]
struct Vm {
    link: OnceLock<Arc<VmLink>>,
    typed: Mutex<String>,
}

impl Vm {
    fn set(&self, state: MachineState) {
        if let Some(link) = self.link.get() {
            link.set_state(state);
        }
    }
}

struct Console(Arc<Vm>);
impl server::IConsole for Console {
    fn pause(&self, _cx: &Call) -> api::Result<()> {
        self.0.set(MachineState::Paused);
        Ok(())
    }
    fn resume(&self, _cx: &Call) -> api::Result<()> {
        self.0.set(MachineState::Running);
        Ok(())
    }
    fn power_button(&self, _cx: &Call) -> api::Result<()> {
        Ok(())
    }
    fn keyboard(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/Console/Keyboard"))
    }
    fn display(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/Console/Display"))
    }
    fn debugger(&self, _cx: &Call) -> api::Result<ObjRef> {
        Ok(ObjRef::new("/Console/Debugger"))
    }
    fn power_down(&self, cx: &Call) -> api::Result<ObjRef> {
        let vm = self.0.clone();
        let progress = Progress::spawn("Stopping virtual machine", false, move |_| {
            vm.set(MachineState::Stopping);
            vm.set(MachineState::PoweredOff);
            if let Some(link) = vm.link.get() {
                link.stop();
            }
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                std::process::exit(0);
            });
            Ok(())
        });
        Ok(cx.export(progress))
    }
}
api::object!(Console: IConsole);

struct Keyboard(Arc<Vm>);
impl server::IKeyboard for Keyboard {
    /// A buffer that never takes more than five.
    fn put_scancodes(&self, _cx: &Call, codes: Vec<i32>) -> api::Result<u32> {
        let taken = codes.len().min(5);
        let text: String = codes[..taken].iter().map(|c| format!("{c:02x}")).collect();
        self.0.typed.lock().expect("lock").push_str(&text);
        Ok(u32::try_from(taken).expect("few"))
    }
}
api::object!(Keyboard: IKeyboard);

struct Display;
impl server::IDisplay for Display {
    fn get_screen_resolution(
        &self,
        _cx: &Call,
        _screen: u32,
    ) -> api::Result<(u32, u32, u32, i32, i32, GuestMonitorStatus)> {
        Ok((720, 400, 0, 0, 0, GuestMonitorStatus::Enabled))
    }
    fn take_screen_shot_to_array(
        &self,
        _cx: &Call,
        _screen: u32,
        width: u32,
        height: u32,
        format: BitmapFormat,
    ) -> api::Result<Vec<u8>> {
        assert_eq!(format, BitmapFormat::PNG);
        Ok([b"\x89PNG ", format!("{width}x{height}").as_bytes()].concat())
    }
}
api::object!(Display: IDisplay);

struct Debugger(Arc<Vm>);
impl server::IMachineDebugger for Debugger {
    fn info(&self, _cx: &Call, _name: String, _args: String) -> api::Result<String> {
        Ok(format!("{}\n", self.0.typed.lock().expect("lock")))
    }
}
api::object!(Debugger: IMachineDebugger);

struct Objects(Arc<Vm>);
impl ObjectSpace for Objects {
    fn resolve(&self, _peer: &Arc<Peer>, path: &str) -> Option<Arc<dyn Object>> {
        match path {
            "/Console" => Some(Arc::new(Console(self.0.clone()))),
            "/Console/Keyboard" => Some(Arc::new(Keyboard(self.0.clone()))),
            "/Console/Display" => Some(Arc::new(Display)),
            "/Console/Debugger" => Some(Arc::new(Debugger(self.0.clone()))),
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
    fn uninitialize(&self) {
        std::process::exit(0);
    }
}

/// Plays the machine that the environment names, if it does.
pub fn play_if_asked() {
    if let Ok(machine) = std::env::var(super::ROLE) {
        play(&machine);
    }
}

fn play(id: &str) {
    let (_client, session, _machine) = api::vm::lock_machine(id).expect("lock");
    let vm = Arc::new(Vm::default());
    let objects = Arc::new(Objects(vm.clone()));
    let link = VmLink::start(&session, id, "headless", objects, Arc::new(Hooks)).expect("link");
    let _ = vm.link.set(link.clone());
    link.set_state(MachineState::Running);
    link.power_up_done(&Ok(()));
    // A failed test must not leave this behind for ever.
    std::thread::sleep(Duration::from_secs(60));
    std::process::exit(0);
}
