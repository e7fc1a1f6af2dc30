//! Layout of listings.

use crate::error::Result;
use std::io::Write;

/// `Label:` and its value at that column, or one blank later when the label is longer.
pub fn field(
    out: &mut dyn Write,
    width: usize,
    label: &str,
    value: impl std::fmt::Display,
) -> Result {
    let width = width.saturating_sub(1);
    writeln!(out, "{label:<width$} {value}")?;
    Ok(())
}

/// `on` and `off`.
pub fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `enabled` and `disabled`.
pub fn enabled(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

/// `yes` and `no`.
pub fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

/// The text between the quotes of a machine-readable value.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_line_up() {
        let mut out = Vec::new();
        field(&mut out, 17, "Name:", "vboxnet0").expect("memory");
        field(&mut out, 17, "IPV6NetworkMaskPrefixLength:", 64).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "Name:            vboxnet0\nIPV6NetworkMaskPrefixLength: 64\n"
        );
    }

    #[test]
    fn quotes_and_backslashes_are_escaped() {
        assert_eq!(escaped(r#"a"b\c"#), r#"a\"b\\c"#);
    }
}
