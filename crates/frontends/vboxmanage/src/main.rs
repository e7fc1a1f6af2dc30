//! `VBoxManage`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vboxmanage::main()
}
