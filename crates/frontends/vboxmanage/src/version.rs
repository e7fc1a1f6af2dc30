//! What this program says it is. The service says the same; a test compares them.

/// What tools compare, with a suffix that says whose build it is.
pub const VERSION: &str = "7.0.20_Oxbox";
/// The number after `r` in `--version`.
pub const REVISION: u32 = 1;

/// The lines above every help text and syntax error.
pub const LOGO: &str = concat!(
    "Oxbox Command Line Management Interface Version 7.0.20_Oxbox\n",
    "Commands, formats and messages are those of VirtualBox(R) 7.0; this is not Oracle's build.\n",
    "\n"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logo_has_the_version() {
        assert!(LOGO.contains(VERSION));
    }
}
