//! The pages of docs/reference that are made from the code.

/// `docs/reference/limits.md`: every limit of the platform.
pub fn limits() -> String {
    let mut page = String::from(
        "# Limits\n\nMade from `crates/model/src/limits.rs` by `cargo xtask reference`. A *default* holds where nobody said otherwise; \
         a *ceiling* is the most\nthat a manifest or an operator may ask for.\n\n| limit | default | ceiling | what it bounds and why |\n|---|---|---|---|\n",
    );
    for [name, default, ceiling, reason] in model::limits::all() {
        page.push_str(&format!(
            "| `{name}` | {default} | {ceiling} | {reason} |\n"
        ));
    }
    page
}
