//! A whole node: a supervisor in this process, its workers in processes of their own.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, FromRawFd};
use std::sync::Mutex;
use std::time::Duration;

use capabilities::kv::embedded::StoresError;
use distribution::embedded::Embedded;
use distribution::{NodeReport, Publication};
use model::{Catalog, Change, OwnLimits, Signed};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// How long a test waits for what must happen: it fails only what hangs, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a worker's process runs: this test binary, with this alone.
const WORKER: &str = "supervisor::tests::the_process_of_a_worker";

/// Not a test: what the tests below run as a worker.
#[test]
#[ignore = "run by other tests in processes of their own"]
fn the_process_of_a_worker() {
    // SAFETY: a descriptor that is not open makes the call fail.
    let control = unsafe { BorrowedFd::borrow_raw(3) };
    if rustix::net::sockopt::socket_type(control).is_ok() {
        // SAFETY: the supervisor put the worker's end of the pipe here, and nobody else in this process knows.
        let control = unsafe { std::os::fd::OwnedFd::from_raw_fd(3) };
        std::process::exit(i32::from(
            crate::worker(control) != std::process::ExitCode::SUCCESS,
        ));
    }
}

/// The stores in a folder, once whoever had them open has let go of them.
fn keep(folder: &Path) -> Stores {
    loop {
        match Stores::open(folder, Size::mib(1), Arc::new(|| 0)) {
            Ok(stores) => return stores,
            Err(StoresError::InUse) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

struct Trial {
    supervisor: Supervisor,
    distribution: Arc<Embedded>,
    limits: watch::Sender<Arc<TenantLimits>>,
    address: SocketAddr,
    notices: Arc<Mutex<Vec<String>>>,
}

impl Trial {
    async fn start(folder: &Path, workers: u32, published: Option<&Catalog>) -> Self {
        let command = ["--ignored", "--exact", WORKER, "--quiet"].map(OsString::from);
        let program = std::env::current_exe().unwrap().into_os_string();
        let command = [vec![program], command.to_vec()].concat();
        let started = Self::start_with(folder, workers, published, command).await;
        started.map_err(|error| error.to_string()).unwrap()
    }

    async fn start_with(
        folder: &Path,
        workers: u32,
        published: Option<&Catalog>,
        worker_command: Vec<OsString>,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()], &[], workers).unwrap();
        let distribution = Arc::new(Embedded::new(folder.join("artifacts")).unwrap());
        if let Some(catalog) = published {
            publish(&distribution, catalog).await;
        }
        let limits = watch::Sender::<Arc<TenantLimits>>::default();
        let notices = Arc::new(Mutex::new(Vec::new()));
        let told = notices.clone();
        let key = example::key(7).public();
        let stores = folder.join("stores");
        let kept = keep(&stores);
        let settings = NodeSettings {
            stores: (kept, stores),
            name: "here".into(),
            data: folder.join("node"),
            listeners,
            worker_command,
            catalog_key: key.clone(),
            compile_key: key,
            domain: "localhost".parse().unwrap(),
            memory_ceiling: Size::mib(16),
            slots: 8,
            tenant_slots: 8,
            resident: 8,
            connections: 64,
            trust_forwarded: false,
            egress: Default::default(),
            certificates: tokio::sync::watch::Sender::new(Default::default()).subscribe(),
            secrets: tokio::sync::watch::Sender::new(Default::default()).subscribe(),
            limits: limits.subscribe(),
            ticket_keys: None,
            proxy_protocol: false,
            default_host: None,
            grace: Millis(500),
            pin_cores: false,
            log_outputs: LogOutputs {
                files: true,
                stdout: false,
            },
            otlp: None,
            notice: Arc::new(move |text| told.lock().unwrap().push(text.to_owned())),
        };
        let supervisor = Supervisor::start(settings, distribution.clone()).await?;
        Ok(Self {
            address: supervisor.local_addrs()[0],
            supervisor,
            distribution,
            limits,
            notices,
        })
    }

    fn report(&self) -> NodeReport {
        self.distribution.reports().borrow()["here"].clone()
    }

    /// The first report of which `what` is true.
    async fn reports(&self, what: impl Fn(&NodeReport) -> bool) -> NodeReport {
        let mut reports = self.distribution.reports();
        let reported = reports.wait_for(|reports| reports.get("here").is_some_and(&what));
        tokio::time::timeout(PATIENCE, reported)
            .await
            .unwrap_or_else(|_| panic!("{:?}, {:?}", self.report(), self.notices.lock()))
            .unwrap()["here"]
            .clone()
    }

    /// The status of a reply over a new connection.
    async fn status(&self) -> u16 {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: nobody.localhost\r\nconnection: close\r\n\r\n";
        connection.write_all(request).await.unwrap();
        let mut reply = String::new();
        connection.read_to_string(&mut reply).await.unwrap();
        let status = reply.split(' ').nth(1);
        status
            .unwrap_or_else(|| panic!("{reply:?}"))
            .parse()
            .unwrap()
    }

    fn process(&self, slot: usize) -> Option<Pid> {
        let process = self.supervisor.worker_processes()[slot]?;
        Some(Pid::from_raw(process as i32).unwrap())
    }

    fn signal(&self, slot: usize, signal: Signal) -> Pid {
        let process = self.process(slot).unwrap();
        kill_process(process, signal).unwrap();
        process
    }

    async fn replaced(&self, restarts: u64) {
        self.reports(|report| report.status.worker_restarts == restarts)
            .await;
        let mut standing = self.supervisor.node.standing.subscribe();
        let served = standing.wait_for(|standing| standing.serves(0));
        tokio::time::timeout(PATIENCE, served)
            .await
            .expect("the successor serves in time")
            .unwrap();
    }

    fn was_told(&self, part: &str) -> bool {
        let notices = self.notices.lock().unwrap();
        notices.iter().any(|notice| notice.contains(part))
    }

    /// Stops a worker's process, as if it hung.
    async fn hang(&self, slot: usize) {
        let stopped = self.signal(slot, Signal::STOP);
        // A process that runs on another core may go on for a moment.
        let stat = format!("/proc/{stopped}/stat");
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn publish(distribution: &Embedded, catalog: &Catalog) {
    let publication = Publication {
        delta: None,
        head: Signed::sign(&catalog.head(), &example::key(7)),
        catalog: catalog.clone(),
    };
    distribution.publish(publication).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_and_reports_each_generation() {
    let folder = tempfile::tempdir().unwrap();
    let all = example::catalogs(4);
    let trial = Trial::start(folder.path(), 2, Some(&all[1])).await;
    trial.reports(|report| report.status.generation == 1).await;
    let status = trial.report().status;
    assert_eq!((status.workers, status.worker_restarts), (2, 0));
    assert_eq!(status.listen, trial.address.to_string());
    assert_eq!(trial.status().await, 404);
    publish(&trial.distribution, &all[2]).await;
    trial.reports(|report| report.status.generation == 2).await;
    let metrics = trial.supervisor.metrics();
    assert!(
        metrics.contains("midge_catalog_generation 2\n"),
        "{metrics}"
    );
    trial.supervisor.stop().await;

    // Nothing is published after a restart: the last good catalog is served.
    let trial = Trial::start(folder.path(), 1, None).await;
    trial.reports(|report| report.status.generation == 2).await;
    trial.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_catalog_reaches_every_worker() {
    let folder = tempfile::tempdir().unwrap();
    let large = Catalog::build(7, (0..10_000).map(|app| example::entry(app, 1)));
    let trial = Trial::start(folder.path(), 2, Some(&large)).await;
    trial.reports(|report| report.status.generation == 7).await;
    let (next, delta) = large.change(vec![Change::Put(example::entry(5, 2))]);
    let publication = Publication {
        delta: Some(Signed::sign(&delta, &example::key(7))),
        head: Signed::sign(&next.head(), &example::key(7)),
        catalog: next,
    };
    trial.distribution.publish(publication).await.unwrap();
    trial.reports(|report| report.status.generation == 8).await;
    trial.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_and_no_connection_refused() {
    let folder = tempfile::tempdir().unwrap();
    let all = example::catalogs(3);
    let trial = Trial::start(folder.path(), 1, Some(&all[1])).await;
    for restarts in 1..=2 {
        let killed = trial.signal(0, Signal::KILL);
        // Sent while nobody accepts: it waits for the successor.
        assert_eq!(trial.status().await, 404);
        trial.replaced(restarts).await;
        assert_ne!(trial.process(0), Some(killed));
    }
    assert!(
        trial.was_told("worker 0 ended (signal: 9"),
        "{:?}",
        trial.notices
    );
    assert_eq!(trial.report().status.generation, 1);
    publish(&trial.distribution, &all[2]).await;
    trial.reports(|report| report.status.generation == 2).await;
    trial.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_is_replaced_and_live_waits_for_its_successor() {
    let folder = tempfile::tempdir().unwrap();
    let all = example::catalogs(3);
    let trial = Trial::start(folder.path(), 2, Some(&all[1])).await;
    trial.hang(1).await;
    publish(&trial.distribution, &all[2]).await;
    // The first report of the new generation counts the restart already: nobody was told `live` before it.
    let live = trial.reports(|report| report.status.generation == 2).await;
    assert_eq!(live.status.worker_restarts, 1);
    assert!(trial.was_told("worker 1 was killed: it said nothing for 2s"));
    trial.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_limits_is_reported_once_every_worker_and_every_successor_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let all = example::catalogs(2);
    let trial = Trial::start(folder.path(), 2, Some(&all[1])).await;
    let set = |revision| {
        let own = OwnLimits {
            slots: Some(revision),
            ..OwnLimits::default()
        };
        trial.limits.send_replace(Arc::new(TenantLimits {
            revision,
            all: [("alice".parse().unwrap(), own)].into(),
        }));
    };
    set(1);
    let told = trial.reports(|report| report.status.limits == 1).await;
    assert_eq!(told.status.worker_restarts, 0);
    trial.hang(1).await;
    set(2);
    let told = trial.reports(|report| report.status.limits == 2).await;
    assert_eq!(told.status.worker_restarts, 1);
    trial.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_every_worker_even_one_that_does_not_listen() {
    let folder = tempfile::tempdir().unwrap();
    let all = example::catalogs(2);
    let trial = Trial::start(folder.path(), 2, Some(&all[1])).await;
    let stopped = trial.signal(0, Signal::STOP);
    let other = trial.process(1).unwrap();
    tokio::time::timeout(PATIENCE, trial.supervisor.stop())
        .await
        .expect("a worker that does not listen is not waited for");
    for process in [stopped, other] {
        assert!(rustix::process::test_kill_process(process).is_err());
    }
    assert!(TcpStream::connect(trial.address).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_start_are_an_error_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let command = vec![OsString::from("/nonexistent/midge")];
    let refused = Trial::start_with(folder.path(), 1, None, command).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.starts_with(
            "the workers end before they serve anything: worker 0 could not be started"
        ),
        "{refused}"
    );
}
