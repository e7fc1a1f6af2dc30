//! Keyboards and mice.

pub mod pckbd;
