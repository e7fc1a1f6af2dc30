//! `@file`: a command line kept in a file, quoted as a Bourne shell wants it.

use crate::error::{Failure, Result};

/// Largest response file, in bytes.
const MAX: u64 = 1 << 20;

/// Puts the words of a response file in the place of `@file`, which must be the first argument.
///
/// # Errors
/// When the file cannot be read or a quote is not closed.
pub fn expand(line: Vec<String>) -> Result<Vec<String>> {
    let Some(file) = line.first().and_then(|w| w.strip_prefix('@')) else {
        return Ok(line);
    };
    let failed = |e: &dyn std::fmt::Display| {
        Failure::message(format!("Cannot read response file '{file}': {e}"))
    };
    let size = std::fs::metadata(file).map_err(|e| failed(&e))?.len();
    if size > MAX {
        return Err(failed(&"it is larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
    let mut words = split(&text).ok_or_else(|| failed(&"a quote is not closed"))?;
    words.extend(line.into_iter().skip(1));
    Ok(words)
}

/// The words of a Bourne shell line without expansions; `None` when a quote is open at the end.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            '\n' => {}
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_a_shells() {
        let text = r#"createvm --name 'my vm' "a \"b\" \c" d\ e'f'"g" ''"#;
        assert_eq!(
            split(text).expect("closed"),
            ["createvm", "--name", "my vm", r#"a "b" \c"#, "d efg", ""]
        );
        assert_eq!(split("a\\\nb\nc").expect("closed"), ["ab", "c"]);
        assert!(split("'open").is_none());
        assert!(split("open\\").is_none());
    }

    #[test]
    fn only_the_first_argument_is_a_file() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("line");
        std::fs::write(&file, "list 'vms'\n").expect("file");
        let at = format!("@{}", file.display());
        assert_eq!(
            expand(vec![at.clone(), "-l".into()]).expect("readable"),
            ["list", "vms", "-l"]
        );
        assert_eq!(
            expand(vec!["x".into(), at.clone()]).expect("as is"),
            ["x".to_owned(), at]
        );
        assert!(expand(vec!["@/nonexistent".into()]).is_err());
    }
}
