//! The ticker: moves the engines' epochs on each millisecond while a guest runs, and sleeps while none does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(1);
/// After this many ticks without a guest the ticker sleeps; waking it costs a system call.
const IDLE_TICKS: u32 = 50;

/// Owns the ticking thread, which ends with it.
pub struct Ticker {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    running: AtomicUsize,
    asleep: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    pub fn start(engines: [wasmtime::Engine; 2]) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let shared = state.clone();
        let thread = thread::Builder::new()
            .name("ticker".into())
            .spawn(move || {
                ask_to_run_soon();
                tick(&shared, &engines);
            })?;
        Ok(Self {
            state,
            thread: Some(thread),
        })
    }

    /// While the returned value lives, a guest runs.
    pub fn running(&self) -> Running<'_> {
        self.state.running.fetch_add(1, SeqCst);
        if self.state.asleep.load(SeqCst) && self.state.asleep.swap(false, SeqCst) {
            self.wake();
        }
        Running(&self.state)
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, SeqCst);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A ticker that panicked has nothing more to end.
            let _ = thread.join();
        }
    }
}

/// A guest runs.
pub struct Running<'a>(&'a State);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// Asks the kernel to let this thread run as soon as it wakes: where it shares a core with the guest that it is to
/// interrupt, the guest would else run on for several ticks. Kernels before 6.12 hear it and do nothing.
fn ask_to_run_soon() {
    /// The shortest slice that the kernel gives (`sched_setattr(2)`, `sched_runtime`).
    const SLICE_NS: u64 = 100_000;
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_policy = libc::SCHED_OTHER as u32;
    attributes.sched_runtime = SLICE_NS;
    // A worker may have been started with another niceness than the usual.
    // SAFETY: asks about this thread only.
    attributes.sched_nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: the structure is whole and outlives the call; the other arguments are this thread and no flags.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

fn tick(state: &State, engines: &[wasmtime::Engine]) {
    let mut idle = 0;
    while !state.stopped.load(SeqCst) {
        thread::sleep(TICK);
        if state.running.load(SeqCst) > 0 {
            for engine in engines {
                engine.increment_epoch();
            }
            idle = 0;
            continue;
        }
        idle += 1;
        if idle >= IDLE_TICKS {
            state.asleep.store(true, SeqCst);
            // A guest that began before it could see us asleep did not wake us.
            while state.asleep.load(SeqCst)
                && state.running.load(SeqCst) == 0
                && !state.stopped.load(SeqCst)
            {
                thread::park();
            }
            state.asleep.store(false, SeqCst);
            idle = 0;
        }
    }
}
