//! What waits for the collector: bounded, taken in batches, and counted where it is dropped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::limits;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::collector::NotTaken;

/// Records of one kind, of [`limits::OTLP_QUEUE`] in all.
pub struct Queue<T> {
    inner: Mutex<Inner<T>>,
    /// There are more records, or there will be none.
    news: Notify,
    dropped: AtomicU64,
}

struct Inner<T> {
    /// Each with its bytes.
    waiting: VecDeque<(T, u64)>,
    bytes: u64,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                waiting: VecDeque::new(),
                bytes: 0,
                closed: false,
            }),
            news: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }
}

impl<T> Queue<T> {
    /// Takes a record, or drops it and counts that.
    pub fn put(&self, record: T, bytes: u64) {
        let mut inner = self.lock();
        if inner.closed || inner.bytes + bytes > limits::OTLP_QUEUE.default.bytes() {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        inner.bytes += bytes;
        inner.waiting.push_back((record, bytes));
        let count = inner.waiting.len() as u64;
        drop(inner);
        if count == 1 || count == limits::OTLP_BATCH.default {
            self.news.notify_one();
        }
    }

    /// The oldest records, as soon as there are many or the first has waited a while; none when the queue is closed and
    /// empty.
    pub async fn batch(&self) -> Option<Vec<T>> {
        self.until(1).await;
        let gathered = self.until(limits::OTLP_BATCH.default as usize);
        // A few are sent as well.
        let _ = timeout(limits::OTLP_DELAY.default.duration(), gathered).await;
        let mut inner = self.lock();
        let count = inner.waiting.len().min(limits::OTLP_BATCH.default as usize);
        let batch: Vec<(T, u64)> = inner.waiting.drain(..count).collect();
        inner.bytes -= batch.iter().map(|(_, bytes)| bytes).sum::<u64>();
        drop(inner);
        let batch: Vec<T> = batch.into_iter().map(|(record, _)| record).collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Waits for so many records, or for the end.
    async fn until(&self, count: usize) {
        loop {
            {
                let inner = self.lock();
                if inner.closed || inner.waiting.len() >= count {
                    return;
                }
            }
            self.news.notified().await;
        }
    }

    /// What became of a batch of so many.
    pub fn sent(&self, count: u64, sent: Result<u64, NotTaken>) {
        let lost = sent.map_or(count, |refused| refused.min(count));
        self.dropped.fetch_add(lost, Relaxed);
    }

    /// Takes no more; what waits can still be had.
    pub fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_leave_in_order_and_in_batches_and_the_end_comes_last() {
        let queue = Queue::default();
        let most = limits::OTLP_BATCH.default;
        for number in 0..most + 2 {
            queue.put(number, 1);
        }
        assert_eq!(queue.batch().await, Some((0..most).collect()));
        assert_eq!(queue.batch().await, Some(vec![most, most + 1]));
        queue.put(7, 1);
        queue.close();
        queue.put(8, 1);
        assert_eq!(queue.batch().await, Some(vec![7]));
        assert_eq!(queue.batch().await, None);
        assert_eq!(queue.dropped(), 1);
    }

    #[tokio::test]
    async fn a_batch_comes_when_one_record_has_waited_a_while() {
        let queue = Queue::default();
        let (batch, ()) = tokio::join!(queue.batch(), async {
            tokio::task::yield_now().await;
            queue.put("one", 1);
            tokio::task::yield_now().await;
            queue.put("two", 1);
        });
        assert_eq!(batch, Some(vec!["one", "two"]));
    }

    #[tokio::test]
    async fn what_has_no_room_is_dropped_and_counted() {
        let queue = Queue::default();
        let half = limits::OTLP_QUEUE.default.bytes() / 2;
        for number in 0..4 {
            queue.put(number, half);
        }
        assert_eq!(queue.dropped(), 2);
        assert_eq!(queue.batch().await, Some(vec![0, 1]));
        queue.put(4, half);
        assert_eq!(queue.batch().await, Some(vec![4]));
        queue.sent(5, Err(NotTaken::Late));
        queue.sent(5, Ok(3));
        queue.sent(5, Ok(9));
        assert_eq!(queue.dropped(), 2 + 5 + 3 + 5);
    }
}
