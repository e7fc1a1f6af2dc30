//! Written by `cargo run -p xtask -- gen-api`, except for this list.

pub mod client;
pub mod meta;
pub mod server;
pub mod types;
