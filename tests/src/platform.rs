//! The whole platform, for one test: the real binary on ports of its own, in a temporary folder, gone afterwards.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use model::api::Deployed;
use model::upgrade::Upgraded;
use model::{AppName, Manifest, TenantName};
use tempfile::TempDir;

use crate::{
    Api, Connection, Http2, Ran, Reply, command_line, descendants, eventually, guest, lives,
    parent, run, workers,
};

/// The binary, built in the same profile as this program.
pub fn binary() -> PathBuf {
    let path = guest::built().join("midge");
    assert!(
        path.exists(),
        "`{}` is not built; `cargo build --release -p midge` builds it",
        path.display()
    );
    path
}

/// How a platform is started.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `midge.config.toml`
    pub config: String,
    /// Files beside it, by their names.
    pub files: Vec<(String, String)>,
    /// Flags beyond those that every test needs.
    pub flags: Vec<String>,
    /// Environment variables beyond those that every test has.
    pub environment: Vec<(String, String)>,
    /// What takes its standard output, instead of the log of the test.
    pub stdout: Option<PathBuf>,
    /// The core that the platform stays on.
    pub core: Option<usize>,
}

/// A running platform. Dropping it ends it.
pub struct Platform {
    process: Option<Process>,
    folder: TempDir,
    settings: Settings,
    /// Where apps answer.
    pub listen: SocketAddr,
    pub api: Api,
    /// From the start of the process to its word that it is ready.
    pub ready_in: Duration,
}

/// The supervisor's process.
enum Process {
    Started(Child),
    /// Started by the platform itself, in the place of the one before.
    Successor(u32),
}

impl Process {
    fn id(&self) -> u32 {
        match self {
            Self::Started(child) => child.id(),
            Self::Successor(id) => *id,
        }
    }

    /// How it ended, if it has; of a successor only that.
    fn try_wait(&mut self) -> Option<ExitStatus> {
        match self {
            Self::Started(child) => child.try_wait().expect("a child can be waited for"),
            Self::Successor(id) => parent(*id).is_none().then(ExitStatus::default),
        }
    }

    fn kill(&mut self) {
        match self {
            Self::Started(child) => {
                child.kill().expect("a child can be killed");
                child.wait().expect("a child can be waited for");
            }
            Self::Successor(id) => {
                // SAFETY: a signal to a process of ours; one that is gone needs none.
                unsafe { libc::kill(*id as libc::pid_t, libc::SIGKILL) };
                eventually("it is gone", || self.try_wait());
            }
        }
    }
}

impl Platform {
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    /// Starts with lines of `midge.config.toml`.
    pub fn configured(config: &str) -> Self {
        Self::start_with(Settings {
            config: config.to_owned(),
            ..Settings::default()
        })
    }

    pub fn start_with(settings: Settings) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("midge-test-")
            .tempdir()
            .expect("a temporary folder");
        for (name, text) in &settings.files {
            fs::write(folder.path().join(name), text).expect("a file can be written");
        }
        let (process, ready, ready_in) =
            begin(folder.path(), &settings).unwrap_or_else(|said| panic!("{said}"));
        let (listen, api) = addresses(folder.path(), &ready);
        Self {
            process: Some(Process::Started(process)),
            folder,
            settings,
            listen,
            api,
            ready_in,
        }
    }

    /// Where apps answer over TLS, if the settings say so: the last of all addresses.
    pub fn tls(&self) -> SocketAddr {
        let ready = fs::read_to_string(self.folder().join("ready")).expect("it is ready");
        let ready: serde_json::Value = serde_json::from_str(&ready).expect("it is JSON");
        let last = ready["listen"].as_array().and_then(|all| all.last());
        let last = last.and_then(|last| last.as_str()?.parse().ok());
        last.unwrap_or_else(|| panic!("no addresses: {ready}"))
    }

    /// The temporary folder: `data`, and whatever a test puts beside it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// What the platform wrote to its standard output and error.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// The newest log lines of requests whose outcome was not `ok`.
    fn ended_badly(&self) -> String {
        let files = fs::read_dir(self.data().join("node/logs"));
        let files = files.into_iter().flatten().flatten();
        let text: String = files
            .filter_map(|file| fs::read_to_string(file.path()).ok())
            .collect();
        let bad =
            |line: &&str| line.contains("\"outcome\":") && !line.contains("\"outcome\":\"ok\"");
        let lines: Vec<&str> = text.lines().filter(bad).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The supervisor's process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the platform runs").id()
    }

    pub fn workers(&self) -> Vec<u32> {
        workers(self.id())
    }

    /// Sends a signal to one of the platform's processes.
    pub fn signal(&self, id: u32, signal: i32) {
        // SAFETY: a signal to a process of ours.
        let sent = unsafe { libc::kill(id as libc::pid_t, signal) };
        assert_eq!(sent, 0, "process {id} is gone");
    }

    /// Waits for the platform to end by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("the platform runs");
        let status = eventually("the platform ends", || process.try_wait());
        self.process = None;
        status
    }

    /// Stops it in an orderly way.
    pub fn stop(&mut self) {
        self.signal(self.id(), libc::SIGTERM);
        assert!(self.ended().success(), "{}", self.said());
    }

    /// Stops it in an orderly way, then starts it again on the same folder and settings.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Ends it as a power loss would, then starts it again on the same folder.
    pub fn crash(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts it again after it ended.
    pub fn start_again(&mut self) {
        self.try_start_again()
            .unwrap_or_else(|said| panic!("{said}"));
    }

    /// Starts it again after it ended, or tells what it said when it refused.
    pub fn try_start_again(&mut self) -> Result<(), String> {
        let (process, ready, ready_in) = begin(self.folder.path(), &self.settings)?;
        let (listen, api) = addresses(self.folder.path(), &ready);
        (self.process, self.listen, self.api, self.ready_in) =
            (Some(Process::Started(process)), listen, api, ready_in);
        Ok(())
    }

    /// Has the binary take the place of the process that runs it. Returns how that went, and the process that leaves.
    pub fn upgrade(&mut self) -> (Upgraded, Leaving) {
        let data = self.data();
        let data = data.to_str().expect("a temporary folder's name is text");
        let ran = self
            .run_alone(&["upgrade", "--json", "--data", data])
            .exits(0);
        let upgraded: Upgraded = serde_json::from_str(&ran.out).expect("it says how it went");
        let successor = Process::Successor(upgraded.pid);
        let leaving = self.process.replace(successor);
        (upgraded, Leaving(leaving.expect("the platform runs")))
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let orphans = workers(process.id());
            process.kill();
            eventually("workers go when their supervisor is gone", || {
                (!orphans.iter().any(|id| lives(*id))).then_some(())
            });
        }
    }

    /// Ends all of its processes at once, whatever they are doing.
    pub fn kill_tree(&mut self) {
        let mut process = self.process.take().expect("the platform runs");
        let tree = descendants(process.id());
        process.kill();
        for id in &tree {
            // SAFETY: a signal to a process of ours; one that has just ended of itself gets none.
            unsafe { libc::kill(*id as libc::pid_t, libc::SIGKILL) };
        }
        eventually("a killed process is gone", || {
            (!tree.iter().any(|id| lives(*id))).then_some(())
        });
    }

    /// Deploys a guest under a name, without a manifest of its own, and waits until it is live.
    #[track_caller]
    pub fn deploy(&self, app: &str, wasm: &[u8]) -> Deployed {
        self.api.deploy(&bare(app), wasm)
    }

    /// Deploys with a manifest: `name` is added.
    #[track_caller]
    pub fn deploy_with(&self, app: &str, wasm: &[u8], manifest: &str) -> Deployed {
        self.api.deploy(&manifest_of(app, manifest), wasm)
    }

    /// A connection to an app.
    pub fn connect(&self, app: &str) -> Connection {
        Connection::open(self.listen, &self.host(app)).expect("the platform accepts")
    }

    /// A connection to an app over HTTP/2.
    pub fn connect_http2(&self, app: &str) -> Http2 {
        Http2::open(self.listen, &self.host(app)).expect("the platform accepts")
    }

    /// The host that an app answers at. Another tenant's app is named `APP.TENANT`, here and wherever an app is asked.
    pub fn host(&self, app: &str) -> String {
        format!("{app}.localhost:{}", self.listen.port())
    }

    #[track_caller]
    pub fn get(&self, app: &str, path: &str) -> Reply {
        self.connect(app)
            .get(path)
            .unwrap_or_else(|error| panic!("GET {app} {path}: {error}\n{}", self.said()))
    }

    #[track_caller]
    pub fn post(&self, app: &str, path: &str, body: &[u8]) -> Reply {
        let reply = self.connect(app).request("POST", path, "", body);
        reply.unwrap_or_else(|error| panic!("POST {app} {path}: {error}\n{}", self.said()))
    }

    /// Runs a command of the CLI against this platform.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.run_in(self.folder(), arguments)
    }

    /// Runs a command of the CLI against this platform in a folder.
    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Ran {
        let api = format!("http://{}", self.api.address);
        let mut all = arguments.to_vec();
        all.extend(["--api", &api, "--token", &self.api.token]);
        run(folder, &self.home(), &all)
    }

    /// Runs a command of the CLI that reaches no platform.
    pub fn run_alone(&self, arguments: &[&str]) -> Ran {
        run(self.folder(), &self.home(), arguments)
    }

    /// A command of the CLI against this platform, to be started by the test.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command_line::command(self.folder(), &self.home());
        command.args(arguments);
        command.args([
            "--api",
            &format!("http://{}", self.api.address),
            "--token",
            &self.api.token,
        ]);
        command
    }

    fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// The value of a metric, its series named as Prometheus prints it; summed over series that begin with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.api.get("/metrics").is(200).reply.text();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ', ','])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.sum()
    }
}

/// A process that finishes what is in flight after another took its place.
pub struct Leaving(Process);

impl Leaving {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits for its end.
    pub fn ended(mut self) {
        let status = eventually("the process that leaves ends", || self.0.try_wait());
        assert!(status.success(), "{status}");
    }

    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_some()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the platform said:\n{}", self.said());
            println!("requests that did not end well:\n{}", self.ended_badly());
            if let Some(mut process) = self.process.take() {
                process.kill();
            }
            return;
        }
        self.kill();
    }
}

/// The manifest of an app that was deployed without one.
pub fn bare(app: &str) -> Manifest {
    Manifest::bare(app.parse::<AppName>().expect("a test names apps well"))
}

/// A manifest in TOML, without its name.
pub fn manifest_of(app: &str, text: &str) -> Manifest {
    toml::from_str(&format!("name = \"{app}\"\n{text}")).expect("a test writes manifests well")
}

/// Starts the binary and waits until it is ready; else says what it said.
fn begin(folder: &Path, settings: &Settings) -> Result<(Child, String, Duration), String> {
    let ready = folder.join("ready");
    let _ = fs::remove_file(&ready);
    fs::create_dir_all(folder.join("home")).expect("a folder can be made");
    let config = folder.join("midge.config.toml");
    fs::write(&config, &settings.config).expect("a file can be written");
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("a file can be written");

    let mut command = command_line::command(folder, &folder.join("home"));
    command.arg("up").arg("--data").arg(folder.join("data"));
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--api",
        "127.0.0.1:0",
        "--no-profile",
    ]);
    command
        .arg("--config")
        .arg(&config)
        .arg("--ready-file")
        .arg(&ready);
    command.args(&settings.flags);
    command.envs(settings.environment.iter().cloned());
    let stdout = match &settings.stdout {
        Some(path) => File::options().append(true).open(path),
        None => log.try_clone(),
    };
    command
        .stdout(stdout.expect("standard output can be opened"))
        .stderr(log);
    let core = settings.core;
    // SAFETY: `prctl` and `sched_setaffinity` are safe to call between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // If the test is killed, its platform goes as well.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if let Some(core) = core {
                let mut set: libc::cpu_set_t = std::mem::zeroed();
                libc::CPU_SET(core, &mut set);
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
            }
            Ok(())
        });
    }
    let began = Instant::now();
    let mut process = command.spawn().expect("the binary starts");
    loop {
        if let Ok(text) = fs::read_to_string(&ready)
            && text.ends_with('\n')
        {
            return Ok((process, text, began.elapsed()));
        }
        if let Ok(Some(status)) = process.try_wait() {
            let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!(
                "the platform ended before it was ready: {status}\n{said}"
            ));
        }
        if began.elapsed() > Duration::from_secs(60) {
            let _ = (process.kill(), process.wait());
            let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!("the platform is not ready after a minute\n{said}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Where apps and the API answer, and the admin's token.
fn addresses(folder: &Path, ready: &str) -> (SocketAddr, Api) {
    let ready: serde_json::Value = serde_json::from_str(ready).expect("the ready file is JSON");
    let address = |value: &serde_json::Value| -> SocketAddr {
        value
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| panic!("not an address: {ready}"))
    };
    let listen = match &ready["listen"] {
        serde_json::Value::Array(all) => address(&all[0]),
        one => address(one),
    };
    let token =
        fs::read_to_string(folder.join("data/admin.token")).expect("there is an admin token");
    (
        listen,
        Api {
            address: address(&ready["api"]),
            token: token.trim().to_owned(),
            tenant: TenantName::default_tenant(),
        },
    )
}
