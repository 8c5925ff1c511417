//! One figure beside what was promised.

/// The table's head, as PROMISES.md has it.
pub const HEAD: &str = "| promise | bound | command | last result | |\n|---|---|---|---|---|";

/// A figure, and the most it may be; none for one that is only shown.
pub struct Row {
    pub what: &'static str,
    pub figure: f64,
    pub bound: Option<f64>,
    pub unit: &'static str,
    /// What a reader should know of how it came about.
    pub note: String,
}

impl Row {
    pub fn holds(&self) -> bool {
        self.bound.is_none_or(|bound| self.figure <= bound)
    }

    pub fn text(&self, bench: &str) -> String {
        let Self {
            what,
            figure,
            bound,
            unit,
            note,
        } = self;
        let bound = bound.map_or("–".to_owned(), |bound| format!("at most {bound} {unit}"));
        let verdict = if self.bound.is_none() {
            ""
        } else if self.holds() {
            "kept"
        } else {
            "NOT KEPT"
        };
        let note = if note.is_empty() {
            String::new()
        } else {
            format!(" ({note})")
        };
        format!(
            "| {what} | {bound} | `cargo xtask bench {bench}` | {figure:.2} {unit}{note} | {verdict} |"
        )
    }
}

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
