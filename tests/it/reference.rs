//! The pages that are made from the code say what the code says.

use std::path::Path;

#[test]
fn the_reference_page_of_limits_is_the_codes() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/limits.md");
    let committed = std::fs::read_to_string(page).unwrap();
    assert!(
        committed == tests::reference::limits(),
        "write it anew with `cargo xtask reference`"
    );
}
