//! The whole process tree killed at random moments of deploys, and started again on what it left.
//!
//! What was acknowledged must be there. What was under way is there whole, or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use model::api::{Deployed, Missing, NewDeployment, NewVersion};
use model::{
    ArtifactKey, Deployment, DeploymentCause, Digest, Manifest, Revision, Version, VersionNumber,
    limits,
};
use serde::Serialize;

use super::Chance;
use crate::platform::manifest_of;
use crate::{Answer, Api, Platform, guest, variant};

/// How many times `crashes` kills everything in full.
pub const CRASHES: u32 = 500;

/// Each is deployed by a thread of its own.
const APPS: usize = 3;

/// `control.versions-kept`: few, so that versions are forgotten while others are made.
const KEPT: usize = 8;

/// The most microseconds from a start to the kill.
const MOMENTS: usize = 500_000;

/// From the start of the process to the first reply: what is promised, and what even a busy machine keeps.
const PROMISED: Duration = Duration::from_millis(500);
const AT_WORST: Duration = Duration::from_secs(5);

/// Kills all processes `count` times while apps are published, deployed and rolled back, and starts again each time:
/// everything acknowledged is there, nothing is there by half, and the first reply is right and comes soon.
pub fn crashes(count: u32, seed: u64) -> String {
    let config = format!("[control]\nversions-kept = {KEPT}");
    let mut platform = Platform::configured(&config);
    let mut chance = Chance(seed);
    let mut books: [Book; APPS] = std::array::from_fn(Book::new);
    for book in &mut books {
        let done = book.release(&platform.api, &mut chance);
        done.expect("nobody was killed yet");
    }
    let mut waits = Vec::new();
    for crash in 1..=count {
        let moment = Duration::from_micros(chance.below(MOMENTS) as u64);
        thread::scope(|scope| {
            for book in &mut books {
                let api = platform.api.clone();
                let mut chance = Chance(chance.0 ^ u64::from(crash) ^ book.number as u64);
                scope.spawn(move || while book.act(&api, &mut chance).is_ok() {});
            }
            thread::sleep(moment);
            platform.kill_tree();
        });
        let when =
            format!("after crash {crash} of {count}, {moment:?} from its start (seed {seed})");
        let first = &books[chance.below(APPS)];
        let began = Instant::now();
        let started = platform.try_start_again();
        started.unwrap_or_else(|said| panic!("{when}: {said}"));
        first.answers(&platform, &when);
        waits.push(began.elapsed());
        nothing_is_unfinished(&platform, &when);
        for book in &mut books {
            book.audit(&platform, &when);
        }
        // One that is not served now can be.
        let book = &mut books[chance.below(APPS)];
        let any = book.any(&mut chance);
        let served = book.serve(&platform.api, any, DeploymentCause::Rollback);
        served.unwrap_or_else(|error| panic!("{when}: {error}"));
        book.answers(&platform, &when);
    }
    for book in &mut books {
        book.serve_all(&platform);
    }
    waits.sort_unstable();
    let (middle, slowest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    let late = waits.iter().filter(|wait| **wait > PROMISED).count();
    let figures = format!(
        "from the start to the first reply {} ms in the middle and {} ms at most, {late} over {} ms",
        middle.as_millis(),
        slowest.as_millis(),
        PROMISED.as_millis()
    );
    assert!(
        middle <= PROMISED && slowest <= AT_WORST,
        "{figures} (seed {seed})"
    );
    let sum = |part: fn(&Book) -> usize| books.iter().map(part).sum::<usize>();
    format!(
        "crashes: all processes killed {count} times; {} versions and {} deployments acknowledged, none lost, and {} under way, {} of which came to be whole; {figures} (seed {seed})",
        sum(|book| book.versions.len()),
        sum(|book| book.history.len()),
        sum(|book| book.cut_off),
        sum(|book| book.came_to_be)
    )
}

/// What of an app was acknowledged, and what was asked for and not answered.
struct Book {
    number: usize,
    app: String,
    /// How many releases were made so far, in vain as well.
    releases: u32,
    uploads: Vec<Digest>,
    /// All there ever were.
    versions: BTreeMap<VersionNumber, Release>,
    /// Oldest first.
    history: Vec<(Revision, VersionNumber)>,
    under_way: UnderWay,
    cut_off: usize,
    came_to_be: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Release {
    manifest: Manifest,
    wasm: Digest,
    says: String,
}

#[derive(Debug)]
enum UnderWay {
    Nothing,
    /// It makes no difference whether it came to be, only whether it did by half.
    Upload,
    Version(Box<Release>),
    Deployment(VersionNumber),
}

impl Book {
    fn new(number: usize) -> Self {
        Self {
            number,
            app: format!("app-{number}"),
            releases: 0,
            uploads: Vec::new(),
            versions: BTreeMap::new(),
            history: Vec::new(),
            under_way: UnderWay::Nothing,
            cut_off: 0,
            came_to_be: 0,
        }
    }

    /// Publishes, deploys both or rolls back.
    fn act(&mut self, api: &Api, chance: &mut Chance) -> io::Result<()> {
        match chance.below(4) {
            0 => self.publish(api, chance).map(drop),
            1 => {
                let any = self.any(chance);
                self.serve(api, any, DeploymentCause::Rollback)
            }
            _ => self.release(api, chance),
        }
    }

    /// Publishes a release and deploys it.
    fn release(&mut self, api: &Api, chance: &mut Chance) -> io::Result<()> {
        let version = self.publish(api, chance)?;
        self.serve(api, version, DeploymentCause::Deploy)
    }

    /// Publishes a release, of code of its own or of the one before.
    fn publish(&mut self, api: &Api, chance: &mut Chance) -> io::Result<VersionNumber> {
        self.releases += 1;
        let says = format!("release {} of app {}", self.releases, self.number);
        let manifest = manifest_of(
            &self.app,
            &format!("[grant]\nenv = {{ RELEASE = '{says}' }}"),
        );
        let mut wasm = self.uploads.last().copied();
        if wasm.is_none() || chance.below(2) == 0 {
            let bytes = variant(&guest("version"), self.releases << 8 | self.number as u32);
            wasm = Some(self.upload(api, &bytes)?);
        }
        let wasm = wasm.expect("one was uploaded above");
        let release = Release {
            manifest: manifest.clone(),
            wasm,
            says,
        };
        self.under_way = UnderWay::Version(Box::new(release.clone()));
        let strict = false;
        let new = NewVersion {
            manifest,
            wasm,
            strict,
        };
        let answer = post(api, &self.path("versions"), &new)?;
        let version: Version = answer.body();
        self.versions.insert(version.number, release);
        self.under_way = UnderWay::Nothing;
        Ok(version.number)
    }

    fn upload(&mut self, api: &Api, wasm: &[u8]) -> io::Result<Digest> {
        self.under_way = UnderWay::Upload;
        let digest = Digest::of(wasm);
        let path = format!("tenants/default/artifacts/{digest}");
        let media = "content-type: application/wasm\r\n";
        api.try_send("PUT", &path, media, wasm)?.is(204);
        self.uploads.push(digest);
        self.under_way = UnderWay::Nothing;
        Ok(digest)
    }

    fn serve(
        &mut self,
        api: &Api,
        version: VersionNumber,
        cause: DeploymentCause,
    ) -> io::Result<()> {
        self.under_way = UnderWay::Deployment(version);
        let new = NewDeployment {
            version: Some(version),
            cause,
            expect: None,
            wait: None,
        };
        let deployed: Deployed = post(api, &self.path("deployments"), &new)?.body();
        let live = &deployed.live;
        assert_eq!(live.nodes, live.of, "{:?}", live.refusals);
        self.history.push((deployed.deployment.revision, version));
        self.under_way = UnderWay::Nothing;
        Ok(())
    }

    /// A version that is kept.
    fn any(&self, chance: &mut Chance) -> VersionNumber {
        let kept = KEPT.min(self.versions.len());
        let version = self.versions.keys().rev().nth(chance.below(kept));
        *version.expect("a version was published")
    }

    fn path(&self, what: &str) -> String {
        format!("tenants/default/apps/{}/{what}", self.app)
    }

    /// The app answers with the release that was acknowledged last, or with one that was under way.
    #[track_caller]
    fn answers(&self, platform: &Platform, when: &str) {
        let last = self.history.last().map(|(_, version)| *version);
        let says = |version: VersionNumber| self.versions.get(&version).map(|r| r.says.clone());
        let mut allowed: Vec<String> = last.and_then(says).into_iter().collect();
        if let UnderWay::Deployment(version) = self.under_way {
            allowed.extend(says(version));
        }
        let reply = platform.get(&self.app, "/");
        let (status, text) = (reply.status(), reply.text());
        assert!(
            status == 200 && allowed.contains(&text),
            "{when}: `{}` answered {status} {text:?}, when only {allowed:?} could answer",
            self.app
        );
    }

    /// Everything acknowledged is there, and of the rest at most what was under way, whole.
    #[track_caller]
    fn audit(&mut self, platform: &Platform, when: &str) {
        let under_way = std::mem::replace(&mut self.under_way, UnderWay::Nothing);
        let when = &format!("{when}: `{}` with {under_way:?}", self.app);
        self.cut_off += usize::from(!matches!(under_way, UnderWay::Nothing));
        let listed: Vec<Version> = platform.api.get(&self.path("versions")).is(200).body();
        let listed: BTreeMap<VersionNumber, Version> = listed
            .into_iter()
            .map(|version| (version.number, version))
            .collect();
        if let UnderWay::Version(release) = &under_way
            && let Some(newest) = listed.keys().next_back()
            && !self.versions.contains_key(newest)
        {
            self.came_to_be += 1;
            self.versions.insert(*newest, Release::clone(release));
        }
        for number in self.versions.keys().rev().take(KEPT) {
            assert!(
                listed.contains_key(number),
                "{when}: version {number} is lost"
            );
        }
        for (number, version) in &listed {
            let release = self.versions.get(number);
            let release = release.unwrap_or_else(|| panic!("{when}: whence is version {number}?"));
            let found = (&version.manifest, version.wasm);
            assert_eq!(found, (&release.manifest, release.wasm), "{when}");
            has_its_artifact(platform, version, when);
        }
        self.audit_uploads(&platform.api, when);
        self.audit_history(platform, &under_way, when);
        self.answers(platform, when);
    }

    /// None of the newest uploads must be made again.
    #[track_caller]
    fn audit_uploads(&self, api: &Api, when: &str) {
        let digests = self.uploads.iter().rev().take(KEPT).copied().collect();
        let asked = Missing { digests };
        let answer = post(api, "tenants/default/artifacts/missing", &asked);
        let missing: Missing = answer.expect("nobody is killed now").body();
        assert!(missing.digests.is_empty(), "{when}: {missing:?}");
    }

    #[track_caller]
    fn audit_history(&mut self, platform: &Platform, under_way: &UnderWay, when: &str) {
        let path = self.path("deployments");
        let listed: Vec<Deployment> = platform.api.get(&path).is(200).body();
        let listed = listed.iter().rev();
        let listed: Vec<_> = listed.map(|one| (one.revision, one.version)).collect();
        if let (UnderWay::Deployment(version), Some(newest)) = (under_way, listed.last())
            && newest == &(self.history.len() as Revision + 1, *version)
        {
            self.came_to_be += 1;
            self.history.push(*newest);
        }
        let shown = limits::DEPLOYMENTS_KEPT.default as usize;
        let expected = &self.history[self.history.len().saturating_sub(shown)..];
        assert!(
            listed == expected,
            "{when}: the history ends with {:?}, when it should with {:?}",
            tail(&listed),
            tail(expected)
        );
    }

    /// Every version that is listed answers once it is deployed.
    fn serve_all(&mut self, platform: &Platform) {
        let kept = self.versions.keys().rev().take(KEPT);
        for version in kept.copied().collect::<Vec<_>>() {
            let served = self.serve(&platform.api, version, DeploymentCause::Rollback);
            served.expect("nobody is killed any longer");
            self.answers(platform, "in the end");
        }
    }
}

fn post(api: &Api, path: &str, body: &impl Serialize) -> io::Result<Answer> {
    let body = serde_json::to_vec(body).expect("a body has a JSON form");
    let answer = api.try_send("POST", path, "content-type: application/json\r\n", &body)?;
    let status = answer.reply.status();
    assert!(
        matches!(status, 200 | 201),
        "{path}: {status} {}",
        answer.reply.text()
    );
    Ok(answer)
}

fn tail<T>(list: &[T]) -> &[T] {
    &list[list.len().saturating_sub(3)..]
}

/// A version is listed only if its upload is there, whole.
#[track_caller]
fn has_its_artifact(platform: &Platform, version: &Version, when: &str) {
    let path = platform.data().join("artifacts");
    let path = path.join(ArtifactKey::Wasm(version.wasm).to_string());
    let bytes = fs::read(&path);
    let bytes = bytes.unwrap_or_else(|error| {
        panic!(
            "{when}: version {} has no artifact: {error}",
            version.number
        )
    });
    assert_eq!(Digest::of(&bytes), version.wasm, "{when}");
}

/// No temporary file is left of what was cut off.
#[track_caller]
fn nothing_is_unfinished(platform: &Platform, when: &str) {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(platform.data().join(folder)).expect("a folder can be read");
        let name =
            |entry: io::Result<fs::DirEntry>| entry.expect("a folder can be read").file_name();
        entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect()
    };
    let mut left = names("temporary");
    let artifacts = names("artifacts").into_iter();
    left.extend(artifacts.filter(|name| name.starts_with('.')));
    assert!(left.is_empty(), "{when}: these were left: {left:?}");
}
