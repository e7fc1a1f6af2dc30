//! Damaged and hostile files: every fixture and every file of `hostile/`, changed at random but the
//! same in every run. Reading may fail; it may not panic, hang, or read back something else than
//! what was written.

use std::fs;
use std::path::Path;

use settings::{Error, GlobalFile, MachineFile};

fn seeds() -> Vec<String> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut files: Vec<_> = ["fixtures", "hostile"]
        .iter()
        .flat_map(|folder| fs::read_dir(tests.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| fs::read_to_string(path).unwrap())
        // The largest would take all the time.
        .filter(|text| text.len() < 20_000)
        .collect()
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }
}

/// A place in `text` between two characters.
fn place(text: &str, random: &mut Random) -> usize {
    let mut at = random.below(text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const PIECES: &[&str] = &[
    "<",
    ">",
    "/>",
    "\"",
    "'",
    "&",
    "&#0;",
    "&#x110000;",
    "&lt;",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?x?>",
    "\0",
    "\u{feff}",
    "\u{1F600}",
    "-1",
    "4294967296",
    "0x",
    "{",
    "}",
    "true",
    " xmlns=\"\"",
    " uuid=\"\"",
    "<Snapshot>",
    "</Snapshot>",
    "<Hardware>",
    "</Hardware>",
    "<Hardware/>",
    "<DVDDrive/>",
    "<StorageControllers/>",
    "<Platform/>",
    "<BIOS/>",
    "<!DOCTYPE x []>",
];

/// Removes, doubles, moves and replaces parts of a file.
fn mutate(text: &mut String, other: &str, random: &mut Random) {
    match random.below(9) {
        0 => text.truncate(place(text, random)),
        1 => {
            let at = place(text, random);
            text.insert_str(at, PIECES[random.below(PIECES.len())]);
        }
        2 | 3 => {
            // Elements stand on lines of their own: what remains is mostly well-formed.
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            let at = random.below(lines.len());
            let line = lines.get(at).copied().unwrap_or_default().to_owned();
            let mut lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
            match random.below(3) {
                0 if at < lines.len() => drop(lines.remove(at)),
                0 => {}
                1 => lines.insert(at, line),
                _ => lines.insert(random.below(lines.len()), line),
            }
            *text = lines.concat();
        }
        4 => {
            let lines: Vec<&str> = other.split_inclusive('\n').collect();
            let line = lines.get(random.below(lines.len())).copied();
            let at = text.find("    <Hardware").unwrap_or_default();
            text.insert_str(at, line.unwrap_or_default());
        }
        5 => {
            let from = format!("version=\"1.{}-", 3 + random.below(18));
            for minor in 3..=20 {
                *text = text.replace(&format!("version=\"1.{minor}-"), &from);
            }
        }
        6 => {
            // Another value.
            let quotes: Vec<usize> = text.match_indices('"').map(|(at, _)| at).collect();
            let at = random.below(quotes.len() / 2) * 2;
            if let (Some(from), Some(to)) = (quotes.get(at), quotes.get(at + 1)) {
                let new = ["", "0", "255", "Floppy", "I82078", "PIIX4", "x", "DVD"];
                text.replace_range(from + 1..*to, new[random.below(new.len())]);
            }
        }
        7 => {
            let (from, to) = (place(text, random), place(text, random));
            text.replace_range(from.min(to)..from.max(to).min(from.min(to)), "");
        }
        _ => {
            let at = place(text, random);
            let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            text.replace_range(at..end, PIECES[random.below(PIECES.len())]);
        }
    }
}

/// Whether a fault is told with its place.
fn check_error(error: &Error, text: &str) {
    if let Error::Broken { line, column, .. } = error {
        let lines = text.lines().count().max(1) as u32 + 1;
        assert!(*line >= 1 && *line <= lines && *column >= 1, "{error}");
    }
}

#[test]
fn mutations_are_read_or_refused() {
    let seeds = seeds();
    let mut random = Random(0x6f78_626f_7800_0001);
    let mut read = 0;
    for round in 0..6_000 {
        let mut text = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(3) {
            let other = &seeds[random.below(seeds.len())];
            mutate(&mut text, other, &mut random);
        }
        match MachineFile::from_text(text.clone(), "/vm/n.vbox") {
            Err(e) => check_error(&e, &text),
            Ok(mut file) => {
                read += 1;
                assert_eq!(file.to_text().unwrap(), text);
                file.content.hardware.memory_mb ^= 64;
                file.content.hardware.memory_mb |= 4;
                if random.below(2) == 0 {
                    file.content.execution_engine.push('x');
                }
                match file.to_text() {
                    Ok(new) => {
                        let again = MachineFile::from_text(new.clone(), "/vm/n.vbox");
                        let again = again.unwrap_or_else(|e| panic!("{e}\n{text}\n{new}"));
                        assert!(
                            again.content == file.content,
                            "{round}\n{text}\n{new}\n{:?}\n{:?}",
                            again.content,
                            file.content
                        );
                    }
                    Err(Error::Invalid { .. }) => {}
                    Err(e) => panic!("{e}\n{text}"),
                }
            }
        }
        match GlobalFile::from_text(text.clone(), "/home/VirtualBox.xml") {
            Err(e) => check_error(&e, &text),
            Ok(mut file) => {
                read += 1;
                file.content.extra_data.insert("k".into(), "v".into());
                let new = file.to_text().unwrap_or_else(|e| panic!("{e}\n{text}"));
                let again = GlobalFile::from_text(new, "/home/VirtualBox.xml").unwrap();
                assert_eq!(again.content, file.content);
            }
        }
    }
    assert!(read > 500, "too few of the files are readable: {read}");
}

#[test]
fn hostile_files_are_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let what = match name {
            "laughs.xml" | "external.xml" => "DTD",
            "twice.xml" | "loop.xml" => continue,
            "attachments.xml" => "required attribute 'uuid' is missing",
            "platform.xml" => "must be",
            "spaces.xml" => "no settings file",
            "numbers.xml" => "must be a number",
            "global.xml" => "no Machine",
            other => panic!("{other}"),
        };
        let message = MachineFile::load(&path).unwrap_err().to_string();
        assert!(message.contains(what), "{name}: {message}");
        assert!(message.contains("line "), "{name}: {message}");
    }
}
