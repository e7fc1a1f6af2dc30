//! Main, VM side: the API objects of a running machine, and the process around it.
//!
//! `settings` reads a machine's settings over the API into plain data; `machine` makes the
//! configuration tree out of them; `backends` opens disks and serial ports; [`objects`] answers
//! clients, who come through the service; [`process`] is the life of one VM process, which
//! front ends call.

mod backends;
mod machine;
pub mod objects;
pub mod process;
mod screenshot;
mod settings;

/// Error texts of the API start with a capital.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
