//! The command lines of VirtualBox 7.0, which this program is compared with.

use crate::grammar::options_of;

const TEXT: &str = include_str!("../reference/virtualbox-7.0.txt");

/// One paragraph: a form of a command, or several alike.
#[derive(Debug)]
pub struct Paragraph {
    pub command: &'static str,
    /// As it stands.
    pub text: &'static str,
}

/// All of them, in their order.
pub fn paragraphs() -> Vec<Paragraph> {
    let texts = TEXT.split("\n\n").map(str::trim_end);
    let found = texts.filter_map(|text| {
        let command = text
            .strip_prefix("VBoxManage ")?
            .split_whitespace()
            .next()?;
        Some(Paragraph { command, text })
    });
    found.collect()
}

/// The usage of a command.
pub fn usage(command: &str) -> String {
    let mut usage = String::new();
    for paragraph in paragraphs().iter().filter(|p| p.command == command) {
        if !usage.is_empty() {
            usage.push('\n');
        }
        for line in paragraph.text.lines() {
            usage.push_str("  ");
            usage.push_str(line);
            usage.push('\n');
        }
    }
    usage
}

impl Paragraph {
    /// The words of each form; one empty text for a command with one form only.
    pub fn forms(&self) -> Vec<String> {
        let mut forms = vec![String::new()];
        for word in self.words() {
            let mut longer = Vec::new();
            for form in &forms {
                for choice in word.split('|') {
                    longer.push(format!("{form} {choice}").trim_start().to_owned());
                }
            }
            forms = longer;
        }
        forms
    }

    /// The plain words behind the command, up to the first option that stands for itself.
    fn words(&self) -> Vec<&'static str> {
        let mut words = Vec::new();
        let mut depth = 0_usize;
        for token in self.text.split_whitespace().skip(2) {
            let outside = depth == 0;
            depth += token.matches(['<', '[']).count();
            depth = depth.saturating_sub(token.matches(['>', ']']).count());
            if !outside || token.starts_with(['<', '[']) {
                continue;
            }
            if token.starts_with('-') {
                break;
            }
            words.push(token);
        }
        words
    }

    pub fn options(&self) -> Vec<String> {
        options_of(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::COMMANDS;

    #[test]
    fn every_command_is_described() {
        let all = paragraphs();
        for command in COMMANDS {
            assert!(
                all.iter().any(|p| p.command == command.name),
                "{}",
                command.name
            );
        }
        for paragraph in &all {
            let known = COMMANDS.iter().any(|c| c.name == paragraph.command);
            assert!(known, "{}", paragraph.command);
        }
    }

    #[test]
    fn words_make_forms() {
        let of = |text| Paragraph { command: "x", text }.forms();
        assert_eq!(of("VBoxManage x <uuid | vmname> [--a=b c]"), [""]);
        assert_eq!(
            of("VBoxManage x <--p=n> image info|delete <--id=i>"),
            ["image info", "image delete"]
        );
        assert_eq!(of("VBoxManage x <vm> set --old file"), ["set"]);
    }
}
