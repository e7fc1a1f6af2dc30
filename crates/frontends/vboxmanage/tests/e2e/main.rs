//! `VBoxManage` against a real service, each test with a configuration of its own.

mod appliances;
mod common;
mod moving;
mod networks;
mod sessions;
mod vagrant;

/// The VM process, when the service starts this program as one; nothing as a test.
#[test]
fn role() {
    common::vm::play_if_asked();
}
