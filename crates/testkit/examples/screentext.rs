//! Prints the text of a screenshot: `cargo run -p testkit --example screentext FILE.png`.

use std::path::Path;

use testkit::{Font, Picture};

fn main() -> anyhow::Result<()> {
    let path = std::env::args()
        .nth(1)
        .ok_or_else(|| anyhow::anyhow!("usage: screentext FILE.png"))?;
    println!("{}", Picture::read(Path::new(&path))?.text(&Font::load()?));
    Ok(())
}
