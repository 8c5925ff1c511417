//! `midge upgrade`: have another program take the place of the running platform, while apps are served.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use model::upgrade::{UpgradeRequest, UpgradeWord, Upgraded};

use crate::args::Form;
use crate::config::{self, Flags};
use crate::data_folder;
use crate::failure::{Exit, Failure, While as _};
use crate::screen;

/// Replace the running platform by this program, without a pause for apps
///
/// The platform that runs on the data folder starts PROGRAM beside itself, with the flags and the configuration file
/// that it was started with, read anew. It hands over its sockets and its data folder, and finishes what is in flight.
/// No connection is refused or cut. If the new program cannot take over, the running one goes on and says why. Changed
/// settings take effect, but for addresses, workers and the data folder.
///
/// Only the API pauses, for as long as it takes to open the records and to compile what the new program needs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ./midge-0.2.0 upgrade
  midge upgrade /usr/local/bin/midge --data /var/lib/midge
  midge upgrade --config /etc/midge/midge.config.toml --json")]
pub struct Options {
    /// The program to take the place of the running one [default: this one]
    program: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
    /// The configuration file that names the data folder [default: `midge.config.toml` in the current folder]
    #[arg(
        long,
        value_name = "PATH",
        env = "MIDGE_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
    /// The data folder that the running platform uses [default: as for `midge up`]
    #[arg(long, value_name = "DIR", env = "MIDGE_DATA", hide_env_values = true)]
    data: Option<PathBuf>,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let program = match options.program {
        Some(program) => std::fs::canonicalize(&program)
            .or_fail(|| format!("looking for the program `{}`", program.display()))?,
        None => std::env::current_exe().or_fail(|| "finding this program".into())?,
    };
    let flags = Flags {
        config: options.config,
        data: options.data,
        ..Flags::default()
    };
    let settings = config::load(flags)?;
    let upgraded = ask(&settings.data, program)?;
    if options.form.json {
        return screen::json(&upgraded);
    }
    let Upgraded {
        from,
        to,
        pid,
        api_pause_ms,
    } = upgraded;
    screen::line(format_args!(
        "midge {to} serves in the place of midge {from} (process {pid}); the API paused for {api_pause_ms} ms, apps did not"
    ))
}

/// Asks the platform that runs on `data`, and waits for how it went.
fn ask(data: &Path, program: PathBuf) -> Result<Upgraded, Failure> {
    let mut platform = data_folder::connect(data).map_err(|error| not_running(data, &error))?;
    let lost = |error: io::Error| {
        Failure::failed(format!("the running platform broke off: {error}"))
            .hint("`midge status` says whether it still serves")
    };
    let request = UpgradeRequest { program };
    let mut line = serde_json::to_vec(&request).expect("a request has a JSON form");
    line.push(b'\n');
    platform.write_all(&line).map_err(lost)?;
    for line in BufReader::new(platform).lines() {
        let line = line.map_err(lost)?;
        let word = serde_json::from_str(&line)
            .or_fail(|| "reading what the running platform says".into())?;
        match word {
            UpgradeWord::Progress(text) => screen::note(text),
            UpgradeWord::Done(upgraded) => return Ok(upgraded),
            UpgradeWord::Failed(why) => {
                return Err(Failure::failed(format!("nothing was replaced: {why}"))
                    .hint("the running platform goes on as before; its own log says more"));
            }
        }
    }
    Err(lost(io::ErrorKind::UnexpectedEof.into()))
}

fn not_running(data: &Path, error: &io::Error) -> Failure {
    let shown = data.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
            Exit::Unreachable,
            format!("no platform runs on the data folder `{shown}`"),
        )
        .hint(
            "name its folder with `--data` or `--config`; where none runs, `midge up` starts one",
        ),
        io::ErrorKind::PermissionDenied => Failure::new(
            Exit::Refused,
            format!("the data folder `{shown}` is another user's"),
        )
        .hint("run this as the user that runs the platform"),
        _ => Failure::failed(format!(
            "the platform on `{shown}` cannot be reached: {error}"
        )),
    }
}
