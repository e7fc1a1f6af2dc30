//! The one ordered list of devices. Construction order follows it; save, load, conformance tests
//! and `debugvm info` loop over it.

use pdm::DeviceReg;

/// All devices this build has.
pub static DEVICES: &[DeviceReg] = &[crate::input::pckbd::REG, crate::serial::REG];

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static DeviceReg> {
    DEVICES.iter().find(|d| d.name == name)
}
