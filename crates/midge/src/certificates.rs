//! The certificates that the node shows: the operator's, read at the start and again whenever their files change, and after
//! them those of tenants.
//!
//! What cannot be used is named; the one that was read before keeps serving.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use control::{Judged, Named};
use model::limits;
use model::pipe::{Certificate, Certificates as All};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::failure::Failure;
use crate::telemetry::Log;
use crate::whole_file::{self, Unreadable};

/// Where a certificate and its key lie, as PEM.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate, and those that its issuer needs to be known by.
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// Why the files of a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("`{path}` {error}")]
    Unreadable { path: PathBuf, error: Unreadable },
    #[error("`{0}` is no file")]
    NoFile(PathBuf),
    #[error(transparent)]
    Judged(#[from] control::Unusable),
}

/// The operator's certificates, by their place in the configuration.
type Own = watch::Sender<All>;

/// Keeps the certificates for as long as it is kept.
pub struct Certificates {
    own: watch::Receiver<All>,
    serving: watch::Sender<All>,
    /// End with this.
    tasks: JoinSet<()>,
    /// The task that follows the tenants' ones.
    joining: Option<AbortHandle>,
}

impl Certificates {
    /// Reads all of the operator's, and looks at their files from now on. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If one cannot be used. One that is out of its time can: clients are the ones to judge it, and other hosts must be
    /// served.
    pub fn open(files: &[CertificateFiles], log: Log) -> Result<Self, Failure> {
        let sender = read_all(files, log)?;
        let own = sender.subscribe();
        let mut tasks = JoinSet::new();
        if !files.is_empty() {
            tasks.spawn(follow(files.to_vec(), sender, log));
        }
        let serving = watch::Sender::new(own.borrow().clone());
        Ok(Self {
            own,
            serving,
            tasks,
            joining: None,
        })
    }

    /// What clients are shown.
    pub fn serving(&self) -> watch::Receiver<All> {
        self.serving.subscribe()
    }

    /// Has these shown as well, where the operator's name no host of theirs, from now on and whenever they change; instead
    /// of those that were joined before.
    pub fn join(&mut self, tenants: watch::Receiver<All>) {
        if let Some(before) = self.joining.take() {
            before.abort();
        }
        let (own, serving) = (self.own.clone(), self.serving.clone());
        put_together(&own, &tenants, &serving);
        self.joining = Some(self.tasks.spawn(join(own, tenants, serving)));
    }
}

async fn join(
    mut own: watch::Receiver<All>,
    mut tenants: watch::Receiver<All>,
    serving: watch::Sender<All>,
) {
    loop {
        // Nobody may be left who changes them; then they stay as they are.
        tokio::select! {
            Ok(()) = own.changed() => {}
            Ok(()) = tenants.changed() => {}
            else => return,
        }
        tokio::time::sleep(limits::CERTIFICATE_GATHER.default.duration()).await;
        own.mark_unchanged();
        tenants.mark_unchanged();
        put_together(&own, &tenants, &serving);
    }
}

/// The operator's come first: the first that names a host is the one for it.
fn put_together(
    own: &watch::Receiver<All>,
    tenants: &watch::Receiver<All>,
    to: &watch::Sender<All>,
) {
    let all: Vec<_> = own
        .borrow()
        .iter()
        .chain(tenants.borrow().iter())
        .cloned()
        .collect();
    to.send_replace(Arc::new(all));
}

fn read_all(files: &[CertificateFiles], log: Log) -> Result<Own, Failure> {
    let mut certificates = Vec::new();
    for files in files {
        let (certificate, judged) = read(files).map_err(|unusable| {
            Failure::usage(unusable.to_string()).hint(
                "`[[tls.certificate]]` of the configuration names the files `chain` and `key`",
            )
        })?;
        if let Some(unusable) = out_of_time(&judged, files) {
            log.warning(&unusable.to_string());
        }
        certificates.push(Arc::new(certificate));
    }
    Ok(watch::Sender::new(Arc::new(certificates)))
}

/// Looks at the files for as long as the platform runs, and puts what changed in its place.
async fn follow(files: Vec<CertificateFiles>, own: Own, log: Log) {
    let mut watched: Vec<_> = files.into_iter().map(Watched::new).collect();
    loop {
        tokio::time::sleep(limits::CERTIFICATE_LOOK.default.duration()).await;
        // A disk may take its time.
        let looking = tokio::task::spawn_blocking(move || {
            let news: Vec<_> = watched.iter_mut().map(Watched::news).collect();
            (watched, news)
        });
        let Ok((back, news)) = looking.await else {
            return;
        };
        watched = back;
        let before = own.borrow().clone();
        for (place, news) in news.into_iter().enumerate() {
            match news {
                None => {}
                Some(Ok(certificate)) => {
                    let names = certificate.names.join(", ");
                    log.info(&format!("the new certificate for {names} serves"));
                    own.send_modify(|all| Arc::make_mut(all)[place] = Arc::new(certificate));
                }
                Some(Err(unusable)) => log.warning(&format!(
                    "{unusable}; the certificate that was read before keeps serving"
                )),
            }
        }
        let lost = lost(&before, &own.borrow());
        if !lost.is_empty() {
            log.warning(&format!(
                "no file of `[[tls.certificate]]` names {} any longer: who asks for that is refused, unless a tenant's certificate is shown for it",
                lost.join(", ")
            ));
        }
    }
}

/// The hosts that certificates named before and name no longer, as they wrote them.
fn lost(before: &All, now: &All) -> Vec<String> {
    let names = |all: &All| -> BTreeSet<String> {
        let names = all.iter().flat_map(|certificate| &certificate.names);
        names.cloned().collect()
    };
    let now = names(now);
    let covered = |name: &String| {
        let rest = name.split_once('.').map(|(_, rest)| rest);
        now.contains(name) || rest.is_some_and(|rest| now.contains(&format!("*.{rest}")))
    };
    let before = names(before).into_iter();
    before.filter(|name| !covered(name)).collect()
}

/// The files of one certificate, and what was seen of them.
struct Watched {
    files: CertificateFiles,
    seen: Look,
    /// When what they hold begins, if that is yet to come.
    begins_ms: Option<i64>,
}

impl Watched {
    fn new(files: CertificateFiles) -> Self {
        Self {
            seen: look(&files),
            files,
            begins_ms: None,
        }
    }

    /// What they hold, if that is another than before, or its time has come.
    fn news(&mut self) -> Option<Result<Certificate, Unusable>> {
        let looked = look(&self.files);
        let begun = self.begins_ms.is_some_and(|begins| begins <= now_ms());
        if looked == self.seen && !begun {
            return None;
        }
        self.seen = looked;
        self.begins_ms = None;
        Some(read(&self.files).and_then(|(certificate, judged)| {
            let Some(unusable) = out_of_time(&judged, &self.files) else {
                return Ok(certificate);
            };
            self.begins_ms = Some(judged.begins_ms).filter(|begins| *begins > now_ms());
            Err(unusable)
        }))
    }
}

/// Why it does not hold now, if it does not.
fn out_of_time(judged: &Judged, files: &CertificateFiles) -> Option<Unusable> {
    let chain = files.chain.display().to_string();
    judged.out_of_time(&chain, now_ms()).map(Unusable::from)
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

/// What tells that either file is another: who it is, how long, and when it was written.
type Look = [Option<(u64, u64, i64, i64)>; 2];

fn look(files: &CertificateFiles) -> Look {
    [&files.chain, &files.key].map(|path| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.ino(), facts.len(), facts.mtime(), facts.mtime_nsec()))
    })
}

fn read(files: &CertificateFiles) -> Result<(Certificate, Judged), Unusable> {
    let chain = text(&files.chain)?;
    let key = text(&files.key)?;
    let [chain_name, key_name] = [&files.chain, &files.key].map(|path| path.display().to_string());
    let judged = control::judge(
        Named {
            name: &chain_name,
            text: &chain,
        },
        Named {
            name: &key_name,
            text: &key,
        },
    )?;
    let certificate = Certificate::new(judged.names.clone(), chain, key);
    Ok((certificate, judged))
}

fn text(path: &Path) -> Result<String, Unusable> {
    let unreadable = |error| Unusable::Unreadable {
        path: path.to_owned(),
        error,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(Unusable::NoFile(path.to_owned())),
        Err(error) => return Err(unreadable(error.into())),
    }
    whole_file::read_text(path, &limits::CERTIFICATE).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_lost_when_no_certificate_names_it_any_longer() {
        let all = |certificates: &[&str]| -> All {
            let one = |names: &&str| {
                let names = names.split(' ').map(str::to_owned).collect();
                Arc::new(Certificate::new(names, String::new(), String::new()))
            };
            Arc::new(certificates.iter().map(one).collect())
        };
        let check = |before: &[&str], now: &[&str], expected: &[&str]| {
            let found = lost(&all(before), &all(now));
            assert_eq!(found, expected, "{before:?} {now:?}");
        };
        check(&["shop.test"], &["shop.test"], &[]);
        check(&["shop.test"], &["other.test"], &["shop.test"]);
        check(
            &["a.test b.test", "c.test"],
            &["b.test", "c.test"],
            &["a.test"],
        );
        // Another one may name it, in full or by a `*`; a `*` is one whole label.
        check(&["a.test", "b.test"], &["b.test", "a.test"], &[]);
        check(&["a.shop.test"], &["*.shop.test"], &[]);
        check(&["b.a.shop.test"], &["*.shop.test"], &["b.a.shop.test"]);
        check(&["*.shop.test"], &["a.shop.test"], &["*.shop.test"]);
        check(&["*.shop.test"], &["*.shop.test"], &[]);
    }
}
