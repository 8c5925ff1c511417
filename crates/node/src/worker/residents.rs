//! Resident code: what this worker has loaded, the least used let go; and the one way in for what it has not.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use model::{Digest, EngineSetting, GuestKind, Millis, Outcome, limits};
use tokio::sync::oneshot;

use super::lru::Lru;

/// An upload, and how it is run.
pub type Key = (Digest, GuestKind);

/// Why code is not resident, and will not be in time for this request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error(
        "{} apps are being loaded in this worker already; retry in a moment",
        limits::LOADING.default
    )]
    Busy,
    #[error("the native code did not come within {}", limits::NATIVE_WAIT.default)]
    Late,
    #[error("the native code was refused: {0}")]
    Refused(Arc<str>),
}

impl Missing {
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Busy => Outcome::Overloaded,
            Self::Late | Self::Refused(_) => Outcome::Unavailable,
        }
    }
}

/// Code of the kind `C` by its upload; each asked for once, however many requests want it.
pub struct Residents<C> {
    state: RefCell<State<C>>,
}

struct State<C> {
    codes: Lru<Key, Resident<C>>,
    loading: HashMap<Key, Loading<C>>,
    /// Code that an app has left, and the second in which it did.
    retired: VecDeque<(Key, u32)>,
}

struct Resident<C> {
    code: Arc<C>,
    /// The second of its last use.
    used: u32,
}

struct Loading<C> {
    since: u32,
    waiting: Vec<oneshot::Sender<Result<Arc<C>, Missing>>>,
}

impl<C> Residents<C> {
    /// At most `capacity` at once; the operator's ceiling makes it fit.
    pub fn new(capacity: u64) -> Self {
        let capacity = usize::try_from(capacity.max(1)).unwrap_or(usize::MAX);
        Self {
            state: RefCell::new(State {
                codes: Lru::new(capacity),
                loading: HashMap::new(),
                retired: VecDeque::new(),
            }),
        }
    }

    pub fn len(&self) -> u64 {
        self.state.borrow().codes.len() as u64
    }

    /// The code, if it is resident; in `second` it was used.
    pub fn find(&self, key: &Key, second: u32) -> Option<Arc<C>> {
        let mut state = self.state.borrow_mut();
        let resident = state.codes.get(key)?;
        resident.used = second;
        Some(resident.code.clone())
    }

    /// Waits for code that is not resident. The first to want it calls `ask`, the others wait with it.
    pub async fn load(&self, key: Key, second: u32, ask: impl FnOnce()) -> Result<Arc<C>, Missing> {
        let (loaded, result) = oneshot::channel();
        {
            let mut state = self.state.borrow_mut();
            if let Some(loading) = state.loading.get_mut(&key) {
                loading.waiting.push(loaded);
            } else if state.loading.len() as u64 >= limits::LOADING.default {
                return Err(Missing::Busy);
            } else {
                let loading = Loading {
                    since: second,
                    waiting: vec![loaded],
                };
                state.loading.insert(key, loading);
                ask();
            }
        }
        // Who waits is let go by `tick`, whether an answer comes or not.
        result.await.unwrap_or(Err(Missing::Late))
    }

    /// The supervisor's answer: native code for whoever wants it, or why there is none. Returns what had to go for it:
    /// taking code apart takes some tens of microseconds, which nobody who waits here should wait for too.
    #[must_use = "what is dropped at once delays who waits"]
    pub fn arrived(
        &self,
        wasm: Digest,
        setting: EngineSetting,
        second: u32,
        native: Result<OwnedFd, String>,
        load: impl Fn(GuestKind, OwnedFd) -> Result<C, String>,
    ) -> Vec<Arc<C>> {
        let mut gone = Vec::new();
        let mut state = self.state.borrow_mut();
        let answers = |key: &Key| key.0 == wasm && key.1.setting() == setting;
        let wanted: Vec<Key> = state.loading.keys().copied().filter(answers).collect();
        for key in wanted {
            let loading = state.loading.remove(&key).expect("it was just listed");
            let loaded = match &native {
                Ok(native) => native
                    .try_clone()
                    .map_err(|e| e.to_string())
                    .and_then(|native| load(key.1, native)),
                Err(refusal) => Err(refusal.clone()),
            };
            let result = loaded
                .map(Arc::new)
                .map_err(|refusal| Missing::Refused(refusal.into()));
            if let Ok(code) = &result {
                let code = code.clone();
                let evicted = state.codes.insert(key, Resident { code, used: second });
                gone.extend(evicted.map(|resident| resident.code));
            }
            for waiter in loading.waiting {
                // Who no longer waits has gone with its client.
                let _ = waiter.send(result.clone());
            }
        }
        gone
    }

    /// An app has left this code; if nothing uses it from now on, it goes after [`limits::RETIRED`].
    pub fn retire(&self, key: Key, second: u32) {
        let mut state = self.state.borrow_mut();
        if state.codes.peek(&key).is_some() {
            state.retired.push_back((key, second));
        }
    }

    /// A second has passed: lets go of who waits too long, and of code that is left.
    pub fn tick(&self, now: u32) {
        let mut state = self.state.borrow_mut();
        let passed =
            |since: u32, limit: Millis| u64::from(now.saturating_sub(since)) * 1000 >= limit.0;
        state
            .loading
            .retain(|_, loading| !passed(loading.since, limits::NATIVE_WAIT.default));
        while let Some((key, since)) = state.retired.front().copied()
            && passed(since, limits::RETIRED.default)
        {
            state.retired.pop_front();
            if state
                .codes
                .peek(&key)
                .is_some_and(|code| code.used <= since)
            {
                state.codes.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    const KIND: GuestKind = GuestKind::HttpComponent;

    fn key(number: u8) -> Key {
        (Digest::from_bytes([number; 32]), KIND)
    }

    fn file() -> Result<OwnedFd, String> {
        Ok(tempfile::tempfile().unwrap().into())
    }

    fn arrive(residents: &Residents<u8>, number: u8, second: u32) -> Vec<Arc<u8>> {
        residents.arrived(
            key(number).0,
            EngineSetting::A,
            second,
            file(),
            |kind, _| {
                assert_eq!(kind, KIND);
                Ok(number)
            },
        )
    }

    #[tokio::test]
    async fn code_is_asked_for_once_and_given_to_all_who_want_it() {
        let residents = Residents::new(4);
        let asked = Cell::new(0);
        let wants = (0..5).map(|_| residents.load(key(1), 0, || asked.set(asked.get() + 1)));
        let supervisor = async { drop(arrive(&residents, 1, 0)) };
        let (got, ()) = tokio::join!(join_all(wants), supervisor);
        assert!(got.iter().all(|code| **code.as_ref().unwrap() == 1));
        assert_eq!((asked.get(), residents.len()), (1, 1));
        assert_eq!(residents.find(&key(1), 0).as_deref(), Some(&1));
        assert!(residents.find(&key(2), 0).is_none());
    }

    #[tokio::test]
    async fn a_refusal_reaches_who_waits_and_the_next_asks_again() {
        let residents = Residents::<u8>::new(4);
        for _ in 0..2 {
            let asked = Cell::new(false);
            let want = residents.load(key(1), 0, || asked.set(true));
            let supervisor = async {
                let refusal = Err("no such file".to_owned());
                let gone = residents.arrived(
                    key(1).0,
                    EngineSetting::A,
                    0,
                    refusal,
                    |_, _| unreachable!(),
                );
                assert!(gone.is_empty());
            };
            let (got, ()) = tokio::join!(want, supervisor);
            let missing = got.unwrap_err();
            assert_eq!(
                missing.to_string(),
                "the native code was refused: no such file"
            );
            assert_eq!(missing.outcome(), Outcome::Unavailable);
            assert!(asked.get());
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_not_waited_for() {
        let residents = Residents::<u8>::new(4);
        let waits = async {
            for second in 0..=30 {
                tokio::task::yield_now().await;
                residents.tick(second);
            }
            // Nobody waits any more.
            assert!(arrive(&residents, 1, 31).is_empty());
        };
        let (got, ()) = tokio::join!(residents.load(key(1), 0, || {}), waits);
        assert_eq!(got.unwrap_err(), Missing::Late);
        assert_eq!(residents.len(), 0);
    }

    #[tokio::test]
    async fn only_so_many_are_loaded_at_once() {
        let residents = Residents::<u8>::new(100);
        let loads = (0..65).map(|number| residents.load(key(number), 0, || {}));
        let supervisor = async {
            tokio::task::yield_now().await;
            (0..64).for_each(|number| drop(arrive(&residents, number, 0)));
        };
        let (got, ()) = tokio::join!(join_all(loads), supervisor);
        assert_eq!(got.iter().filter(|code| code.is_ok()).count(), 64);
        assert_eq!(got[64], Err(Missing::Busy));
        assert_eq!(Missing::Busy.outcome(), Outcome::Overloaded);
    }

    #[tokio::test]
    async fn code_in_use_outlives_its_eviction() {
        let residents = Residents::new(1);
        let (first, gone) = tokio::join!(residents.load(key(1), 0, || {}), async {
            arrive(&residents, 1, 0)
        });
        assert!(gone.is_empty());
        let (second, gone) = tokio::join!(residents.load(key(2), 0, || {}), async {
            arrive(&residents, 2, 0)
        });
        assert_eq!((*first.unwrap(), *second.unwrap()), (1, 2));
        assert_eq!(*gone[0], 1);
        assert_eq!(residents.len(), 1);
        assert!(residents.find(&key(1), 0).is_none());
    }

    #[tokio::test]
    async fn code_that_its_app_left_goes_unless_it_is_used_again() {
        let residents = Residents::new(4);
        for number in [1, 2] {
            let load = residents.load(key(number), 0, || {});
            let (got, _) = tokio::join!(load, async { arrive(&residents, number, 0) });
            got.unwrap();
            residents.retire(key(number), 5);
        }
        residents.retire(key(3), 5);
        residents.find(&key(2), 6);
        residents.tick(14);
        assert_eq!(residents.len(), 2);
        residents.tick(15);
        assert!(residents.find(&key(1), 15).is_none());
        assert_eq!(residents.len(), 1);
        assert!(residents.state.borrow().retired.is_empty());
    }
}
