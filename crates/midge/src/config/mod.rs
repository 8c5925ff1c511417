//! What an operator sets: flags over environment over `midge.config.toml` over defaults, each value checked by name.
//!
//! Nothing here opens a socket or touches the data folder.

mod control;
mod egress;
mod file;
mod flags;
mod listen;
mod node;
mod telemetry;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;

use model::limits::{self, Limit};
use model::{AppLimits, Host, Millis};

use self::file::{FILE_NAME, File};
use crate::failure::{Failure, While as _};

pub use self::control::Control;
pub use self::egress::Egress;
pub use self::flags::Flags;
pub use self::listen::Listen;
pub use self::node::Node;
pub use self::telemetry::Telemetry;
pub use self::tls::Tls;

/// Where the control API listens unless told otherwise; also where commands look for it.
pub const DEFAULT_API: &str = "127.0.0.1:8081";

/// Everything the platform is started with, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The file these were read from, if any.
    pub file: Option<PathBuf>,
    pub data: PathBuf,
    pub listen: Listen,
    pub tls: Tls,
    pub api: SocketAddr,
    pub domain: Host,
    pub workers: u32,
    pub grace: Millis,
    /// The most that any app may have.
    pub ceiling: AppLimits,
    pub node: Node,
    pub egress: Egress,
    pub control: Control,
    pub telemetry: Telemetry,
}

/// What the machine says when nobody set a value.
pub struct Machine {
    pub cores: u32,
    /// None where neither `XDG_DATA_HOME` nor `HOME` is set.
    pub data: Option<PathBuf>,
}

impl Machine {
    /// This machine and this user.
    pub fn ours() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            data: home_folder("XDG_DATA_HOME", ".local/share"),
        }
    }
}

/// Midge's folder below the one that `variable` names, or below `otherwise` in the user's home.
pub fn home_folder(variable: &str, otherwise: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute(variable)
        .or_else(|| Some(absolute("HOME")?.join(otherwise)))
        .map(|folder| folder.join("midge"))
}

/// The settings that flags, environment, file and machine come to.
pub fn load(flags: Flags) -> Result<Settings, Failure> {
    let path = match &flags.config {
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from(FILE_NAME)).filter(|path| path.is_file()),
    };
    let file = match &path {
        Some(path) => File::load(path)?,
        None => File::default(),
    };
    let mut settings = resolve(flags, file, Machine::ours())?;
    settings.file = path;
    Ok(settings)
}

/// The settings of a platform for one app, which answers whatever host is asked for, and nobody else.
pub fn for_one(data: PathBuf, listen: SocketAddr, host: Host) -> Result<Settings, Failure> {
    let flags = Flags {
        data: Some(data),
        listen: vec![listen],
        api: Some(SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0))),
        workers: Some(1),
        grace: Some(Millis::secs(1)),
        ..Flags::default()
    };
    let file = File {
        node: node::File::answering_as(host),
        // It is its developer's own machine and network.
        egress: egress::File::reaching_everything(),
        ..File::default()
    };
    resolve(flags, file, Machine::ours())
}

fn resolve(flags: Flags, file: File, machine: Machine) -> Result<Settings, Failure> {
    let data = flags.data.or(file.data).or(machine.data).ok_or_else(|| {
        Failure::usage("there is no data folder: neither `XDG_DATA_HOME` nor `HOME` is set")
            .hint("name one with `--data DIR`")
    })?;
    let data = std::path::absolute(&data)
        .or_fail(|| format!("finding the data folder `{}`", data.display()))?;
    let listen = match (flags.listen, file.listen) {
        (flag, _) if !flag.is_empty() => Listen::At(flag),
        (_, file) if !file.is_empty() => Listen::At(file),
        _ => Listen::Loopback,
    };
    let tls = Tls::of(file.tls)?;
    if let Listen::At(addresses) = &listen {
        let most = limits::LISTEN_ADDRESSES.ceiling - tls.listen.len() as u64;
        bounded("listen", addresses.len() as u64, most)?;
    }
    let ceiling = AppLimits {
        cpu: file.ceiling.cpu.unwrap_or(limits::CPU.ceiling),
        wall: file.ceiling.wall.unwrap_or(limits::WALL.ceiling),
        memory: file.ceiling.memory.unwrap_or(limits::MEMORY.ceiling),
    };
    bounded("ceiling.cpu", ceiling.cpu, limits::CPU.ceiling)?;
    bounded("ceiling.wall", ceiling.wall, limits::WALL.ceiling)?;
    bounded("ceiling.memory", ceiling.memory, limits::MEMORY.ceiling)?;
    let workers = flags.workers.or(file.workers).unwrap_or(machine.cores);
    bounded("workers", u64::from(workers), limits::WORKERS.ceiling)?;
    let api = flags.api.or(file.api);
    Ok(Settings {
        file: None,
        data,
        listen,
        tls,
        api: api.unwrap_or_else(|| DEFAULT_API.parse().expect("the default is an address")),
        domain: flags
            .domain
            .or(file.domain)
            .unwrap_or_else(|| "localhost".parse().expect("`localhost` is a host")),
        workers,
        grace: limited(&limits::GRACE, flags.grace.or(file.grace))?,
        ceiling,
        node: Node::of(file.node)?,
        egress: Egress::of(file.egress)?,
        control: Control::of(file.control)?,
        telemetry: Telemetry::of(file.telemetry)?,
    })
}

fn unusable(what: &str, hint: &str) -> Failure {
    Failure::usage(format!("the configuration cannot be used: {what}")).hint(hint)
}

/// The value that was set, within the limit's ceiling, or the limit's default.
fn limited<T: PartialOrd + Default + ToString + Copy>(
    limit: &Limit<T>,
    set: Option<T>,
) -> Result<T, Failure> {
    let value = set.unwrap_or(limit.default);
    bounded(limit.name, value, limit.ceiling)?;
    Ok(value)
}

fn bounded<T: PartialOrd + Default + ToString>(
    name: &'static str,
    value: T,
    ceiling: T,
) -> Result<(), Failure> {
    limits::check(name, value, ceiling).map_err(|error| {
        Failure::usage(format!("the configuration cannot be used: {error}"))
            .hint("`midge limits` lists every bound and its reason")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use model::Size;
    use model::trace::SampleRatio;

    use super::*;

    fn machine() -> Machine {
        Machine {
            cores: 4,
            data: Some("/home/ann/.local/share/midge".into()),
        }
    }

    pub fn settled(flags: Flags, file: &str) -> Result<Settings, Failure> {
        resolve(flags, File::read(file, Path::new(FILE_NAME))?, machine())
    }

    /// Asserts that a file with this text cannot be used, and that the refusal says `part`.
    #[track_caller]
    pub fn refuses(file: &str, part: &str) {
        let failure = settled(Flags::default(), file).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
        assert!(failure.what.contains(part), "{}", failure.what);
    }

    #[test]
    fn the_defaults_serve_loopback_with_a_worker_for_each_core() {
        let settings = settled(Flags::default(), "").unwrap();
        assert_eq!(settings.data, Path::new("/home/ann/.local/share/midge"));
        assert_eq!(settings.listen, Listen::Loopback);
        assert_eq!(settings.api.to_string(), DEFAULT_API);
        assert_eq!(settings.domain.as_str(), "localhost");
        assert_eq!(settings.workers, 4);
        assert_eq!(settings.grace, Millis::secs(10));
        assert_eq!(settings.ceiling, AppLimits::CEILING);
        assert!(!settings.node.trust_forwarded && !settings.control.open_metrics);
        assert!(settings.listen.addresses()[0].ip().is_loopback());
        assert!(settings.telemetry.logs.files && !settings.telemetry.logs.stdout);
        assert_eq!(settings.telemetry.otlp, None);
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = r#"
            data = "/srv/midge"
            listen = ["0.0.0.0:80", "[::]:80"]
            api = "127.0.0.1:9"
            domain = "apps.example.com"
            workers = 2
            grace = "1m"
            [ceiling]
            cpu = "1s"
            memory = "256MiB"
            [node]
            slots = 100
            tenant-slots = 50
            resident-apps = 10
            connections = 20
            trust-forwarded = true
            proxy-protocol = true
            default-host = "shop.test"
            pin = true
            [tls]
            listen = ["0.0.0.0:443"]
            certificate = [{ chain = "a.pem", key = "a.key" }]
            [control]
            versions-kept = 5
            wasm = "1MiB"
            open-metrics = true
            [telemetry]
            otlp = "http://collector:4318/otlp/"
            traces = 0.25
            metrics-every = "1m"
            logs = ["stdout", "otlp"]
        "#;
        let settings = settled(Flags::default(), file).unwrap();
        assert_eq!(settings.data, Path::new("/srv/midge"));
        assert_eq!(settings.listen.addresses().len(), 2);
        assert_eq!(settings.workers, 2);
        assert_eq!(settings.grace, Millis::secs(60));
        assert_eq!(settings.ceiling.memory, Size::mib(256));
        assert_eq!(settings.ceiling.wall, limits::WALL.ceiling);
        assert_eq!(settings.node.slots, 100);
        assert!(settings.node.trust_forwarded && settings.node.pin);
        assert!(settings.node.proxy_protocol);
        assert_eq!(settings.tls.listen.len(), 1);
        assert_eq!(settings.tls.certificates[0].chain, Path::new("a.pem"));
        assert_eq!(settings.node.default_host.unwrap().as_str(), "shop.test");
        assert_eq!(settings.control.wasm, Size::mib(1));
        let otlp = settings.telemetry.otlp.unwrap();
        assert_eq!(otlp.collector.to_string(), "http://collector:4318/otlp/");
        assert_eq!(otlp.traces, SampleRatio::try_from(0.25).ok());
        assert_eq!((otlp.metrics, otlp.logs), (Some(Millis::secs(60)), true));
        let outputs = settings.telemetry.logs;
        assert!(outputs.stdout && !outputs.files);

        let flags = Flags {
            data: Some("/tmp/other".into()),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            workers: Some(3),
            grace: Some(Millis::secs(1)),
            ..Flags::default()
        };
        let settings = settled(flags, file).unwrap();
        assert_eq!(settings.data, Path::new("/tmp/other"));
        assert_eq!(settings.listen.addresses().len(), 1);
        assert_eq!(settings.workers, 3);
        assert_eq!(settings.grace, Millis::secs(1));
        assert_eq!(settings.domain.as_str(), "apps.example.com");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        refuses("listenn = []", "listenn");
        refuses("[node]\nslot = 1", "slot");
        refuses("[ceiling]\ncpu = '1x'", "1x");
        refuses("[ceiling]\ncpu = '1h'", "`ceiling.cpu` is 1h; at most 30s");
        refuses("[node]\nslots = 0", "`node.slots` may not be zero");
        refuses("[node]\nslots = 9000", "at most 8000");
        refuses("workers = 0", "workers");
        refuses("workers = 100000", "workers");
        refuses("api = 'localhost'", "api");
        refuses("domain = 'Shop'", "Shop");
        refuses("grace = '1h'", "node.grace");
        let many = format!("listen = [{}]", "'127.0.0.1:0',".repeat(17));
        refuses(&many, "`listen` is 17; at most 16");
    }

    #[test]
    fn without_a_home_the_data_folder_must_be_named() {
        let homeless = Machine {
            cores: 1,
            data: None,
        };
        let failure = resolve(Flags::default(), File::default(), homeless).unwrap_err();
        assert_eq!(failure.hint.as_deref(), Some("name one with `--data DIR`"));
    }
}
