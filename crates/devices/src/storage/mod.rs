//! Storage controllers.

pub mod piix3ide;
