//! The keys of TLS tickets: made here, kept in memory alone, given to every worker, replaced while the node runs.
//!
//! A key seals for [`limits::TICKET_KEY`], and opens for as long again: that is how long a ticket holds at least.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::limits;
use model::ticket::{TicketKey, TicketKeys};
use tokio::sync::watch;

use super::Notice;

/// How long it is waited when there was no randomness for a new key.
const RETRY: Duration = Duration::from_secs(60);

/// Those that a node begins with: what it was handed, else new ones.
pub fn begin(handed: Option<TicketKeys>) -> Result<TicketKeys, getrandom::Error> {
    match handed {
        Some(keys) => Ok(keys),
        None => Ok(TicketKeys {
            newest: make()?,
            before: None,
            made_ms: now_ms(),
        }),
    }
}

/// Replaces them when their time has come, for as long as the node runs.
pub async fn replace(keys: watch::Sender<TicketKeys>, notice: Notice) {
    loop {
        let wait = left(keys.borrow().made_ms, now_ms());
        tokio::time::sleep(wait).await;
        match make() {
            Ok(newest) => keys.send_modify(|keys| *keys = after(keys, newest, now_ms())),
            Err(error) => {
                notice(&format!(
                    "the keys of TLS tickets cannot be replaced, those before are used on: {error}"
                ));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// How long a key that was made then seals yet. A clock that was set back lengthens that to no more than a whole turn.
fn left(made_ms: u64, now_ms: u64) -> Duration {
    let turn = limits::TICKET_KEY.default;
    let ends = made_ms.saturating_add(turn.0);
    Duration::from_millis(ends.saturating_sub(now_ms).min(turn.0))
}

fn after(keys: &TicketKeys, newest: TicketKey, now_ms: u64) -> TicketKeys {
    TicketKeys {
        newest,
        before: Some(keys.newest.clone()),
        made_ms: now_ms,
    }
}

fn make() -> Result<TicketKey, getrandom::Error> {
    let mut key = TicketKey {
        name: [0; 16],
        secret: [0; 32],
    };
    getrandom::fill(&mut key.name)?;
    getrandom::fill(&mut key.secret)?;
    Ok(key)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_seals_for_one_turn_and_opens_for_two() {
        let first = begin(None).unwrap();
        assert_eq!(first.before, None);
        let second = after(&first, make().unwrap(), 7);
        assert_eq!(second.before, Some(first.newest.clone()));
        assert_eq!(second.made_ms, 7);
        assert_ne!(second.newest, first.newest);
        let third = after(&second, make().unwrap(), 8);
        assert_eq!(third.before, Some(second.newest));
    }

    #[test]
    fn a_turn_goes_on_where_another_process_began_it() {
        let turn = limits::TICKET_KEY.default.0;
        let check = |made_ms, now_ms, expected| {
            let expected = Duration::from_millis(expected);
            assert_eq!(left(made_ms, now_ms), expected, "{made_ms} {now_ms}");
        };
        check(1_000, 1_000, turn);
        check(1_000, 5_000, turn - 4_000);
        check(1_000, 1_000 + turn, 0);
        check(1_000, 2_000 + turn, 0);
        // The clock was set back.
        check(2_000 + turn, 1_000, turn);
        check(u64::MAX, 1_000, turn);
        let handed = begin(None).unwrap();
        assert_eq!(begin(Some(handed.clone())).unwrap(), handed);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_replaced_when_their_time_has_come() {
        let first = begin(None).unwrap();
        let keys = watch::Sender::new(first.clone());
        let mut seen = keys.subscribe();
        let replacing = tokio::spawn(replace(keys, std::sync::Arc::new(|_| {})));
        seen.changed().await.unwrap();
        let second = seen.borrow_and_update().clone();
        assert_eq!(second.before, Some(first.newest));
        seen.changed().await.unwrap();
        assert_eq!(seen.borrow().before, Some(second.newest));
        replacing.abort();
    }
}
