//! Development tasks: `cargo run -p xtask -- gen-api`.

mod gen_api;
mod idl;
mod names;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest
        .parent()
        .context("xtask has no parent folder")?
        .to_owned())
}

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("gen-api") => {
            let folder = root()?.join("crates/api/src/generated");
            for (name, text) in gen_api::generate(&root()?)? {
                std::fs::write(folder.join(name), text)?;
            }
            Ok(())
        }
        _ => bail!("usage: cargo run -p xtask -- gen-api"),
    }
}

#[cfg(test)]
mod tests {
    /// Generated code is committed; this fails when the IDL or the generator went on without it.
    #[test]
    fn generated_code_is_current() {
        let root = super::root().expect("root");
        for (name, text) in super::gen_api::generate(&root).expect("the IDL is well formed") {
            let path = root.join("crates/api/src/generated").join(name);
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == text,
                "{} is stale: run `cargo run -p xtask -- gen-api`",
                path.display()
            );
        }
    }
}
