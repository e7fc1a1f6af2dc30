//! Graphics adapters.

pub mod vga;
