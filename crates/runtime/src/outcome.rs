//! Judging a failed guest: which outcome it is, and what its owner's log says of it.

use capabilities::http::HostMemoryLimit;
use model::{Outcome, limits};
use wasmtime::PoolConcurrencyLimitError;

use crate::cgi::BadHead;
use crate::vitals::Vitals;

/// Ways to end that are no trap and no answer.
#[derive(Debug, thiserror::Error)]
pub enum Misbehaviour {
    #[error("the guest returned without an answer: set the response before the handler returns")]
    NoResponse,
    #[error("the guest ended without finishing the body of its answer")]
    BodyUnfinished,
    #[error("the command exited with status {0}")]
    Exit(i32),
    #[error("the command's output is not a reply: {0}")]
    Head(#[from] BadHead),
}

impl Misbehaviour {
    fn outcome(&self) -> Outcome {
        match self {
            Self::NoResponse | Self::Head(BadHead::Nothing) => Outcome::NoResponse,
            Self::BodyUnfinished | Self::Head(_) => Outcome::BadResponse,
            Self::Exit(_) => Outcome::Trap,
        }
    }
}

/// What an app's owner reads when a limit was met.
pub fn over(name: &str, what: &str) -> String {
    format!("the {what} ran out; `{name}` in the manifest sets it\n")
}

/// The outcome of a guest that failed with `error`, and the text for its owner.
pub fn judge(error: &wasmtime::Error, vitals: &Vitals) -> (Outcome, String) {
    let outcome = if vitals.over_budget() {
        Outcome::CpuLimit
    } else if error.is::<PoolConcurrencyLimitError>() {
        Outcome::Overloaded
    } else if error.is::<HostMemoryLimit>() {
        return (Outcome::MemoryLimit, format!("{error:?}"));
    } else if vitals.memory_denied() {
        Outcome::MemoryLimit
    } else if let Some(misbehaviour) = error.downcast_ref::<Misbehaviour>() {
        misbehaviour.outcome()
    } else {
        Outcome::Trap
    };
    let advice = match outcome {
        Outcome::CpuLimit => over(limits::CPU.name, "CPU time"),
        Outcome::MemoryLimit => over(limits::MEMORY.name, "memory"),
        _ => String::new(),
    };
    (outcome, format!("{advice}{error:?}"))
}
