//! UUIDs in VirtualBox's spellings: plain on the command line, in braces in settings files, always
//! lower case.

pub use ::uuid::Uuid;

/// Reads `01234567-89ab-cdef-0123-456789abcdef`, with or without braces, in either case.
///
/// Other spellings (no hyphens, `urn:`) are no UUIDs to VirtualBox: they may be machine names.
pub fn parse(text: &str) -> Option<Uuid> {
    let plain = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    if plain.len() != 36 {
        return None;
    }
    Uuid::try_parse(plain).ok()
}

/// `{01234567-89ab-cdef-0123-456789abcdef}`, as settings files have it.
pub fn braced(uuid: &Uuid) -> String {
    uuid.braced().to_string()
}

/// A new random UUID (version 4).
pub fn random() -> Uuid {
    Uuid::new_v4()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_spellings_and_nothing_else() {
        let text = "01234567-89ab-4def-8123-456789abcdef";
        let id = parse(text).unwrap();
        assert_eq!(parse(&format!("{{{}}}", text.to_uppercase())), Some(id));
        assert_eq!(braced(&id), format!("{{{text}}}"));
        assert_eq!(id.to_string(), text);
        for bad in [
            "",
            "{",
            "{}",
            "0123456789ab4def8123456789abcdef",
            "{01234567-89ab-4def-8123-456789abcdef",
            "01234567-89ab-4def-8123-456789abcdef}",
            "urn:uuid:01234567-89ab-4def-8123-456789abcdef",
            "01234567-89ab-4def-8123-456789abcdeg",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
