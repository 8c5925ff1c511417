//! Writes the pages of docs/reference that are made from the code.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("limits.md"), tests::reference::limits())
}
