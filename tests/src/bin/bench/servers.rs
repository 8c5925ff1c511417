//! What is compared: the platform and plain hyper, both on the bench's core.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use tests::{Platform, Settings, children, cpu_seconds, pin};

pub const CORE: usize = 0;

/// How often each is measured, by turns.
pub const ROUNDS: usize = 5;

/// Plain hyper, until it is dropped.
pub struct Plain {
    child: Child,
    pub address: SocketAddr,
}

impl Plain {
    /// Starts it with arguments that say what it speaks: `http1`, `http2`, or `tls CHAIN KEY`.
    pub fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("a program has a file");
        let mut command = Command::new(program.with_file_name("baseline"));
        command.args(arguments).stdout(Stdio::piped());
        let mut child = on_core(&mut command).spawn().expect("the baseline starts");
        let output = child.stdout.take().expect("its output is piped");
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .expect("it says its address");
        Self {
            child,
            address: line.trim().parse().expect("an address"),
        }
    }

    pub fn processes(&self) -> Vec<u32> {
        vec![self.child.id()]
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // One that has ended of itself need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The platform with one worker, on the bench's core.
pub fn platform(settings: Settings) -> Platform {
    Platform::start_with(Settings {
        config: format!("workers = 1\n{}", settings.config),
        core: Some(CORE),
        ..settings
    })
}

/// Its processes: supervisor and worker.
pub fn processes(platform: &Platform) -> Vec<u32> {
    let supervisor = platform.id();
    [supervisor]
        .into_iter()
        .chain(children(supervisor))
        .collect()
}

/// The CPU time that servers take for each of what `load` says it had of them, in microseconds.
pub fn cpu_us_each(servers: &[u32], load: impl FnOnce() -> f64) -> f64 {
    let used = || servers.iter().map(|id| cpu_seconds(*id)).sum::<f64>();
    let before = used();
    let count = load();
    (used() - before) / count * 1e6
}

/// Keeps what is started on the bench's core.
pub fn on_core(command: &mut Command) -> &mut Command {
    // SAFETY: `sched_setaffinity` is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            pin(CORE);
            Ok(())
        })
    }
}
