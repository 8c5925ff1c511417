//! What comes back: problems turned into words, and streams cut into lines.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::api::Problem;
use model::limits;

use crate::failure::{Exit, Failure};

/// What a problem of the API means to the person at the terminal.
pub fn refusal(problem: &Problem) -> Failure {
    let exit = match problem.status {
        400..=499 => Exit::Refused,
        _ => Exit::Failed,
    };
    let what = if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    };
    let failure = Failure::new(exit, what.clone());
    match hint(problem) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What only the command line knows to advise: the API's own words name no commands.
fn hint(problem: &Problem) -> Option<&'static str> {
    match (problem.code.as_str(), problem.status) {
        ("app-not-found", _) => Some("`midge apps` lists the apps there are"),
        ("tenant-not-found" | "tenant-exists", _) => {
            Some("`midge tenant list` lists the tenants there are")
        }
        ("version-not-found", _) => Some("`midge versions APP` lists the versions there are"),
        (_, 401) => Some(
            "give another token with `--token` or `MIDGE_TOKEN`; `midge token create` makes one",
        ),
        (_, 403) => Some("ask whoever runs the platform for a token that reaches this"),
        (_, 500..=599) => Some("`midge status` says how the platform is; its log says more"),
        _ => None,
    }
}

/// The lines of a streamed answer.
pub struct Lines {
    body: Incoming,
    held: BytesMut,
}

impl Lines {
    pub fn new(body: Incoming) -> Self {
        Self {
            body,
            held: BytesMut::new(),
        }
    }

    /// The next line without its end; `None` when the platform has said everything.
    ///
    /// # Errors
    /// The stream broke: there may be more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let broke = |why: &str| {
            let what = format!("the platform's answer broke off: {why}");
            Failure::new(Exit::Unreachable, what).hint("`midge status` says whether it runs")
        };
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(end + 1).freeze();
                return Ok(Some(line.slice(..end)));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Ok(data) = frame
                .map_err(|error| broke(&error.to_string()))?
                .into_data()
            {
                self.held.extend_from_slice(&data);
            }
            if self.held.len() as u64 > limits::CLIENT_REPLY.default.bytes() {
                return Err(broke("it sent a line without end"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_and_a_failure_of_the_platform_end_differently() {
        let check = |status: u16, code: &str, exit: Exit, part: &str| {
            let failure = refusal(&Problem::new(status, code, "title", "the detail"));
            assert_eq!(failure.exit, exit);
            assert_eq!(failure.what, "the detail");
            assert!(failure.hint.unwrap_or_default().contains(part), "{code}");
        };
        check(401, "token-unknown", Exit::Refused, "--token");
        check(403, "forbidden", Exit::Refused, "token");
        check(404, "app-not-found", Exit::Refused, "midge apps");
        check(404, "version-not-found", Exit::Refused, "midge versions");
        check(422, "wasm-invalid", Exit::Refused, "");
        check(500, "internal", Exit::Failed, "midge status");
    }
}
