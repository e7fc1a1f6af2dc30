//! Command lines as VirtualBox reads them: `--option value`, `--option=value`, `-option`, old and
//! new spellings of one option, and numbered ones (`--nic1` to `--nic8`).

use crate::error::{Failure, Result};
use std::collections::VecDeque;

/// One option of a command's table.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Every spelling; the first one is what the command asks for.
    pub names: &'static [&'static str],
    pub takes_value: bool,
    /// A decimal number follows the name.
    pub numbered: bool,
}

/// An option that stands alone.
pub const fn flag(names: &'static [&'static str]) -> Opt {
    Opt {
        names,
        takes_value: false,
        numbered: false,
    }
}

/// An option with a value.
pub const fn value(names: &'static [&'static str]) -> Opt {
    Opt {
        names,
        takes_value: true,
        numbered: false,
    }
}

/// An option with a number in its name and a value.
pub const fn numbered(names: &'static [&'static str]) -> Opt {
    Opt {
        names,
        takes_value: true,
        numbered: true,
    }
}

/// An option as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The first name of its table entry.
    pub name: &'static str,
    /// As typed, for messages.
    pub typed: String,
    /// Of a numbered option; 0 otherwise.
    pub number: u32,
    /// Empty for a flag.
    pub value: String,
}

/// The next argument.
#[derive(Debug)]
pub enum Arg<'t, T> {
    /// An option, with its table entry.
    Opt(&'t T, Given),
    /// Anything else.
    Word(String),
}

/// What is left of a command line.
#[derive(Debug, Default)]
pub struct Args {
    left: VecDeque<String>,
    /// `--` was seen: no more options.
    words_only: bool,
}

impl Args {
    pub fn new(args: impl IntoIterator<Item = String>) -> Self {
        Self {
            left: args.into_iter().collect(),
            words_only: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The next argument as it stands, whatever it looks like.
    pub fn take(&mut self) -> Option<String> {
        self.left.pop_front()
    }

    pub fn peek(&self) -> Option<&str> {
        self.left.front().map(String::as_str)
    }

    /// The next argument as it stands, which must be there.
    pub fn required(&mut self, what: &str) -> Result<String> {
        self.take()
            .ok_or_else(|| Failure::syntax(format!("Missing {what}")))
    }

    /// A further value of an option that takes several.
    pub fn more(&mut self, given: &Given) -> Result<String> {
        self.take()
            .ok_or_else(|| Failure::syntax(format!("Missing argument to '{}'", given.typed)))
    }

    /// Fails when anything is left.
    pub fn end(&mut self) -> Result {
        match self.take() {
            None => Ok(()),
            Some(word) => Err(Failure::syntax(format!("Invalid parameter '{word}'"))),
        }
    }

    /// The next option of `table`, or word.
    ///
    /// # Errors
    /// An option that is in no table, or lacks its value.
    pub fn next<'t, T: AsRef<Opt>>(&mut self, table: &'t [T]) -> Result<Option<Arg<'t, T>>> {
        let Some(word) = self.take() else {
            return Ok(None);
        };
        if self.words_only || !word.starts_with('-') || word == "-" {
            return Ok(Some(Arg::Word(word)));
        }
        if word == "--" {
            self.words_only = true;
            return self.next(table);
        }
        // `--name value`, and only then `--name=value`: no option has `=` in its name.
        let (typed, mut inline) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        let mut found = find(table, &typed);
        if found.is_none()
            && inline.is_none()
            && let Some((name, value)) = word.split_once(':')
        {
            found = find(table, name);
            inline = Some(value.to_owned());
        }
        let Some((entry, number)) = found else {
            if matches!(word.as_str(), "--help" | "-help" | "-h" | "-?") {
                return Err(Failure::Help);
            }
            return Err(Failure::syntax(format!("Unknown option: {word}")));
        };
        let opt: &Opt = entry.as_ref();
        let value = match (opt.takes_value, inline) {
            (true, Some(value)) => value,
            (true, None) => self
                .take()
                .ok_or_else(|| Failure::syntax(format!("Missing argument to '{typed}'")))?,
            (false, None) => String::new(),
            (false, Some(_)) => {
                let text = format!("Option '{typed}' does not take a value");
                return Err(Failure::syntax(text));
            }
        };
        let name = opt.names.first().copied().unwrap_or_default();
        Ok(Some(Arg::Opt(
            entry,
            Given {
                name,
                typed,
                number,
                value,
            },
        )))
    }
}

impl AsRef<Opt> for Opt {
    fn as_ref(&self) -> &Opt {
        self
    }
}

/// The entry of that name, and the number behind it.
fn find<'t, T: AsRef<Opt>>(table: &'t [T], typed: &str) -> Option<(&'t T, u32)> {
    let bare = typed.trim_start_matches('-');
    table.iter().find_map(|entry| {
        let opt = entry.as_ref();
        opt.names.iter().find_map(|name| {
            let wanted = match name.strip_prefix("--") {
                // A long name may have one dash.
                Some(wanted) => wanted,
                // A short one must have just that.
                None if *name == typed => return Some((entry, 0)),
                None => return None,
            };
            let rest = bare.strip_prefix(wanted)?;
            match (opt.numbered, rest) {
                (false, "") => Some((entry, 0)),
                (true, digits)
                    if (1..=3).contains(&digits.len())
                        && digits.bytes().all(|b| b.is_ascii_digit()) =>
                {
                    Some((entry, digits.parse().ok()?))
                }
                _ => None,
            }
        })
    })
}

impl Given {
    /// The value is not one that the option takes.
    pub fn invalid(&self) -> Failure {
        Failure::syntax(format!("Invalid {} argument '{}'", self.typed, self.value))
    }

    /// A switch.
    pub fn on(&self) -> Result<bool> {
        on_off(&self.value).ok_or_else(|| self.invalid())
    }

    /// A number: decimal, `0x` hexadecimal or, with a leading zero, octal.
    pub fn integer<T: TryFrom<i128>>(&self) -> Result<T> {
        parse_integer(&self.value).ok_or_else(|| self.invalid())
    }

    /// A number of that range.
    pub fn within<T: TryFrom<i128> + PartialOrd + Copy>(&self, min: T, max: T) -> Result<T> {
        let number = self.integer::<T>()?;
        if number < min || number > max {
            return Err(self.invalid());
        }
        Ok(number)
    }

    /// One of a list of words, whatever their case.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T> {
        choose(&self.value, words).ok_or_else(|| self.invalid())
    }

    /// The 0-based index of an option that counts from 1 to `count`.
    pub fn slot(&self, count: u32) -> Result<u32> {
        if (1..=count).contains(&self.number) {
            return Ok(self.number - 1);
        }
        Err(Failure::syntax(format!(
            "Invalid slot number in '{}': must be 1 to {count}",
            self.typed
        )))
    }
}

/// `on` and `off` with all their synonyms.
pub fn on_off(word: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|w| word.eq_ignore_ascii_case(w));
    if is(&["on", "yes", "true", "enable", "enabled", "1"]) {
        Some(true)
    } else if is(&["off", "no", "false", "disable", "disabled", "0"]) {
        Some(false)
    } else {
        None
    }
}

/// The value of the word, whatever its case.
pub fn choose<T: Copy>(word: &str, words: &[(&str, T)]) -> Option<T> {
    let found = words.iter().find(|(w, _)| word.eq_ignore_ascii_case(w));
    found.map(|(_, value)| *value)
}

/// See [`Given::integer`].
pub fn parse_integer<T: TryFrom<i128>>(text: &str) -> Option<T> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, digits)
    } else {
        (10, digits)
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    T::try_from(if negative { -number } else { number }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Opt] = &[
        value(&["--memory", "-m"]),
        flag(&["--register"]),
        numbered(&["--nic"]),
        numbered(&["--nic-type", "--nictype"]),
    ];

    fn parse(line: &[&str]) -> Result<Vec<String>> {
        let mut args = Args::new(line.iter().map(|s| (*s).to_owned()));
        let mut seen = Vec::new();
        while let Some(arg) = args.next(TABLE)? {
            seen.push(match arg {
                Arg::Opt(_, g) => format!("{}/{}={}", g.name, g.number, g.value),
                Arg::Word(w) => w,
            });
        }
        Ok(seen)
    }

    #[test]
    fn every_spelling_is_one_option() {
        let seen = parse(&[
            "vm",
            "--memory",
            "1",
            "-memory",
            "2",
            "--memory=3",
            "-m",
            "4",
            "--memory:5",
            "-register",
            "--nic1",
            "nat",
            "--nictype2=x",
            "--nic-type8",
            "--y",
        ])
        .expect("all known");
        assert_eq!(
            seen,
            [
                "vm",
                "--memory/0=1",
                "--memory/0=2",
                "--memory/0=3",
                "--memory/0=4",
                "--memory/0=5",
                "--register/0=",
                "--nic/1=nat",
                "--nic-type/2=x",
                "--nic-type/8=--y",
            ]
        );
    }

    #[test]
    fn two_dashes_end_the_options() {
        assert_eq!(
            parse(&["-", "--", "--memory"]).expect("words"),
            ["-", "--memory"]
        );
    }

    #[test]
    fn wrong_options_are_named() {
        for (line, text) in [
            (&["--colour", "x"][..], "Unknown option: --colour"),
            (&["--nic", "x"], "Unknown option: --nic"),
            (&["--nic1234", "x"], "Unknown option: --nic1234"),
            (&["--memory"], "Missing argument to '--memory'"),
            (
                &["--register=yes"],
                "Option '--register' does not take a value",
            ),
        ] {
            match parse(line) {
                Err(Failure::Syntax(said)) => assert_eq!(said, text),
                other => panic!("{line:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn values_are_checked() {
        let given = |value: &str| Given {
            name: "--x",
            typed: "--x".into(),
            number: 9,
            value: value.into(),
        };
        for word in ["on", "YES", "true", "enable", "enabled"] {
            assert!(given(word).on().expect("a switch"));
        }
        for word in ["off", "no", "False", "disable", "disabled"] {
            assert!(!given(word).on().expect("a switch"));
        }
        assert!(given("maybe").on().is_err());
        assert_eq!(given("0x3F8").integer::<u32>().expect("hex"), 0x3f8);
        assert_eq!(given("010").integer::<u32>().expect("octal"), 8);
        assert_eq!(given("-3600").integer::<i64>().expect("negative"), -3600);
        for wrong in ["", "x", "0x", "1 2", "--5", "-1", "4294967296", "08"] {
            assert!(given(wrong).integer::<u32>().is_err(), "{wrong:?}");
        }
        assert!(given("101").within(1_u32, 100).is_err());
        assert!(given("1").slot(8).is_err());
    }
}
