//! What an operator sets: flags over environment over `midge.config.toml` over defaults, each value checked by name.
//!
//! Nothing here opens a socket or touches the data folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use http::Uri;
use http::uri::Scheme;
use model::limits::{self, Limit};
use model::trace::SampleRatio;
use model::{AppLimits, Host, Millis, Size};
use node::{LogOutputs, OtlpSettings};
use serde::Deserialize;

use crate::certificates::CertificateFiles;
use crate::failure::{Failure, While as _};
use crate::whole_file;

/// The file that is read when none is named and it lies in the current folder.
const FILE_NAME: &str = "midge.config.toml";

/// Where the control API listens unless told otherwise; also where commands look for it.
pub const DEFAULT_API: &str = "127.0.0.1:8081";

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// The flags of `midge up` that a configuration file may hold too. The environment stands in for flags not given.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Read this file instead of `midge.config.toml` in the current folder
    #[arg(
        long,
        value_name = "PATH",
        env = "MIDGE_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// Keep records, artifacts and logs in this folder [default: $XDG_DATA_HOME/midge or ~/.local/share/midge]
    #[arg(long, value_name = "DIR", env = "MIDGE_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,

    #[allow(
        rustdoc::broken_intra_doc_links,
        reason = "an address in the text of the help"
    )]
    /// Answer apps' requests on this address; may be given several times [default: 127.0.0.1:8080, and [::1]:8080 where there is IPv6]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MIDGE_LISTEN",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// Serve the control API on this address [default: 127.0.0.1:8081]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MIDGE_API_ADDRESS",
        hide_env_values = true
    )]
    pub api: Option<SocketAddr>,

    /// Apps answer at their name below this domain [default: localhost]
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "MIDGE_DOMAIN",
        hide_env_values = true
    )]
    pub domain: Option<Host>,

    /// Run this many worker processes [default: one for each core]
    #[arg(long, value_name = "N", env = "MIDGE_WORKERS", hide_env_values = true)]
    pub workers: Option<u32>,

    /// Give requests in flight this long to finish when stopping [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "MIDGE_GRACE",
        hide_env_values = true
    )]
    pub grace: Option<Millis>,
}

/// `midge.config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    data: Option<PathBuf>,
    #[serde(default)]
    listen: Vec<SocketAddr>,
    api: Option<SocketAddr>,
    domain: Option<Host>,
    workers: Option<u32>,
    grace: Option<Millis>,
    #[serde(default)]
    ceiling: FileCeiling,
    #[serde(default)]
    node: FileNode,
    #[serde(default)]
    tls: FileTls,
    #[serde(default)]
    control: FileControl,
    #[serde(default)]
    telemetry: FileTelemetry,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileTls {
    #[serde(default)]
    listen: Vec<SocketAddr>,
    #[serde(default)]
    certificate: Vec<CertificateFiles>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileCeiling {
    cpu: Option<Millis>,
    wall: Option<Millis>,
    memory: Option<Size>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileNode {
    slots: Option<u64>,
    tenant_slots: Option<u64>,
    resident_apps: Option<u64>,
    connections: Option<u64>,
    trust_forwarded: Option<bool>,
    proxy_protocol: Option<bool>,
    default_host: Option<Host>,
    pin: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileControl {
    versions_kept: Option<u64>,
    wasm: Option<Size>,
    open_metrics: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileTelemetry {
    otlp: Option<String>,
    traces: Option<f64>,
    metrics: Option<bool>,
    metrics_every: Option<Millis>,
    logs: Option<Vec<LogOutput>>,
}

/// Where log lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogOutput {
    File,
    Stdout,
    Otlp,
}

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
    pub control: Control,
    pub telemetry: Telemetry,
}

/// What leaves the platform for those who watch it.
#[derive(Debug, Clone, PartialEq)]
pub struct Telemetry {
    pub logs: LogOutputs,
    /// The collector, if there is one.
    pub otlp: Option<OtlpSettings>,
}

/// Where apps answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Listen {
    /// Nobody said: loopback, IPv6 where the machine has it.
    Loopback,
    At(Vec<SocketAddr>),
}

impl Listen {
    /// The addresses to bind. The IPv6 one of the default is left out where the machine has none.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::At(addresses) => addresses.clone(),
            Self::Loopback => {
                let four: SocketAddr = DEFAULT_LISTEN.parse().expect("the default is an address");
                let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, four.port()));
                // Port 0: whether the address exists here, not whether the port is free.
                let has_six = std::net::TcpListener::bind((six.ip(), 0)).is_ok();
                [four].into_iter().chain(has_six.then_some(six)).collect()
            }
        }
    }
}

/// Where apps answer over TLS, and with what.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    pub listen: Vec<SocketAddr>,
    pub certificates: Vec<CertificateFiles>,
}

/// The settings of each worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub slots: u64,
    pub tenant_slots: u64,
    pub resident_apps: u64,
    pub connections: u64,
    /// Whether `forwarded` and `x-forwarded-*` of a request are believed.
    pub trust_forwarded: bool,
    /// Whether every connection begins with what a proxy says of its client.
    pub proxy_protocol: bool,
    /// Whose apps answer requests for hosts that no app has.
    pub default_host: Option<Host>,
    /// Whether each worker stays on a core of its own.
    pub pin: bool,
}

/// The settings of the control plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    pub versions_kept: u64,
    /// The largest upload.
    pub wasm: Size,
    /// Whether `/metrics` needs no token.
    pub open_metrics: bool,
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
        Some(path) => {
            let text = whole_file::read_text(path, &limits::CONFIG_FILE).map_err(|error| {
                error
                    .of(&format!("the configuration `{}`", path.display()))
                    .hint("name another file with `--config`")
            })?;
            let mut file = read(&text, path)?;
            // A relative folder is meant from where it is written.
            file.data = file.data.map(|data| folder_of(path).join(data));
            for files in &mut file.tls.certificate {
                files.chain = folder_of(path).join(&files.chain);
                files.key = folder_of(path).join(&files.key);
            }
            file
        }
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
        node: FileNode {
            default_host: Some(host),
            ..FileNode::default()
        },
        ..File::default()
    };
    resolve(flags, file, Machine::ours())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn read(text: &str, path: &Path) -> Result<File, Failure> {
    toml::from_str(text).map_err(|error| {
        let error = error.to_string();
        Failure::usage(format!(
            "the configuration `{}` cannot be used: {}",
            path.display(),
            error.trim_end()
        ))
        .hint("`midge up --help` lists every key")
    })
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
    let tls = Tls {
        listen: file.tls.listen,
        certificates: file.tls.certificate,
    };
    check_tls(&tls)?;
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
        node: Node {
            slots: limited(&limits::SLOTS, file.node.slots)?,
            tenant_slots: limited(&limits::TENANT_SLOTS, file.node.tenant_slots)?,
            resident_apps: limited(&limits::RESIDENT, file.node.resident_apps)?,
            connections: limited(&limits::CONNECTIONS, file.node.connections)?,
            trust_forwarded: file.node.trust_forwarded.unwrap_or(false),
            proxy_protocol: file.node.proxy_protocol.unwrap_or(false),
            default_host: file.node.default_host,
            pin: file.node.pin.unwrap_or(false),
        },
        control: Control {
            versions_kept: limited(&limits::VERSIONS_KEPT, file.control.versions_kept)?,
            wasm: limited(&limits::WASM, file.control.wasm)?,
            open_metrics: file.control.open_metrics.unwrap_or(false),
        },
        telemetry: telemetry(file.telemetry)?,
    })
}

/// What leaves the platform, and where to.
fn telemetry(file: FileTelemetry) -> Result<Telemetry, Failure> {
    let logs = file.logs.unwrap_or_else(|| vec![LogOutput::File]);
    let goes_to = |output: LogOutput| logs.contains(&output);
    let outputs = LogOutputs {
        files: goes_to(LogOutput::File),
        stdout: goes_to(LogOutput::Stdout),
    };
    let Some(address) = file.otlp else {
        let homeless = [
            ("`telemetry.traces` is", file.traces.is_some()),
            ("`telemetry.metrics` is", file.metrics.is_some()),
            ("`telemetry.metrics-every` is", file.metrics_every.is_some()),
            ("\"otlp\" in `telemetry.logs` is", goes_to(LogOutput::Otlp)),
        ];
        return match homeless.iter().find(|(_, set)| *set) {
            Some((what, _)) => Err(unusable(
                &format!("{what} set, and `telemetry.otlp` names no collector"),
                "name one, such as `otlp = \"http://127.0.0.1:4318\"`",
            )),
            None => Ok(Telemetry {
                logs: outputs,
                otlp: None,
            }),
        };
    };
    let ratio = |share: f64| {
        SampleRatio::try_from(share).map_err(|error| {
            let hint = "0 traces only requests whose `traceparent` asks for it; leave `traces` out for none";
            unusable(&format!("`telemetry.traces`: {error}"), hint)
        })
    };
    let every = limited(&limits::METRICS_EVERY, file.metrics_every)?;
    let otlp = OtlpSettings {
        collector: collector(&address)?,
        traces: file.traces.map(ratio).transpose()?,
        metrics: file.metrics.unwrap_or(true).then_some(every),
        logs: goes_to(LogOutput::Otlp),
    };
    Ok(Telemetry {
        logs: outputs,
        otlp: Some(otlp),
    })
}

/// The address of a collector: `http`, a host, and perhaps a port and a path.
fn collector(address: &str) -> Result<Uri, Failure> {
    let refused = |why: &str| {
        unusable(
            &format!("`telemetry.otlp` is `{address}`: {why}"),
            "write the address of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`",
        )
    };
    let uri: Uri = address
        .parse()
        .map_err(|error| refused(&format!("{error}")))?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => {
            return Err(refused(
                "Midge speaks no TLS to a collector; run one beside it that does, and name that",
            ));
        }
        _ => return Err(refused("it does not begin with `http://`")),
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(refused("it has a user name, and Midge sends none"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refused("it has no host"));
    }
    if uri.query().is_some() {
        return Err(refused("it has a query, which has no place there"));
    }
    Ok(uri)
}

fn unusable(what: &str, hint: &str) -> Failure {
    Failure::usage(format!("the configuration cannot be used: {what}")).hint(hint)
}

/// One is of no use without the other.
fn check_tls(tls: &Tls) -> Result<(), Failure> {
    let refused = |what: &str, hint: &str| Err(unusable(what, hint));
    match (tls.listen.len(), tls.certificates.len()) {
        (0, 0) => Ok(()),
        (_, 0) => refused(
            "`tls.listen` names an address, and no `[[tls.certificate]]` is there to show",
            "name the files of one: `chain` and `key`",
        ),
        (0, _) => refused(
            "there is a `[[tls.certificate]]`, and `tls.listen` names no address to show it at",
            "name one, such as `listen = [\"0.0.0.0:443\"]`",
        ),
        (addresses, certificates) => {
            let most = limits::LISTEN_ADDRESSES.ceiling / 2;
            bounded("tls.listen", addresses as u64, most)?;
            let most = limits::CERTIFICATES.ceiling;
            bounded("tls.certificate", certificates as u64, most)
        }
    }
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
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cores: 4,
            data: Some("/home/ann/.local/share/midge".into()),
        }
    }

    fn settled(flags: Flags, file: &str) -> Result<Settings, Failure> {
        resolve(flags, read(file, Path::new(FILE_NAME))?, machine())
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
    fn the_environment_stands_in_for_flags_that_were_not_given() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: Flags,
        }
        let command = <Line as clap::CommandFactory>::command();
        let named: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_env())
            .collect();
        assert_eq!(
            named,
            [
                "MIDGE_CONFIG",
                "MIDGE_DATA",
                "MIDGE_LISTEN",
                "MIDGE_API_ADDRESS",
                "MIDGE_DOMAIN",
                "MIDGE_WORKERS",
                "MIDGE_GRACE"
            ]
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        let check = |file: &str, part: &str| {
            let failure = settled(Flags::default(), file).unwrap_err();
            assert_eq!(failure.exit, crate::failure::Exit::Usage);
            assert!(failure.what.contains(part), "{}", failure.what);
        };
        check("listenn = []", "listenn");
        check("[node]\nslot = 1", "slot");
        check("[ceiling]\ncpu = '1x'", "1x");
        check("[ceiling]\ncpu = '1h'", "`ceiling.cpu` is 1h; at most 30s");
        check("[node]\nslots = 0", "`node.slots` may not be zero");
        check("[node]\nslots = 9000", "at most 8000");
        check("workers = 0", "workers");
        check("workers = 100000", "workers");
        check("api = 'localhost'", "api");
        check("domain = 'Shop'", "Shop");
        check("grace = '1h'", "node.grace");
        check("[tls]\nlisten = ['127.0.0.1:0']", "`[[tls.certificate]]`");
        check(
            "[[tls.certificate]]\nchain = 'a'\nkey = 'b'",
            "`tls.listen` names no address",
        );
        check("[[tls.certificate]]\nchain = 'a'", "key");
        let telemetry = |line: &str, part: &str| check(&format!("[telemetry]\n{line}"), part);
        telemetry(
            "otlp = 'https://collector'",
            "Midge speaks no TLS to a collector",
        );
        telemetry(
            "otlp = 'collector:4318'",
            "it does not begin with `http://`",
        );
        telemetry(
            "otlp = '127.0.0.1:4318'",
            "`telemetry.otlp` is `127.0.0.1:4318`",
        );
        telemetry(
            "otlp = 'grpc://collector:4317'",
            "it does not begin with `http://`",
        );
        telemetry("otlp = 'http://me:secret@collector'", "a user name");
        telemetry("otlp = 'http://collector/?key=1'", "a query");
        telemetry("otlp = ''", "`telemetry.otlp` is ``");
        telemetry(
            "traces = 0.1",
            "`telemetry.traces` is set, and `telemetry.otlp`",
        );
        telemetry("metrics = true", "`telemetry.metrics` is set");
        telemetry(
            "logs = ['file', 'otlp']",
            "\"otlp\" in `telemetry.logs` is set",
        );
        telemetry("logs = ['syslog']", "syslog");
        telemetry(
            "otlp = 'http://a'\ntraces = 1.5",
            "`telemetry.traces`: 1.5 is no share",
        );
        telemetry("otlp = 'http://a'\ntraces = nan", "NaN is no share");
        telemetry("otlp = 'http://a'\nmetrics-every = '0s'", "may not be zero");
        telemetry("otlp = 'http://a'\nmetrics-every = '2h'", "at most 1h");
        telemetry("protocol = 'grpc'", "protocol");
        let many = format!("listen = [{}]", "'127.0.0.1:0',".repeat(17));
        check(&many, "`listen` is 17; at most 16");
    }

    #[test]
    fn a_collector_gets_metrics_and_nothing_else_unless_it_is_said() {
        let check = |more: &str, metrics: Option<Millis>, traces: Option<f64>, logs: bool| {
            let file = format!("[telemetry]\notlp = 'http://[::1]:4318'\n{more}");
            let settings = settled(Flags::default(), &file).unwrap();
            let otlp = settings.telemetry.otlp.unwrap();
            let found = (otlp.metrics, otlp.traces.map(f64::from), otlp.logs);
            assert_eq!(found, (metrics, traces, logs), "{more}");
            assert_eq!(settings.telemetry.logs.files, !logs);
        };
        check("", Some(Millis::secs(10)), None, false);
        check("metrics = false\ntraces = 0", None, Some(0.0), false);
        check(
            "traces = 1.0\nlogs = ['otlp']",
            Some(Millis::secs(10)),
            Some(1.0),
            true,
        );
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
