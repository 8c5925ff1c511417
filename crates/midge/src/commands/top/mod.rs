//! `midge top`: apps by what they do and use, live.

mod rows;
mod terminal;
mod view;

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::Args;
use model::api::PlatformUsage;
use model::{Millis, limits};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{Form, Platform};
use crate::client::Client;
use crate::failure::{Exit, Failure, While as _};
use crate::screen;
use rows::Key;
use terminal::{Press, Terminal};
use view::View;

const PATH: &str = "/v1/usage";

/// Looks that rates are made of: workers tell of their counts once a second, at moments of their own.
const LOOKS: usize = 4;

/// Show apps by requests, latency, CPU, memory and errors, live
///
/// Shows every app that the token reaches and that was asked for since the node began. Keys: `r` `l` `c` `m` `e` sort by
/// requests, latency, CPU, memory and errors, `q` or Ctrl-C ends. Where standard output is no terminal: one table, as with
/// `--once`. With `--json`: that table as JSON.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  midge top
  midge top --sort cpu --interval 5s
  midge top --once --json | jq '.[] | select(.errors > 0).app'")]
pub struct Options {
    /// What to sort by, most first
    #[arg(long, value_enum, value_name = "KEY", default_value = "requests")]
    sort: Key,
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    interval: Millis,
    /// Write one table of what was counted since the node began, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    platform: Platform,
}

pub async fn run(options: &Options) -> Result<(), Failure> {
    let shortest = limits::USAGE_LOOK.default;
    if options.interval < shortest {
        let interval = options.interval;
        return Err(Failure::usage(format!(
            "`--interval` is {interval}; the shortest is {shortest}"
        )));
    }
    let client = Client::new(&options.platform)?;
    let usage: PlatformUsage = client.get(PATH).await?;
    if options.once || options.form.json || !io::stdout().is_terminal() {
        return once(options, &usage);
    }
    live(options, client, usage).await
}

fn once(options: &Options, usage: &PlatformUsage) -> Result<(), Failure> {
    let mut rows = rows::between(None, usage);
    rows::sort(&mut rows, options.sort);
    if options.form.json {
        return screen::json(&rows);
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| view::cells(row, None).to_vec())
        .collect();
    screen::table(&view::header(None), &rows)
}

/// Shows what there is and looks again, until somebody has seen enough.
async fn live(options: &Options, client: Client, usage: PlatformUsage) -> Result<(), Failure> {
    let mut end = End::new()?;
    let (told, news) = mpsc::channel(1);
    let watch = tokio::spawn(watch(client, options.interval.duration(), told));
    let mut terminal = Terminal::open();
    let ended = tokio::select! {
        ended = show(&mut terminal, options.sort, usage, news) => ended,
        // Also while nobody reads what is shown.
        () = end.told() => Ok(()),
    };
    watch.abort();
    terminal.give_back().await;
    ended
}

/// Shows the news as they come, sorted by what somebody wants, until nothing more is wanted.
async fn show(
    terminal: &mut Terminal,
    mut key: Key,
    usage: PlatformUsage,
    mut news: mpsc::Receiver<Result<PlatformUsage, Failure>>,
) -> Result<(), Failure> {
    let taken = terminal.taken().await;
    taken.or_fail(|| "taking the terminal".into())?;
    let mut presses = terminal::presses();
    let mut looks = VecDeque::from([usage]);
    let mut trouble = None;
    loop {
        let view = View::new(&looks, key, trouble.as_deref());
        let drawn = terminal.draw(move |frame| view.draw(frame)).await;
        drawn
            .map_err(|error| Failure::failed(format!("the terminal cannot be written: {error}")))?;
        tokio::select! {
            told = news.recv() => match told {
                Some(Ok(usage)) => {
                    trouble = None;
                    looks.push_back(usage);
                    if looks.len() > LOOKS {
                        looks.pop_front();
                    }
                }
                // Asking again will not help.
                Some(Err(failure)) if failure.exit == Exit::Refused => return Err(failure),
                Some(Err(failure)) => trouble = Some(failure.what),
                None => return Ok(()),
            },
            press = presses.recv() => match press {
                Some(Press::Sort(by)) => key = by,
                Some(Press::Redraw) => {}
                Some(Press::Quit) | None => return Ok(()),
            },
        }
    }
}

/// Looks again and again, as long as anyone wants to know.
async fn watch(
    client: Client,
    every: Duration,
    told: mpsc::Sender<Result<PlatformUsage, Failure>>,
) {
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first is at once, and was looked at already.
    due.tick().await;
    loop {
        due.tick().await;
        if told.send(client.get(PATH).await).await.is_err() {
            return;
        }
    }
}

/// The signals that end a command. Ctrl-C is a key while the terminal is taken, and a signal when another process sends it.
struct End([Signal; 3]);

impl End {
    fn new() -> Result<Self, Failure> {
        let on = |kind| signal(kind).or_fail(|| "listening for signals".into());
        Ok(Self([
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ]))
    }

    async fn told(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
