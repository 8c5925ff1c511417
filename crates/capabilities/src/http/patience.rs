//! A deadline on each piece that the other side owes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long each piece of a body may take to come.
pub struct Patience {
    wait: Duration,
    /// Made when a piece is first waited for: most are there already.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

/// A piece did not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue;

impl Patience {
    pub fn new(wait: Duration) -> Self {
        Self {
            wait,
            deadline: None,
            waiting: false,
        }
    }

    /// What was polled, unless it has been waited for too long.
    pub fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<T>,
    ) -> Poll<Result<T, Overdue>> {
        if let Poll::Ready(piece) = polled {
            self.waiting = false;
            return Poll::Ready(Ok(piece));
        }
        let due = || Instant::now() + self.wait;
        let deadline = match &mut self.deadline {
            Some(deadline) => {
                if !self.waiting {
                    deadline.as_mut().reset(due());
                }
                deadline
            }
            None => self.deadline.insert(Box::pin(sleep_until(due()))),
        };
        self.waiting = true;
        deadline.as_mut().poll(context).map(|()| Err(Overdue))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_piece_has_the_whole_time() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(2 * second);
        let mut pieces = 0;
        let mut next = Box::pin(tokio::time::sleep(second));
        let began = Instant::now();
        // A piece each second for five seconds, then none.
        let overdue = poll_fn(|context| {
            loop {
                let polled = match pieces < 5 {
                    true => next.as_mut().poll(context),
                    false => Poll::Pending,
                };
                match patience.poll(context, polled) {
                    Poll::Ready(Ok(())) => {
                        pieces += 1;
                        next.set(tokio::time::sleep(second));
                    }
                    Poll::Ready(Err(overdue)) => return Poll::Ready(overdue),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        assert_eq!(overdue.await, Overdue);
        assert_eq!(began.elapsed().as_secs(), 7);
    }
}
