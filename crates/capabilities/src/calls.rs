//! What becomes known of a guest's calls where its request is traced: the seam between every capability and whoever
//! keeps the trace.

use std::time::Instant;

use model::trace::{SpanId, TraceParent};

/// Hears of calls.
pub trait CallSink: Send + Sync + 'static {
    fn called(&self, called: Called);
    /// What a call that asks elsewhere tells whom it asks: a span of its own.
    fn child(&self) -> Option<TraceParent>;
}

/// One call that is over.
#[derive(Debug, Clone, Copy)]
pub struct Called {
    /// The capability and its function, such as `config.get`.
    pub name: &'static str,
    pub from: Instant,
    pub to: Instant,
    /// The span of [`CallSink::child`], for one that asked elsewhere.
    pub span: Option<SpanId>,
}

/// Makes a call, and tells `sink` of it if there is one; without one not even the clock is read.
pub fn told<R>(sink: Option<&dyn CallSink>, name: &'static str, call: impl FnOnce() -> R) -> R {
    let Some(sink) = sink else {
        return call();
    };
    let from = Instant::now();
    let result = call();
    let to = Instant::now();
    sink.called(Called {
        name,
        from,
        to,
        span: None,
    });
    result
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Heard(Mutex<Vec<Called>>);

    impl CallSink for Heard {
        fn called(&self, called: Called) {
            self.0.lock().unwrap().push(called);
        }

        fn child(&self) -> Option<TraceParent> {
            None
        }
    }

    #[test]
    fn a_call_is_told_when_it_is_over() {
        let heard = Heard(Mutex::default());
        assert_eq!(told(None, "config.get", || 1), 1);
        let began = Instant::now();
        let during = told(Some(&heard), "config.get", Instant::now);
        let calls = heard.0.into_inner().unwrap();
        assert_eq!((calls.len(), calls[0].name), (1, "config.get"));
        assert!(began <= calls[0].from && calls[0].from <= during && during <= calls[0].to);
    }
}
