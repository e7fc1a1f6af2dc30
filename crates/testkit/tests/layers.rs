//! The dependency rules of ARCHITECTURE.md.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Our own crates and the ones of ours they depend on outside of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let crates = root().join("crates");
    let mut manifests = Vec::new();
    for folder in [crates.clone(), crates.join("frontends")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let manifest = entry.unwrap().path().join("Cargo.toml");
            if manifest.is_file() {
                manifests.push(manifest);
            }
        }
    }
    let mut all = BTreeMap::new();
    for manifest in &manifests {
        let text = std::fs::read_to_string(manifest).unwrap();
        let name = text
            .lines()
            .find_map(|l| l.strip_prefix("name = "))
            .unwrap()
            .trim_matches('"');
        let mut section = "";
        let mut deps = BTreeSet::new();
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            } else if section == "[dependencies]"
                && let Some((key, _)) = line.split_once(['.', ' ', '='])
            {
                deps.insert(key.to_owned());
            }
        }
        all.insert(name.to_owned(), deps);
    }
    let own: BTreeSet<String> = all.keys().cloned().collect();
    for deps in all.values_mut() {
        deps.retain(|d| own.contains(d));
    }
    all
}

/// Everything of ours that `name` reaches.
fn reach(all: &BTreeMap<String, BTreeSet<String>>, name: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![name.to_owned()];
    while let Some(n) = todo.pop() {
        for d in &all[&n] {
            if seen.insert(d.clone()) {
                todo.push(d.clone());
            }
        }
    }
    seen
}

#[test]
fn crates_depend_on_allowed_rooms_only() {
    let all = dependencies();
    let allowed: &[(&str, &[&str])] = &[
        ("iprt", &[]),
        ("cpu", &[]),
        ("pgm", &[]),
        ("rem", &["cpu", "pgm"]),
        ("hwaccm", &["cpu", "pgm", "iprt"]),
        ("pdm", &["pgm", "iprt"]),
        ("devices", &["pdm", "pgm", "iprt"]),
        ("storage", &["iprt"]),
        ("settings", &["iprt"]),
        ("ovf", &[]),
    ];
    for (name, may) in allowed {
        for dep in &all[*name] {
            assert!(may.contains(&dep.as_str()), "{name} depends on {dep}");
        }
    }
}

#[test]
fn programs_do_not_reach_past_their_door() {
    let all = dependencies();
    let forbidden: &[(&str, &[&str])] = &[
        (
            "vboxmanage",
            &["vmm", "svc", "console", "devices", "rem", "settings"],
        ),
        ("svc", &["vmm", "console", "devices", "rem", "hwaccm"]),
        (
            "vmm",
            &[
                "devices", "drivers", "storage", "api", "settings", "console",
            ],
        ),
        ("api", &["svc", "settings", "storage", "vmm"]),
    ];
    for (name, never) in forbidden {
        let reached = reach(&all, name);
        for n in *never {
            assert!(!reached.contains(*n), "{name} reaches {n}");
        }
    }
}

#[test]
fn no_crate_depends_on_itself_in_a_circle() {
    let all = dependencies();
    for name in all.keys() {
        assert!(!reach(&all, name).contains(name), "{name} is in a circle");
    }
}

#[test]
fn unsafe_blocks_have_reasons() {
    fn walk(folder: &Path, check: &mut dyn FnMut(&Path, &str)) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, check);
            } else if path.extension().is_some_and(|e| e == "rs") {
                check(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let rooms_without = ["settings", "svc", "devices", "pdm", "api"];
    for room in rooms_without {
        walk(
            &root().join("crates").join(room).join("src"),
            &mut |path, text| {
                for (n, line) in text.lines().enumerate() {
                    let code = line.split("//").next().unwrap();
                    assert!(
                        !code.contains("unsafe {") && !code.contains("unsafe fn"),
                        "{}:{}: unsafe code in a room that needs none",
                        path.display(),
                        n + 1
                    );
                }
            },
        );
    }
}
