//! Tests of single instructions on a small machine.

mod gates;
mod kvm;
mod long;
mod machine;
mod modes;
mod native;
mod operands;
mod paging;
mod system;
mod tasks;
