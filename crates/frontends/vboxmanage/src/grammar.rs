//! What command lines there are, for those who want to know without running any: the table of
//! coverage and the shells' completions. It is made of the tables that the commands parse with.

use crate::args::Opt;
use std::collections::BTreeSet;

/// One form of a command: its action, and the options it may have.
#[derive(Debug, Clone)]
pub struct Form {
    /// The plain words that choose it, with `N` for a number at the end of one; empty when the
    /// command has one form only.
    pub words: String,
    pub options: Vec<Opt>,
    /// Options that are read to be refused: their room is not built yet.
    pub missing: &'static [&'static str],
}

/// A form with that table of options.
pub fn form(words: &str, options: &[Opt]) -> Form {
    Form {
        words: words.to_owned(),
        options: options.to_vec(),
        missing: &[],
    }
}

/// A command with one form and no options.
pub fn plain() -> Vec<Form> {
    vec![form("", &[])]
}

impl Form {
    /// Notes options that are refused.
    pub const fn without(mut self, missing: &'static [&'static str]) -> Self {
        self.missing = missing;
        self
    }

    /// The options that work, in every spelling, `N` for a number.
    pub fn accepted(&self) -> BTreeSet<String> {
        let options = self.options.iter().filter(|o| !self.refuses(o));
        let names = options.flat_map(|o| o.names.iter().map(|name| numbered(name, o.numbered)));
        names.collect()
    }

    /// The options that work, in their present spelling.
    pub fn shown(&self) -> Vec<String> {
        let options = self.options.iter().filter(|o| !self.refuses(o));
        let first = options.filter_map(|o| Some(numbered(o.names.first()?, o.numbered)));
        first.collect()
    }

    fn refuses(&self, option: &Opt) -> bool {
        option.names.iter().any(|n| self.missing.contains(n))
    }
}

fn numbered(name: &str, numbered: bool) -> String {
    format!("{name}{}", if numbered { "N" } else { "" })
}

/// The options that a usage text names.
pub fn options_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let starts = c == '-' && matches!(before, ' ' | '\n' | '[' | '<' | '(');
        before = c;
        if !starts {
            continue;
        }
        let option: String = text[at..]
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
            .collect();
        let is_name = option
            .trim_start_matches('-')
            .starts_with(|c: char| c.is_ascii_alphabetic());
        if is_name && !found.contains(&option) {
            found.push(option);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{flag, numbered, value};
    use crate::cmd::COMMANDS;

    #[test]
    fn refused_options_are_not_shown() {
        let table = [
            value(&["--size", "-s"]),
            flag(&["--odd"]),
            numbered(&["--nic"]),
        ];
        let form = form("add", &table).without(&["--odd"]);
        assert_eq!(form.shown(), ["--size", "--nicN"]);
        let accepted: Vec<_> = form.accepted().into_iter().collect();
        assert_eq!(accepted, ["--nicN", "--size", "-s"]);
    }

    #[test]
    fn options_are_found_in_usage_texts() {
        assert_eq!(
            options_of("  x <uuid | name> [--a-b=1 | --cN] <--d> [-e file] -- f-g <file | ->"),
            ["--a-b", "--cN", "--d", "-e"]
        );
    }

    /// What a usage text names, the command takes.
    #[test]
    fn usage_texts_name_options_of_the_tables() {
        for command in COMMANDS.iter().filter(|c| c.run.is_some()) {
            let mut known = BTreeSet::new();
            for form in (command.forms)() {
                for option in &form.options {
                    let names = option.names.iter();
                    known.extend(names.map(|n| super::numbered(n, option.numbered)));
                }
            }
            for option in options_of(&(command.usage)()) {
                let long = format!("-{option}");
                assert!(
                    known.contains(&option) || known.contains(&long),
                    "{}: {option}",
                    command.name
                );
            }
        }
    }
}
