//! Development tasks: `cargo run -p xtask -- gen-api` and `gen-docs`.

mod gen_api;
mod gen_docs;
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

/// What `gen-docs` writes: paths below the root, and texts.
fn documents(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let mut all = vboxmanage::documents();
    all.push(("docs/api-coverage.md", gen_docs::document(root)?));
    Ok(all)
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
        Some("gen-docs") => {
            for (path, text) in documents(&root()?)? {
                let path = root()?.join(path);
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                std::fs::write(path, text)?;
            }
            Ok(())
        }
        _ => bail!("usage: cargo run -p xtask -- gen-api | gen-docs"),
    }
}

#[cfg(test)]
mod tests {
    /// Tables and completions are committed; this fails when commands or interfaces went on without
    /// them.
    #[test]
    fn generated_documents_are_current() {
        let root = super::root().expect("root");
        for (path, text) in super::documents(&root).expect("documents") {
            let committed = std::fs::read_to_string(root.join(path)).unwrap_or_default();
            assert!(
                committed == text,
                "{path} is stale: run `cargo run -p xtask -- gen-docs`"
            );
        }
    }

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
