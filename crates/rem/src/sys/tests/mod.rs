//! Tests of single instructions on a small machine.

mod fuzz;
mod gates;
mod long;
mod machine;
mod modes;
mod native;
mod operands;
mod paging;
mod smm;
mod system;
mod tasks;
