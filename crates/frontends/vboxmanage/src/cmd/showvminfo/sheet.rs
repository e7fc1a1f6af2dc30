//! One machine's description, for people or for machines: the same values in the same order, so
//! that each is written down once.

use crate::error::Result;
use crate::out::{enabled, escaped, field, on_off};
use std::fmt::Display;
use std::io::Write;

/// Column of the values, for people.
const WIDTH: usize = 29;

pub struct Sheet<'a> {
    pub out: &'a mut dyn Write,
    pub machine: bool,
}

/// A value that the service may not know yet; lines of those are left out.
pub type Maybe<T> = Option<T>;

impl Sheet<'_> {
    /// A text.
    pub fn text(&mut self, key: &str, label: &str, value: Maybe<impl AsRef<str>>) -> Result {
        let Some(value) = value else { return Ok(()) };
        if self.machine {
            writeln!(self.out, "{key}=\"{}\"", escaped(value.as_ref()))?;
            return Ok(());
        }
        field(self.out, WIDTH, label, value.as_ref())
    }

    /// Words that differ for people and machines.
    pub fn words(&mut self, key: &str, label: &str, words: Maybe<(&str, &str)>) -> Result {
        let value = words.map(|(machine, human)| if self.machine { machine } else { human });
        self.text(key, label, value)
    }

    /// A switch: on or enabled.
    pub fn switch(&mut self, key: &str, label: &str, on: Maybe<bool>) -> Result {
        let word = if self.machine { on_off } else { enabled };
        self.text(key, label, on.map(word))
    }

    /// A number with a unit that only people see.
    pub fn number(&mut self, key: &str, label: &str, n: Maybe<impl Display>, unit: &str) -> Result {
        let Some(n) = n else { return Ok(()) };
        if self.machine {
            writeln!(self.out, "{key}={n}")?;
            return Ok(());
        }
        field(self.out, WIDTH, label, format_args!("{n}{unit}"))
    }

    /// A line for machines only.
    pub fn key(&mut self, key: &str, value: impl AsRef<str>) -> Result {
        if self.machine {
            writeln!(self.out, "{key}=\"{}\"", escaped(value.as_ref()))?;
        }
        Ok(())
    }

    /// A line for machines only whose key holds a name that users choose.
    pub fn quoted_key(&mut self, key: &str, value: impl AsRef<str>) -> Result {
        if self.machine {
            let (key, value) = (escaped(key), escaped(value.as_ref()));
            writeln!(self.out, "\"{key}\"=\"{value}\"")?;
        }
        Ok(())
    }

    /// A line for people only.
    pub fn line(&mut self, text: impl Display) -> Result {
        if !self.machine {
            writeln!(self.out, "{text}")?;
        }
        Ok(())
    }

    /// A labelled line for people only.
    pub fn label(&mut self, label: &str, value: impl Display) -> Result {
        if !self.machine {
            field(self.out, WIDTH, label, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What is printed in each of the two ways.
    pub fn printed(f: impl Fn(&mut Sheet<'_>) -> Result) -> [String; 2] {
        [false, true].map(|machine| {
            let mut out = Vec::new();
            let mut sheet = Sheet {
                out: &mut out,
                machine,
            };
            f(&mut sheet).expect("memory");
            String::from_utf8(out).expect("UTF-8")
        })
    }

    #[test]
    fn both_ways() {
        let [human, machine] = printed(|s| {
            s.text("name", "Name:", Some("a \"b\""))?;
            s.number("memory", "Memory size:", Some(1024), "MB")?;
            s.switch("hpet", "HPET:", Some(false))?;
            s.switch("missing", "Missing:", None)?;
            s.words("VMState", "State:", Some(("poweroff", "powered off")))?;
            s.quoted_key("my disk-0-0", "/p")?;
            s.line("x")
        });
        assert_eq!(
            human,
            "Name:                        a \"b\"\n\
             Memory size:                 1024MB\n\
             HPET:                        disabled\n\
             State:                       powered off\n\
             x\n"
        );
        assert_eq!(
            machine,
            "name=\"a \\\"b\\\"\"\nmemory=1024\nhpet=\"off\"\nVMState=\"poweroff\"\n\"my disk-0-0\"=\"/p\"\n"
        );
    }
}
