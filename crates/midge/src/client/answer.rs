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
    let mut failure = Failure::new(exit, what(problem));
    failure.code = Some(problem.code.clone());
    match hint(problem) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// What to do without a token that holds.
pub const NEW_TOKEN: &str = "give another token with `--token` or `MIDGE_TOKEN`; where there is none, start the platform again: it leaves a new one as `admin.token` in its data folder";

/// What happened, without words that only who wrote the request knows.
fn what(problem: &Problem) -> String {
    let said = if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    };
    match problem.code.as_str() {
        "body-too-large" | "body-incomplete" => said.replace("the body", "what was sent"),
        code if NOT_UNDERSTOOD.contains(&code) => {
            format!("the platform does not understand this command ({code}: {said})")
        }
        _ => said.clone(),
    }
}

/// What no command of the platform's own release is answered with.
const NOT_UNDERSTOOD: [&str; 9] = [
    "not-found",
    "method-not-allowed",
    "path-malformed",
    "query-malformed",
    "media-type",
    "json-malformed",
    "json-too-deep",
    "body-unfit",
    "idempotency-malformed",
];

/// What only the command line knows to advise: the API's own words name no commands.
fn hint(problem: &Problem) -> Option<&'static str> {
    match (problem.code.as_str(), problem.status) {
        (code, _) if NOT_UNDERSTOOD.contains(&code) => Some(
            "use the `midge` of the platform's own release; `midge --version` says which this is",
        ),
        ("body-too-large", _) => Some(
            "build for release and strip it, or ask whoever runs the platform: `control.wasm` is what an upload may have",
        ),
        ("body-incomplete", _) => Some("try again; the connection may be slow or broken"),
        ("artifact-missing", _) => {
            Some("deploy it again; what was uploaded has been removed meanwhile")
        }
        ("too-many-apps-of-tenant", _) => Some(
            "`midge delete APP` makes room; who runs the platform gives more by `midge tenant limits TENANT --apps N`",
        ),
        ("no-earlier-version", _) => {
            Some("`midge rollback APP --to N` names one; `midge versions APP` lists them")
        }
        ("import-not-granted", _) => Some("grant it in the manifest, or deploy without `--strict`"),
        ("expiry-zero", _) => Some("give it a time such as `--expires 30d`, or leave that out"),
        ("token-not-found", _) => Some("`midge token list` lists the tokens there are"),
        ("app-not-found", _) => Some("`midge apps` lists the apps there are"),
        ("tenant-not-found" | "tenant-exists", _) => {
            Some("`midge tenant list` lists the tenants there are")
        }
        ("certificate-not-found", _) => {
            Some("`midge certificate list` lists the certificates there are")
        }
        ("version-not-found", _) => Some("`midge versions APP` lists the versions there are"),
        ("token-revoked" | "token-expired" | "token-unknown", _) => Some(NEW_TOKEN),
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
    fn who_wrote_no_request_reads_of_none() {
        let check = |code: &str, detail: &str, expected: &str| {
            let failure = refusal(&Problem::new(400, code, "title", detail));
            assert_eq!(failure.what, expected);
            assert!(failure.hint.is_some(), "{code}");
        };
        check(
            "body-too-large",
            "the body has 5MiB or more; this may have 1MiB",
            "what was sent has 5MiB or more; this may have 1MiB",
        );
        check(
            "not-found",
            "no such address",
            "the platform does not understand this command (not-found: no such address)",
        );
    }

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
        check(
            401,
            "token-revoked",
            Exit::Refused,
            "start the platform again",
        );
        check(422, "wasm-invalid", Exit::Refused, "");
        check(500, "internal", Exit::Failed, "midge status");
    }
}
