//! Text as a US keyboard types it: scan codes of set 1.

/// Left shift.
const SHIFT: u8 = 0x2a;
/// A released key's code has this bit.
const RELEASED: u8 = 0x80;

/// The key of a character, and whether shift goes with it.
fn key(c: char) -> Option<(u8, bool)> {
    /// Rows of the keyboard: first code, plain and shifted characters.
    const ROWS: &[(u8, &str, &str)] = &[
        (0x02, "1234567890-=", "!@#$%^&*()_+"),
        (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
        (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
        (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    ];
    match c {
        ' ' => return Some((0x39, false)),
        '\n' | '\r' => return Some((0x1c, false)),
        '\t' => return Some((0x0f, false)),
        '\u{8}' => return Some((0x0e, false)),
        '\u{1b}' => return Some((0x01, false)),
        _ => {}
    }
    ROWS.iter().find_map(|(first, plain, shifted)| {
        let at = |row: &str| {
            let index = row.chars().position(|k| k == c)?;
            first.checked_add(u8::try_from(index).ok()?)
        };
        at(plain)
            .map(|code| (code, false))
            .or_else(|| at(shifted).map(|code| (code, true)))
    })
}

/// The codes that type a text; `Err` is a character that is on no key.
pub fn scan_codes(text: &str) -> Result<Vec<i32>, char> {
    let mut codes = Vec::new();
    // A line end of two characters is one key.
    for c in text.replace("\r\n", "\n").chars() {
        let (code, shift) = key(c).ok_or(c)?;
        if shift {
            codes.push(SHIFT);
        }
        codes.extend([code, code | RELEASED]);
        if shift {
            codes.push(SHIFT | RELEASED);
        }
    }
    Ok(codes.into_iter().map(i32::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_they_are_on_a_keyboard() {
        assert_eq!(scan_codes("a").expect("key"), [0x1e, 0x9e]);
        assert_eq!(scan_codes("A").expect("key"), [0x2a, 0x1e, 0x9e, 0xaa]);
        assert_eq!(
            scan_codes("=\\`'").expect("key"),
            [0x0d, 0x8d, 0x2b, 0xab, 0x29, 0xa9, 0x28, 0xa8]
        );
        assert_eq!(
            scan_codes("/~").expect("key"),
            [0x35, 0xb5, 0x2a, 0x29, 0xa9, 0xaa]
        );
        assert_eq!(scan_codes("\r\n").expect("key"), [0x1c, 0x9c]);
        assert_eq!(scan_codes("ß"), Err('ß'));
    }

    #[test]
    fn every_printable_ascii_character_has_a_key() {
        for c in ' '..='~' {
            assert!(key(c).is_some(), "{c}");
        }
    }
}
