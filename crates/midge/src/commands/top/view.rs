//! How rows look: cells for a plain table, and the screen of a terminal.

use std::collections::VecDeque;
use std::time::Duration;

use model::api::PlatformUsage;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Row as Cells, Table};

use super::rows::{self, Key, Row};
use crate::failure::without_controls;
use crate::screen;

const COLUMNS: usize = 8;

/// What is on the screen at one moment.
pub struct View {
    rows: Vec<Row>,
    /// The time that the rows are of; none: since the node began.
    span: Option<Duration>,
    key: Key,
    trouble: Option<String>,
}

impl View {
    /// Of all that was looked at, oldest first; there is one look at least.
    pub fn new(looks: &VecDeque<PlatformUsage>, key: Key, trouble: Option<&str>) -> Self {
        let now = looks.back().expect("what is shown was looked at");
        let before = looks.front().filter(|before| before.at_ms < now.at_ms);
        let span = before.map(|before| Duration::from_millis(now.at_ms - before.at_ms));
        let mut rows = rows::between(before, now);
        rows::sort(&mut rows, key);
        Self {
            rows,
            span,
            key,
            trouble: trouble.map(str::to_owned),
        }
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let parts = [
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ];
        let [top, _, middle, bottom] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Line::from(self.summary()), top);
        // One line is the header's.
        let room = usize::from(middle.height.saturating_sub(1));
        let shown = self.rows.iter().take(room);
        let table = Table::new(
            shown.map(|row| Cells::new(self.aligned(cells(row, self.span)))),
            self.widths(),
        );
        frame.render_widget(table.header(self.header()).column_spacing(2), middle);
        frame.render_widget(self.last_line(room), bottom);
    }

    fn summary(&self) -> String {
        let (requests, errors, cpu_us) = self.rows.iter().fold((0, 0, 0), |sum, row| {
            (sum.0 + row.requests, sum.1 + row.errors, sum.2 + row.cpu_us)
        });
        let apps = self.rows.len();
        match self.span {
            None => {
                format!("{apps} apps since the node began: {requests} requests, {errors} errors")
            }
            Some(span) => {
                let seconds = span.as_secs_f64();
                let requests = requests as f64 / seconds;
                let errors = errors as f64 / seconds;
                let cpu = share(cpu_us, span);
                format!(
                    "{apps} apps in the last {seconds:.1} s: {requests:.1} requests/s, {errors:.1} errors/s, {cpu} of a core"
                )
            }
        }
    }

    fn header(&self) -> Cells<'static> {
        let sorted = match self.key {
            Key::Requests => 1,
            Key::Errors => 2,
            Key::Latency => 4,
            Key::Cpu => 5,
            Key::Memory => 6,
        };
        let header = header(self.span).map(str::to_owned);
        let lines = self.aligned(header).into_iter().enumerate();
        let styled = lines.map(|(column, line)| match column == sorted {
            true => line.style(Modifier::REVERSED),
            false => line,
        });
        Cells::new(styled).style(Style::new().add_modifier(Modifier::BOLD))
    }

    /// Names to the left, numbers to the right.
    fn aligned(&self, cells: [String; COLUMNS]) -> Vec<Line<'static>> {
        let cells = cells.into_iter().enumerate();
        cells
            .map(|(column, cell)| match column {
                0 => Line::from(cell),
                _ => Line::from(cell).right_aligned(),
            })
            .collect()
    }

    fn widths(&self) -> Vec<Constraint> {
        let numbers = (1..COLUMNS).map(|_| Constraint::Length(10));
        std::iter::once(Constraint::Min(12))
            .chain(numbers)
            .collect()
    }

    fn last_line(&self, room: usize) -> Line<'static> {
        if let Some(trouble) = &self.trouble {
            let text = format!("no news: {}", without_controls(trouble));
            return Line::styled(text, Modifier::REVERSED);
        }
        let keys = "sort by: r requests  l latency  c cpu  m memory  e errors    q quit";
        let mut line = Line::from(keys);
        let hidden = self.rows.len().saturating_sub(room);
        if hidden > 0 {
            line.push_span(Span::raw(format!("    {hidden} apps more")));
        }
        line
    }
}

/// The columns; rates where there is a time that they are of.
pub fn header(span: Option<Duration>) -> [&'static str; COLUMNS] {
    match span {
        Some(_) => [
            "app", "req/s", "err/s", "p50", "p99", "cpu", "memory", "out/s",
        ],
        None => [
            "app", "requests", "errors", "p50", "p99", "cpu", "memory", "out",
        ],
    }
}

/// An app's cells, by [`header`].
pub fn cells(row: &Row, span: Option<Duration>) -> [String; COLUMNS] {
    let count = |count: u64| match span {
        Some(span) => format!("{:.1}", count as f64 / span.as_secs_f64()),
        None => count.to_string(),
    };
    let latency = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), duration);
    [
        format!("{}/{}", row.tenant, row.app),
        count(row.requests),
        count(row.errors),
        latency(row.p50_us),
        latency(row.p99_us),
        match span {
            Some(span) => share(row.cpu_us, span),
            None => duration(row.cpu_us),
        },
        screen::size(row.memory_peak_bytes),
        match span {
            Some(span) => screen::size((row.bytes_out as f64 / span.as_secs_f64()) as u64),
            None => screen::size(row.bytes_out),
        },
    ]
}

/// CPU time as a share of one core.
fn share(cpu_us: u64, span: Duration) -> String {
    format!("{:.1} %", cpu_us as f64 / 1e4 / span.as_secs_f64())
}

fn duration(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::rows::tests::usage;
    use super::*;

    fn drawn(view: &View, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let text = terminal.backend().to_string();
        let plain = |line: &str| line.trim_matches('"').trim_end().to_owned();
        text.lines().map(plain).collect()
    }

    fn looks() -> VecDeque<PlatformUsage> {
        VecDeque::from([
            usage(10_000, &[("shop", [10, 0, 0, 1 << 20], &[10])]),
            usage(
                12_000,
                &[
                    ("blog", [4, 4, 1_000, 2 << 20], &[0, 0, 4]),
                    ("shop", [110, 1, 500_000, 1 << 20], &[110]),
                ],
            ),
        ])
    }

    #[test]
    fn the_screen_shows_rates_sorted_and_the_keys() {
        let looks = looks();
        let lines = drawn(&View::new(&looks, Key::Errors, None), 8);
        let expected = [
            "2 apps in the last 2.0 s: 52.0 requests/s, 2.5 errors/s, 25.1 % of a core",
            "",
            "app                    req/s       err/s         p50         p99         cpu      memory       out/s",
            "alice/blog               2.0         2.0      5.5 ms     10.0 ms       0.1 %     2.0 MiB        20 B",
            "alice/shop              50.0         0.5      0.1 ms      0.1 ms      25.0 %     1.0 MiB       500 B",
            "",
            "",
            "sort by: r requests  l latency  c cpu  m memory  e errors    q quit",
        ];
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(words(line), words(expected), "{lines:#?}");
        }
        let by_requests = drawn(&View::new(&looks, Key::Requests, None), 8);
        assert!(by_requests[3].starts_with("alice/shop"), "{by_requests:#?}");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_trouble_is_told() {
        let looks = looks();
        let low = drawn(&View::new(&looks, Key::Requests, None), 5);
        assert!(low[4].ends_with("1 apps more"), "{low:#?}");
        let trouble = View::new(&looks, Key::Requests, Some("gone\u{1b}[2J"));
        let lines = drawn(&trouble, 8);
        assert_eq!(lines[7], "no news: gone\\u{1b}[2J");
    }

    #[test]
    fn the_first_look_shows_what_was_counted_so_far() {
        let mut looks = looks();
        looks.pop_front();
        let lines = drawn(&View::new(&looks, Key::Requests, None), 8);
        assert!(
            lines[0].starts_with("2 apps since the node began: 114 requests"),
            "{lines:#?}"
        );
        assert_eq!(header(None)[1], "requests");
    }
}
