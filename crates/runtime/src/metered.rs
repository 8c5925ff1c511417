//! A guest polled in turns whose CPU time is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use model::{Outcome, limits};

use crate::Engine;
use crate::outcome::{judge, over};
use crate::turns::Place;
use crate::vitals::Vitals;

/// Polls a guest in its turns.
pub struct Metered<'a, F> {
    /// Dropped with its store as soon as the guest has ended.
    guest: Option<Pin<Box<F>>>,
    vitals: &'a Vitals,
    engine: &'a Engine,
    place: Place<'a>,
}

/// How a guest stopped.
pub enum End {
    Returned(wasmtime::Result<()>),
    OverBudget,
    Panicked,
    /// Its wall time ran out.
    Late,
}

impl End {
    /// The outcome, and the text for the app's owner.
    pub fn judge(self, vitals: &Vitals) -> (Outcome, Option<String>) {
        let (outcome, text) = match self {
            Self::Late => (Outcome::WallLimit, over(limits::WALL.name, "wall time")),
            Self::OverBudget => (Outcome::CpuLimit, over(limits::CPU.name, "CPU time")),
            Self::Panicked => return (Outcome::Internal, None),
            Self::Returned(Ok(())) => return (Outcome::Ok, None),
            Self::Returned(Err(error)) => judge(&error, vitals),
        };
        (outcome, Some(text))
    }
}

impl<'a, F> Metered<'a, F> {
    pub fn new(
        guest: Pin<Box<F>>,
        vitals: &'a Vitals,
        engine: &'a Engine,
        place: Place<'a>,
    ) -> Self {
        Self {
            guest: Some(guest),
            vitals,
            engine,
            place,
        }
    }

    /// Frees a guest that has not ended, as the last of its turns.
    pub fn free(&mut self) {
        if self.guest.is_some() {
            self.vitals.begin_turn();
            // What panics here has nobody left to tell.
            let _ = catch_unwind(AssertUnwindSafe(|| self.guest = None));
            self.vitals.end_turn();
        }
    }
}

impl<F: Future<Output = wasmtime::Result<()>>> Future for Metered<'_, F> {
    type Output = End;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        let long = this.vitals.is_long();
        if this.place.poll_turn(long, context).is_pending() {
            return Poll::Pending;
        }
        let _running = this.engine.ticker().running();
        this.vitals.begin_turn();
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let guest = this
                .guest
                .as_mut()
                .expect("a guest that has ended is not polled again");
            let polled = guest.as_mut().poll(context);
            if polled.is_ready() {
                this.guest = None;
            }
            polled
        }));
        this.place.took(this.vitals.end_turn());
        let end = match polled {
            Ok(Poll::Pending) if !this.vitals.over_budget() => return Poll::Pending,
            Ok(Poll::Pending) => End::OverBudget,
            Ok(Poll::Ready(returned)) => return Poll::Ready(End::Returned(returned)),
            Err(_) => End::Panicked,
        };
        // What a panic left behind may panic again.
        if catch_unwind(AssertUnwindSafe(|| this.guest = None)).is_err() {
            return Poll::Ready(End::Panicked);
        }
        Poll::Ready(end)
    }
}
