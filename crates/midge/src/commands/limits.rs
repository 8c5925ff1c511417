//! `midge limits`: every bound of the platform and its reason.

use clap::Args;

use crate::args::Form;
use crate::failure::Failure;
use crate::screen;

/// List every limit of the platform with its default, ceiling and reason
///
/// Asks no platform: these are the bounds that this program was built with. With `--json`: an array of objects with
/// `name`, `default`, `ceiling` and `reason`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge limits
  midge limits --json")]
pub struct Options {
    #[command(flatten)]
    form: Form,
}

pub fn run(options: &Options) -> Result<(), Failure> {
    let limits = model::limits::all();
    if options.form.json {
        let documents: Vec<_> = limits
            .into_iter()
            .map(|[name, default, ceiling, reason]| {
                serde_json::json!({ "name": name, "default": default, "ceiling": ceiling, "reason": reason })
            })
            .collect();
        return screen::json(&documents);
    }
    let rows: Vec<_> = limits.into_iter().map(Vec::from).collect();
    screen::table(&["limit", "default", "ceiling", "reason"], &rows)
}
