//! Storage controllers.

pub mod i82078;
pub mod piix3ide;
