//! The catalog: everything that should be serving now, and how one generation becomes the next.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::signature::Purpose;
use crate::{
    AppId, AppLimits, Digest, Granted, GuestKind, Hasher, Incarnation, Owner, Replies, Reuse,
    Revision, Route, VersionNumber,
};

/// The catalog's number; grows with each change and never shrinks. 0 is the empty catalog.
pub type Generation = u64;

/// What a node needs to know to serve an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub id: AppId,
    /// Which of its name. Left out for the first ones, so that such an entry reads and hashes as it did before there was this.
    #[serde(default, skip_serializing_if = "Incarnations::are_first")]
    pub incarnations: Incarnations,
    pub version: VersionNumber,
    pub revision: Revision,
    pub kind: GuestKind,
    /// The upload that the version was made of.
    pub wasm: Digest,
    pub routes: Vec<Route>,
    #[serde(default)]
    pub grant: Granted,
    pub limits: AppLimits,
    /// Left out where it asks for nothing, so that such an entry reads and hashes as it did before there was this.
    #[serde(default, skip_serializing_if = "Replies::is_default")]
    pub reply: Replies,
    /// Whether its instances answer more than one request. Left out as above; apart, because few ask for it and each
    /// process holds every entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Box<Reuse>>,
}

impl Entry {
    /// Whose it is what the app keeps and says.
    pub fn owner(&self) -> Owner {
        Owner {
            app: self.id.clone(),
            incarnation: self.incarnations.app,
        }
    }
}

/// Which tenant and which app of their names is meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incarnations {
    pub tenant: Incarnation,
    pub app: Incarnation,
}

impl Incarnations {
    fn are_first(&self) -> bool {
        *self == Self::default()
    }
}

/// One step between two generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Serve this, instead of what was served under the same id.
    Put(Arc<Entry>),
    /// Serve this app no longer.
    Remove(AppId),
}

impl Change {
    pub fn id(&self) -> &AppId {
        match self {
            Self::Put(entry) => &entry.id,
            Self::Remove(id) => id,
        }
    }
}

/// A generation and the hash of everything in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogHead {
    pub generation: Generation,
    pub root: Digest,
}

impl Purpose for CatalogHead {
    const PURPOSE: &'static str = "midge catalog head 1";
}

/// The way from one generation to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// The generation this begins from; it fits no other.
    pub parent: Generation,
    /// What holds after it.
    pub head: CatalogHead,
    pub changes: Vec<Change>,
}

impl Purpose for Delta {
    const PURPOSE: &'static str = "midge catalog delta 1";
}

impl Purpose for crate::NativeHeader {
    const PURPOSE: &'static str = "midge native code 1";
}

/// Why a generation was refused; the last good one stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    #[error("generation {offered} is not newer than generation {held}")]
    NotNewer {
        offered: Generation,
        held: Generation,
    },
    #[error("the delta begins at generation {parent}; this catalog is at generation {held}")]
    OtherParent {
        parent: Generation,
        held: Generation,
    },
    #[error("generation {generation} has the root {found}; its head says {promised}")]
    OtherRoot {
        generation: Generation,
        found: Digest,
        promised: Digest,
    },
}

/// Everything that should be serving now.
///
/// A clone costs a thousand pointers and shares every entry, so an old generation can be kept while the next is
/// made. The root hash is kept by bucket: a change among 100,000 apps hashes about a hundred entries anew.
#[derive(Debug, Clone)]
pub struct Catalog {
    generation: Generation,
    buckets: Vec<Arc<Bucket>>,
    length: usize,
}

#[derive(Debug, Clone)]
struct Bucket {
    entries: BTreeMap<AppId, Leaf>,
    hash: Digest,
}

#[derive(Debug, Clone)]
struct Leaf {
    entry: Arc<Entry>,
    hash: Digest,
}

const BUCKETS: usize = 1024;

impl Default for Catalog {
    fn default() -> Self {
        let empty = Arc::new(Bucket {
            entries: BTreeMap::new(),
            hash: Hasher::new().finish(),
        });
        Self {
            generation: 0,
            buckets: vec![empty; BUCKETS],
            length: 0,
        }
    }
}

impl Catalog {
    /// The catalog that `head` describes, if `entries` are exactly its content.
    pub fn from_entries(
        head: &CatalogHead,
        entries: impl IntoIterator<Item = Arc<Entry>>,
    ) -> Result<Self, CatalogError> {
        let catalog = Self::build(head.generation, entries);
        catalog.check_root(head.root)?;
        Ok(catalog)
    }

    /// A catalog of `entries`, for who is their source.
    pub fn build(generation: Generation, entries: impl IntoIterator<Item = Arc<Entry>>) -> Self {
        let mut catalog = Self {
            generation,
            ..Self::default()
        };
        catalog.make(entries.into_iter().map(Change::Put));
        catalog
    }

    pub fn head(&self) -> CatalogHead {
        CatalogHead {
            generation: self.generation,
            root: self.root(),
        }
    }

    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How many apps it serves.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn get(&self, id: &AppId) -> Option<&Arc<Entry>> {
        self.buckets[bucket_of(id)]
            .entries
            .get(id)
            .map(|leaf| &leaf.entry)
    }

    /// Every entry, in an order of its own.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.buckets
            .iter()
            .flat_map(|bucket| bucket.entries.values().map(|leaf| &leaf.entry))
    }

    /// The catalog after `changes`, and the delta that leads there.
    pub fn change(&self, changes: Vec<Change>) -> (Self, Delta) {
        let mut next = Self {
            generation: self.generation + 1,
            ..self.clone()
        };
        next.make(changes.iter().cloned());
        let delta = Delta {
            parent: self.generation,
            head: next.head(),
            changes,
        };
        (next, delta)
    }

    /// The changes that lead from `older` to this catalog, removals first. What both share is not looked at.
    pub fn since(&self, older: &Self) -> Vec<Change> {
        let pairs = self.buckets.iter().zip(&older.buckets);
        let differing: Vec<_> = pairs
            .filter(|(new, old)| !Arc::ptr_eq(new, old) && new.hash != old.hash)
            .collect();
        let removed = differing.iter().flat_map(|(new, old)| {
            let gone = |id: &&AppId| !new.entries.contains_key(*id);
            old.entries.keys().filter(gone).cloned().map(Change::Remove)
        });
        let put = differing.iter().flat_map(|(new, old)| {
            let same = |id: &AppId, leaf: &Leaf| {
                old.entries.get(id).is_some_and(|old| old.hash == leaf.hash)
            };
            new.entries
                .iter()
                .filter(move |(id, leaf)| !same(id, leaf))
                .map(|(_, leaf)| Change::Put(leaf.entry.clone()))
        });
        removed.chain(put).collect()
    }

    /// The catalog after `delta`, if it begins here and ends where it says.
    pub fn apply(&self, delta: &Delta) -> Result<Self, CatalogError> {
        let (offered, held) = (delta.head.generation, self.generation);
        if offered <= held {
            return Err(CatalogError::NotNewer { offered, held });
        }
        if delta.parent != held {
            return Err(CatalogError::OtherParent {
                parent: delta.parent,
                held,
            });
        }
        let mut next = Self {
            generation: offered,
            ..self.clone()
        };
        next.make(delta.changes.iter().cloned());
        next.check_root(delta.head.root)?;
        Ok(next)
    }

    fn check_root(&self, promised: Digest) -> Result<(), CatalogError> {
        let found = self.root();
        if found == promised {
            Ok(())
        } else {
            Err(CatalogError::OtherRoot {
                generation: self.generation,
                found,
                promised,
            })
        }
    }

    fn root(&self) -> Digest {
        let mut hasher = Hasher::new();
        for bucket in &self.buckets {
            hasher.update(bucket.hash.as_bytes());
        }
        hasher.finish()
    }

    fn make(&mut self, changes: impl Iterator<Item = Change>) {
        let mut touched = BTreeSet::new();
        for change in changes {
            let index = bucket_of(change.id());
            touched.insert(index);
            let bucket = Arc::make_mut(&mut self.buckets[index]);
            match change {
                Change::Put(entry) => {
                    let hash = entry_hash(&entry);
                    let old = bucket
                        .entries
                        .insert(entry.id.clone(), Leaf { entry, hash });
                    self.length += usize::from(old.is_none());
                }
                Change::Remove(id) => {
                    self.length -= usize::from(bucket.entries.remove(&id).is_some())
                }
            }
        }
        for index in touched {
            let bucket = Arc::make_mut(&mut self.buckets[index]);
            let mut hasher = Hasher::new();
            for leaf in bucket.entries.values() {
                hasher.update(leaf.hash.as_bytes());
            }
            bucket.hash = hasher.finish();
        }
    }
}

fn bucket_of(id: &AppId) -> usize {
    let hash = Digest::of(id.to_string().as_bytes());
    usize::from(u16::from_be_bytes([hash.as_bytes()[0], hash.as_bytes()[1]])) % BUCKETS
}

fn entry_hash(entry: &Entry) -> Digest {
    Digest::of(&serde_json::to_vec(entry).expect("an entry always has a JSON form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_an_older_release_reads_as_one_without_what_is_new_and_hashes_as_ever() {
        let entry = entry("shop", 1);
        let json = serde_json::to_string(&entry).unwrap();
        assert!(
            !json.contains("reply") && !json.contains("incarnation"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), *entry);
        let compressed = Entry {
            reply: Replies {
                compress: vec![crate::Coding::Gzip],
            },
            ..(*entry).clone()
        };
        assert_ne!(entry_hash(&entry), entry_hash(&compressed));
        let json = serde_json::to_string(&compressed).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), compressed);
        let second = Entry {
            incarnations: Incarnations { tenant: 0, app: 1 },
            ..(*entry).clone()
        };
        assert_ne!(entry_hash(&entry), entry_hash(&second));
        let json = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), second);
    }

    fn entry(app: &str, version: u32) -> Arc<Entry> {
        Arc::new(Entry {
            id: format!("alice/{app}").parse().unwrap(),
            incarnations: Incarnations::default(),
            version: VersionNumber::new(version).unwrap(),
            revision: 1,
            kind: GuestKind::HttpComponent,
            wasm: Digest::of(app.as_bytes()),
            routes: vec![Route {
                host: format!("{app}.localhost").parse().unwrap(),
                path: Default::default(),
            }],
            grant: Granted::default(),
            limits: AppLimits::default(),
            reply: Replies::default(),
            reuse: None,
        })
    }

    #[test]
    fn the_root_tells_what_is_served_and_not_how_it_came_about() {
        let (one, _) =
            Catalog::default().change(vec![Change::Put(entry("a", 1)), Change::Put(entry("b", 1))]);
        let (two, _) = Catalog::default().change(vec![Change::Put(entry("b", 2))]);
        let (two, _) = two.change(vec![
            Change::Put(entry("a", 1)),
            Change::Put(entry("b", 1)),
            Change::Put(entry("c", 1)),
        ]);
        let (two, _) = two.change(vec![Change::Remove("alice/c".parse().unwrap())]);
        assert_eq!(one.head().root, two.head().root);
        assert_eq!((one.len(), two.len()), (2, 2));
        let (three, _) = two.change(vec![Change::Put(entry("a", 2))]);
        assert_ne!(two.head().root, three.head().root);
    }

    #[test]
    fn a_delta_fits_its_parent_alone() {
        let zero = Catalog::default();
        let (one, first) = zero.change(vec![Change::Put(entry("a", 1))]);
        let (two, second) = one.change(vec![Change::Put(entry("a", 2))]);
        assert_eq!(zero.apply(&first).unwrap().head(), one.head());
        assert_eq!(one.apply(&second).unwrap().head(), two.head());
        assert!(matches!(
            zero.apply(&second),
            Err(CatalogError::OtherParent { .. })
        ));
        assert!(matches!(
            two.apply(&first),
            Err(CatalogError::NotNewer { .. })
        ));
        let other = Delta {
            changes: vec![Change::Put(entry("a", 3))],
            ..second
        };
        assert!(matches!(
            one.apply(&other),
            Err(CatalogError::OtherRoot { .. })
        ));
    }

    #[test]
    fn the_changes_since_an_older_catalog_lead_from_it() {
        let all = |version| (0..3000).map(move |i| entry(&format!("app-{i}"), version));
        let one = Catalog::build(1, all(1));
        let (two, _) = one.change(vec![Change::Put(entry("app-7", 2))]);
        let (three, _) = two.change(vec![
            Change::Remove("alice/app-8".parse().unwrap()),
            Change::Put(entry("new", 1)),
        ]);
        let check = |new: &Catalog, old: &Catalog, steps: usize| {
            let changes = new.since(old);
            assert_eq!(changes.len(), steps);
            let (reached, _) = old.change(changes);
            assert_eq!(reached.head().root, new.head().root);
        };
        check(&one, &one, 0);
        check(&one, &Catalog::build(1, all(1)), 0);
        check(&two, &one, 1);
        check(&three, &one, 3);
        check(&one, &three, 3);
        check(&three, &Catalog::default(), 3000);
        check(&Catalog::default(), &three, 3000);
    }

    #[test]
    fn a_snapshot_is_believed_only_if_it_is_whole() {
        let all: Vec<_> = (0..3000).map(|i| entry(&format!("app-{i}"), 1)).collect();
        let catalog = Catalog::build(7, all.clone());
        assert_eq!(
            Catalog::from_entries(&catalog.head(), all.clone())
                .unwrap()
                .len(),
            3000
        );
        assert!(Catalog::from_entries(&catalog.head(), all[1..].to_vec()).is_err());
    }
}
