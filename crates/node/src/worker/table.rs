//! The routing table: host and path to app. Persistent: the next table shares all that did not change with the one
//! that serves, so a delta among 100,000 apps costs microseconds and the swap is one pointer.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, OnceLock};

use model::{AppId, Change, Entry, Host, PathPrefix, Route, limits};

use super::spread::Spread;
use super::tally::Served;

/// An app as this worker serves it.
pub struct App {
    pub entry: Arc<Entry>,
    /// What only an app that was asked for needs; most of 100,000 never are.
    pub served: OnceLock<Box<Served>>,
}

impl App {
    fn new(entry: Arc<Entry>) -> Self {
        Self {
            entry,
            served: OnceLock::new(),
        }
    }
}

/// Which app answers where. A clone shares everything with its original.
#[derive(Clone, Default)]
pub struct Table {
    apps: Spread<Arc<App>>,
    hosts: Spread<Site>,
    deeper: Spread<Deeper>,
    // Seeded by chance: nobody chooses names that meet in one bucket.
    hasher: RandomState,
}

/// A host. Nearly every one has an app at its root and nothing else.
#[derive(Clone)]
struct Site {
    host: Host,
    root: Option<Arc<App>>,
    /// How many routes below the root it has.
    deeper: u32,
}

/// A route below a host's root.
#[derive(Clone)]
struct Deeper {
    host: Host,
    path: PathPrefix,
    app: Arc<App>,
}

impl Table {
    /// Makes one change and says which app it put out of service.
    ///
    /// A route that two entries claim is the later one's; who lost it does not take it along when it goes.
    pub fn apply(&mut self, change: Change) -> Option<Arc<App>> {
        match change {
            Change::Put(entry) => {
                let app = Arc::new(App::new(entry));
                let id = &app.entry.id;
                let hash = self.hash(id);
                let old = self.apps.put(hash, |old| old.entry.id == *id, app.clone());
                for route in &app.entry.routes {
                    self.claim(route, &app);
                }
                if let Some(old) = &old {
                    self.release(old);
                }
                old
            }
            Change::Remove(id) => {
                let hash = self.hash(&id);
                let old = self.apps.take(hash, |old| old.entry.id == id)?;
                self.release(&old);
                Some(old)
            }
        }
    }

    /// The app with the longest path prefix on `host` that covers `path`.
    ///
    /// `host` is in canonical form, see [`canonical_host`]; `path` is as the client sent it.
    pub fn find(&self, host: &str, path: &str) -> Option<Arc<App>> {
        let site = self
            .hosts
            .find(self.hash(host), |site| site.host.as_str() == host)?;
        if site.deeper > 0 {
            let path = canonical_path(path);
            let mut found = prefixes(&path).filter_map(|prefix| self.below_root(host, prefix));
            if let Some(deeper) = found.next() {
                return Some(deeper.app.clone());
            }
        }
        site.root.clone()
    }

    /// Whether any app is on `host`, which is in canonical form.
    pub fn knows(&self, host: &str) -> bool {
        let is = |site: &Site| site.host.as_str() == host;
        self.hosts.find(self.hash(host), is).is_some()
    }

    /// The app of that name.
    pub fn app(&self, id: &AppId) -> Option<&Arc<App>> {
        self.apps.find(self.hash(id), |app| app.entry.id == *id)
    }

    fn below_root(&self, host: &str, path: &str) -> Option<&Deeper> {
        let is = |deeper: &Deeper| deeper.path.as_str() == path && deeper.host.as_str() == host;
        self.deeper.find(self.hash(&(host, path)), is)
    }

    fn claim(&mut self, route: &Route, app: &Arc<App>) {
        let is_root = route.path == PathPrefix::root();
        let is_new = is_root || {
            let deeper = Deeper {
                host: route.host.clone(),
                path: route.path.clone(),
                app: app.clone(),
            };
            let hash = self.hash(&(route.host.as_str(), route.path.as_str()));
            self.deeper.put(hash, leads_by(route), deeper).is_none()
        };
        let hash = self.hash(route.host.as_str());
        let is = |site: &Site| site.host == route.host;
        if self.hosts.find(hash, is).is_none() {
            let site = Site {
                host: route.host.clone(),
                root: None,
                deeper: 0,
            };
            self.hosts.put(hash, is, site);
        }
        if is_new {
            let site = self.hosts.find_mut(hash, is).expect("it was put just now");
            if is_root {
                site.root = Some(app.clone());
            } else {
                site.deeper += 1;
            }
        }
    }

    /// Takes away the routes that still lead to `app`.
    fn release(&mut self, app: &Arc<App>) {
        for route in &app.entry.routes {
            let is_root = route.path == PathPrefix::root();
            if !is_root {
                let hash = self.hash(&(route.host.as_str(), route.path.as_str()));
                let is = |deeper: &Deeper| leads_by(route)(deeper) && Arc::ptr_eq(&deeper.app, app);
                if self.deeper.take(hash, is).is_none() {
                    continue;
                }
            }
            let hash = self.hash(route.host.as_str());
            let is = |site: &Site| site.host == route.host;
            let Some(site) = self.hosts.find_mut(hash, is) else {
                continue;
            };
            if is_root {
                site.root.take_if(|root| Arc::ptr_eq(root, app));
            } else {
                site.deeper -= 1;
            }
            if site.root.is_none() && site.deeper == 0 {
                self.hosts.take(hash, is);
            }
        }
    }

    fn hash<K: Hash + ?Sized>(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }
}

fn leads_by(route: &Route) -> impl Fn(&Deeper) -> bool {
    |deeper| deeper.path == route.path && deeper.host == route.host
}

/// The one spelling of a host that the table knows: lower case, without port and without one trailing dot.
pub fn canonical_host(authority: &str) -> Cow<'_, str> {
    let bytes = authority.as_bytes();
    let host_end = match bytes.first() {
        // The colons within an IPv6 address are no port's.
        Some(b'[') => bytes
            .iter()
            .position(|b| *b == b']')
            .map_or(bytes.len(), |end| end + 1),
        _ => bytes.iter().position(|b| *b == b':').unwrap_or(bytes.len()),
    };
    let host = &authority[..host_end];
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The one spelling of a path that routes are compared with: `%XX` decoded once, `//` as one slash, `.` and `..`
/// resolved. For routing alone: the guest gets the path as it was sent.
fn canonical_path(path: &str) -> Cow<'_, str> {
    let odd = |(i, b): (usize, u8)| {
        b == b'%' || b == b'/' && matches!(path.as_bytes().get(i + 1), Some(b'/' | b'.'))
    };
    if !path.bytes().enumerate().any(odd) {
        return Cow::Borrowed(path);
    }
    let decoded = decode(path.as_bytes());
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut canonical = vec![b'/'];
    canonical.extend_from_slice(&segments.join(&b'/'));
    // A prefix is plain ASCII, so what is not UTF-8 cannot be part of the match, and may read as anything.
    Cow::Owned(String::from_utf8_lossy(&canonical).into_owned())
}

fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.first_chunk::<2>();
        let byte = pair.and_then(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
        match byte {
            Some(byte) if first == b'%' => {
                decoded.push(byte);
                rest = &after[2..];
            }
            _ => {
                decoded.push(first);
                rest = after;
            }
        }
    }
    decoded
}

/// The prefixes of whole segments that could be a route's, longest first, without the root.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let most = limits::ROUTE_PATH.default.as_usize();
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let prefix = rest?;
        rest = prefix.rfind('/').map(|end| &prefix[..end]);
        Some(prefix)
    })
    .filter(move |prefix| (2..=most).contains(&prefix.len()))
    .map(|prefix| prefix.strip_suffix('/').unwrap_or(prefix))
}

#[cfg(test)]
mod tests {
    use model::{AppLimits, Digest, Granted, GuestKind, Replies, VersionNumber};

    use super::*;

    fn entry(app: &str, version: u32, routes: &[&str]) -> Arc<Entry> {
        let route = |text: &&str| {
            let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
            Route {
                host: host.parse().unwrap(),
                path: if path.is_empty() {
                    PathPrefix::root()
                } else {
                    path.parse().unwrap()
                },
            }
        };
        Arc::new(Entry {
            id: format!("alice/{app}").parse().unwrap(),
            incarnations: Default::default(),
            version: VersionNumber::new(version).unwrap(),
            revision: u64::from(version),
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(app.as_bytes()),
            routes: routes.iter().map(route).collect(),
            grant: Granted::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        })
    }

    fn put(app: &str, version: u32, routes: &[&str]) -> Change {
        Change::Put(entry(app, version, routes))
    }

    /// Where a request goes, as `app version`, or `-`.
    fn found(table: &Table, host: &str, path: &str) -> String {
        table.find(&canonical_host(host), path).map_or_else(
            || "-".to_owned(),
            |app| format!("{} {}", app.entry.id.app, app.entry.version),
        )
    }

    #[test]
    fn the_longest_prefix_that_covers_a_path_wins() {
        let mut table = Table::default();
        table.apply(put("root", 1, &["a.test"]));
        table.apply(put("api", 1, &["a.test/api", "b.test/x"]));
        table.apply(put("deep", 1, &["a.test/api/v1"]));
        let check = |host: &str, path: &str, expected: &str| {
            assert_eq!(found(&table, host, path), expected, "{host} {path}");
        };
        check("a.test", "/", "root 1");
        check("a.test", "*", "root 1");
        check("a.test", "/apix", "root 1");
        check("a.test", "/api", "api 1");
        check("a.test", "/api/", "api 1");
        check("a.test", "/api/v10", "api 1");
        check("a.test", "/api/v1/x/y", "deep 1");
        check("b.test", "/", "-");
        check("b.test", "/x/y", "api 1");
        check("c.test", "/", "-");
        check("A.Test.:8080", "/api", "api 1");
        check("a.test..", "/", "-");
        check(&format!("a.test:{}", "9"), &"/a".repeat(9000), "root 1");
    }

    #[test]
    fn a_path_is_routed_by_one_spelling() {
        let mut table = Table::default();
        table.apply(put("root", 1, &["a.test"]));
        table.apply(put("api", 1, &["a.test/api"]));
        let check = |path: &str, expected: &str| {
            assert_eq!(found(&table, "a.test", path), expected, "{path}");
        };
        check("/%61pi", "api 1");
        check("/api%2fx", "api 1");
        check("/api%2Fx", "api 1");
        check("//api", "api 1");
        check("/./api", "api 1");
        check("/x/../api", "api 1");
        check("/x/%2e%2E/api", "api 1");
        check("/../../api", "api 1");
        check("/api/..", "root 1");
        check("/api/%2e%2e/x", "root 1");
        check("/api/../apix", "root 1");
        check("/%2561pi", "root 1");
        check("/api%", "root 1");
        check("/api/%", "api 1");
        check("/api%0", "root 1");
        check("/api%00", "root 1");
        check("/api%c0%af", "root 1");
        check("/api\\x", "root 1");
        check("/api;x", "root 1");
    }

    #[test]
    fn the_canonical_host_has_no_case_port_or_trailing_dot() {
        for (authority, host) in [
            ("a.test", "a.test"),
            ("A.TEST:80", "a.test"),
            ("a.test.:80", "a.test"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1:8080", "127.0.0.1"),
        ] {
            assert_eq!(canonical_host(authority), host);
        }
    }

    #[test]
    fn a_change_is_seen_whole_and_takes_nothing_from_others() {
        let mut table = Table::default();
        table.apply(put("a", 1, &["a.test", "x.test", "x.test/p"]));
        let before = table.clone();
        let old = table.apply(put("a", 2, &["a.test", "y.test"])).unwrap();
        assert_eq!(old.entry.version.as_u32(), 1);
        assert_eq!(found(&table, "a.test", "/"), "a 2");
        assert_eq!(found(&table, "x.test", "/p"), "-");
        assert_eq!(found(&table, "y.test", "/"), "a 2");
        assert_eq!(found(&before, "x.test", "/p"), "a 1");
        assert_eq!(found(&before, "a.test", "/"), "a 1");

        // A route that moves between apps is the new owner's, in whatever order the changes come.
        table.apply(put("b", 1, &["b.test", "a.test"]));
        table.apply(put("a", 3, &["y.test"]));
        assert_eq!(found(&table, "a.test", "/"), "b 1");
        table.apply(Change::Remove("alice/a".parse().unwrap()));
        assert_eq!(found(&table, "a.test", "/"), "b 1");
        assert_eq!(found(&table, "y.test", "/"), "-");
        table.apply(Change::Remove("alice/b".parse().unwrap()));
        assert!(
            table
                .apply(Change::Remove("alice/b".parse().unwrap()))
                .is_none()
        );
        assert_eq!(found(&table, "b.test", "/"), "-");
    }

    #[test]
    fn an_app_that_is_not_resident_takes_less_than_a_kibibyte() {
        // In a process of its own: other tests use memory too.
        let measured = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--ignored",
                "worker::table::tests::measure_an_app",
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&measured.stdout);
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn measure_an_app() {
        let resident = || -> u64 {
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        const APPS: u64 = 50_000;
        let mut table = Table::default();
        let before = resident();
        for i in 0..APPS {
            let json = serde_json::to_vec(&put(
                &format!("app-{i}"),
                1,
                &[&format!("app-{i}.localhost")],
            ));
            let change: Change = serde_json::from_slice(&json.unwrap()).unwrap();
            table.apply(change);
        }
        let each = (resident() - before) / APPS;
        assert!(each < 1024, "{each} bytes");
        assert_eq!(found(&table, "app-0.localhost", "/"), "app-0 1");
    }
}
