//! The last good catalog on disk, so that a node which reaches nothing serves what it has, through a restart too.
//!
//! One file, `last-good`: a line that names its form, a record with a whole catalog, and a record for each delta since.
//! A record is its body's length (`u32`), its number in the file (`u64`), the CRC-32C of the body, the CRC-32C of those
//! three, and its body: JSON under the signature it came with. A file that grew long is written anew, whole, beside the old one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::{
    Catalog, CatalogError, CatalogHead, Delta, Entry, PublicKey, SignatureError, Signed, limits,
};
use serde::{Deserialize, Serialize};

use super::plan::Proof;

const FORM: &[u8] = b"midge catalog 1\n";
const HEADER_BYTES: usize = 20;

/// Why the kept catalog is not believed. It is set aside, and the next good generation takes its place.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error("it cannot be read: {0}")]
    Disk(io::Error),
    #[error("it does not begin as a kept catalog of this version of Midge does")]
    Form,
    #[error("record {number} at byte {at} is not what was written")]
    Record { number: u64, at: usize },
    #[error("record {number} cannot be read: {error}")]
    Unreadable {
        number: u64,
        error: serde_json::Error,
    },
    #[error("record {number}: {error}")]
    Signature { number: u64, error: SignatureError },
    #[error("record {number}: {error}")]
    Catalog { number: u64, error: CatalogError },
}

/// The file, and where its end is.
pub struct LastGood {
    folder: PathBuf,
    /// None if the next thing to be written is a whole catalog.
    open: Option<Open>,
}

struct Open {
    file: File,
    length: u64,
    /// Records in the file; the first is the whole catalog.
    records: u64,
    /// The signed word that names the newest root.
    root: Root,
}

/// What was found on disk.
pub struct Found {
    pub last_good: LastGood,
    pub catalog: Catalog,
    pub damage: Option<Damage>,
}

/// The signed word that names a root.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Root {
    Head(Signed<CatalogHead>),
    /// The delta that led there.
    Delta(Signed<Delta>),
}

#[derive(Serialize, Deserialize)]
struct Whole<E> {
    root: Root,
    entries: Vec<E>,
}

impl LastGood {
    /// Opens the folder, which is made if it is missing. What a crash left half written is cut off; what is damaged
    /// otherwise is set aside as `last-good.damaged`.
    pub fn open(folder: PathBuf, key: &PublicKey) -> io::Result<Found> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&folder)?;
        let path = folder.join("last-good");
        let mut found = Found {
            last_good: Self { folder, open: None },
            catalog: Catalog::default(),
            damage: None,
        };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            // What lies in a broken place of the disk is as good as damaged.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(Damage::Disk(error)),
            bytes => Ok(bytes?),
        };
        let read = bytes.and_then(|bytes| Ok((read(&bytes, key)?, bytes.len() as u64)));
        match read {
            Ok((read, found_length)) => {
                found.catalog = read.catalog;
                let length = read.length as u64;
                // What cannot be made longer is served all the same, and written anew next time.
                if let Ok(file) = OpenOptions::new().append(true).open(&path)
                    && (length == found_length || file.set_len(length).is_ok())
                {
                    found.last_good.open = Some(Open {
                        file,
                        length,
                        records: read.records,
                        root: read.root,
                    });
                }
            }
            Err(damage) => {
                fs::rename(&path, path.with_extension("damaged"))?;
                found.damage = Some(damage);
            }
        }
        Ok(found)
    }

    /// Keeps a generation: it is on disk when this returns. Deltas begin where the generation kept last ended.
    ///
    /// # Errors
    /// The generation before is what a restart finds; the next one is written whole.
    pub fn keep(&mut self, catalog: &Catalog, proof: &Proof) -> io::Result<()> {
        // Another process that was to take this one's place and did not may have left a file of its own.
        let open = self.open.take().filter(|open| open.is_at(&self.path()));
        match (proof, open) {
            (Proof::Deltas(deltas), Some(mut open)) => {
                open.append(deltas)?;
                self.open = Some(open);
                Ok(())
            }
            (Proof::Deltas(deltas), None) => match deltas.last() {
                Some(delta) => self.write(catalog, Root::Delta(delta.clone())),
                None => Ok(()),
            },
            (Proof::Head(head), _) => self.write(catalog, Root::Head(head.clone())),
        }
    }

    /// Writes the file anew if it has grown long. `catalog` is the one that was kept last.
    pub fn compact(&mut self, catalog: &Catalog) -> io::Result<()> {
        match &self.open {
            Some(open) if open.records > limits::CATALOG_STEPS.default => {
                let root = open.root.clone();
                self.write(catalog, root)
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, catalog: &Catalog, root: Root) -> io::Result<()> {
        let whole = Whole {
            entries: catalog.entries().collect(),
            root,
        };
        let mut bytes = FORM.to_vec();
        add_record(&mut bytes, 0, &whole)?;
        let unfinished = self.folder.join("last-good.unfinished");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        fs::rename(&unfinished, self.folder.join("last-good"))?;
        File::open(&self.folder)?.sync_all()?;
        self.open = Some(Open {
            file,
            length: bytes.len() as u64,
            records: 1,
            root: whole.root,
        });
        Ok(())
    }

    /// Where the file lies, for who must be told.
    pub fn path(&self) -> PathBuf {
        Path::join(&self.folder, "last-good")
    }
}

impl Open {
    /// Whether the file is still the one at `path`.
    fn is_at(&self, path: &Path) -> bool {
        let place = |facts: fs::Metadata| (facts.dev(), facts.ino());
        let ours = self.file.metadata().map(place);
        matches!((ours, fs::metadata(path).map(place)), (Ok(ours), Ok(there)) if ours == there)
    }

    fn append(&mut self, deltas: &[Signed<Delta>]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (number, delta) in (self.records..).zip(deltas) {
            add_record(&mut bytes, number, delta)?;
        }
        let written = self
            .file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What was written of it must not stand before what is written next. If it cannot be cut off, the file
            // is written anew next time, and a restart before that cuts it as a torn end.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.records += deltas.len() as u64;
        if let Some(delta) = deltas.last() {
            self.root = Root::Delta(delta.clone());
        }
        Ok(())
    }
}

fn add_record(bytes: &mut Vec<u8>, number: u64, body: &impl Serialize) -> io::Result<()> {
    let at = bytes.len();
    bytes.extend_from_slice(&[0; HEADER_BYTES]);
    serde_json::to_writer(&mut *bytes, body)?;
    let (header, body) = bytes[at..].split_at_mut(HEADER_BYTES);
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..12].copy_from_slice(&number.to_le_bytes());
    header[12..16].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let sum = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&sum.to_le_bytes());
    Ok(())
}

struct Read {
    catalog: Catalog,
    /// Up to the end of the last whole record.
    length: usize,
    records: u64,
    root: Root,
}

fn read<'a>(bytes: &'a [u8], key: &PublicKey) -> Result<Read, Damage> {
    let mut rest = bytes.strip_prefix(FORM).ok_or(Damage::Form)?;
    let mut number = 0;
    let record = |number, rest: &'a [u8]| {
        let at = bytes.len() - rest.len();
        next_record(number, rest).map_err(|()| Damage::Record { number, at })
    };
    let (body, after) = record(0, rest)?.ok_or(Damage::Record {
        number,
        at: FORM.len(),
    })?;
    rest = after;
    let (mut catalog, mut root) = read_whole(body, key)?;
    while let Some((body, after)) = record(number + 1, rest)? {
        number += 1;
        rest = after;
        let signed: Signed<Delta> =
            serde_json::from_slice(body).map_err(|error| Damage::Unreadable { number, error })?;
        let delta = signed
            .verify(key)
            .map_err(|error| Damage::Signature { number, error })?;
        catalog = catalog
            .apply(&delta)
            .map_err(|error| Damage::Catalog { number, error })?;
        root = Root::Delta(signed);
    }
    Ok(Read {
        catalog,
        length: bytes.len() - rest.len(),
        records: number + 1,
        root,
    })
}

/// A record's body, and what follows the record.
type BodyAndRest<'a> = (&'a [u8], &'a [u8]);

/// The body of the record `number` at the start of `rest` and what follows it, or none if the file ends before the record
/// does, as it may after a crash: nobody was told that such a record is on disk.
fn next_record(number: u64, rest: &[u8]) -> Result<Option<BodyAndRest<'_>>, ()> {
    let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let field = |at: usize| {
        let bytes = std::array::from_fn(|i| header[at + i]);
        u32::from_le_bytes(bytes)
    };
    if crc32c::crc32c(&header[..16]) != field(16) {
        // Some file systems make a file longer before its bytes arrive.
        let nothing_arrived = header.iter().chain(rest).all(|byte| *byte == 0);
        return if nothing_arrived { Ok(None) } else { Err(()) };
    }
    if header[4..12] != number.to_le_bytes() {
        return Err(());
    }
    let Some((body, after)) = rest.split_at_checked(field(0) as usize) else {
        return Ok(None);
    };
    match crc32c::crc32c(body) == field(12) {
        true => Ok(Some((body, after))),
        false if after.is_empty() => Ok(None),
        false => Err(()),
    }
}

fn read_whole(body: &[u8], key: &PublicKey) -> Result<(Catalog, Root), Damage> {
    let number = 0;
    let whole: Whole<Arc<Entry>> =
        serde_json::from_slice(body).map_err(|error| Damage::Unreadable { number, error })?;
    let head = match &whole.root {
        Root::Head(head) => head.verify(key),
        Root::Delta(delta) => delta.verify(key).map(|delta| delta.head),
    };
    let head = head.map_err(|error| Damage::Signature { number, error })?;
    let catalog = Catalog::from_entries(&head, whole.entries)
        .map_err(|error| Damage::Catalog { number, error })?;
    Ok((catalog, whole.root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::example;

    fn open(folder: &Path) -> Found {
        LastGood::open(folder.to_owned(), &example::key(7).public()).unwrap()
    }

    fn head(catalog: &Catalog) -> Proof {
        Proof::Head(Signed::sign(&catalog.head(), &example::key(7)))
    }

    fn step(from: &Catalog, to: &Catalog) -> Proof {
        let delta = example::delta(from, to);
        Proof::Deltas(vec![Signed::sign(&delta, &example::key(7))])
    }

    /// Keeps the first of `catalogs` whole and the others as steps.
    fn keep(folder: &Path, catalogs: &[Catalog]) {
        let mut last_good = open(folder).last_good;
        last_good.keep(&catalogs[0], &head(&catalogs[0])).unwrap();
        for pair in catalogs.windows(2) {
            last_good.keep(&pair[1], &step(&pair[0], &pair[1])).unwrap();
        }
    }

    #[test]
    fn what_is_kept_after_another_process_kept_something_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let catalogs = example::catalogs(5);
        let mut ours = open(folder.path()).last_good;
        ours.keep(&catalogs[1], &head(&catalogs[1])).unwrap();
        let mut others = open(folder.path()).last_good;
        others.keep(&catalogs[2], &head(&catalogs[2])).unwrap();
        ours.keep(&catalogs[3], &step(&catalogs[2], &catalogs[3]))
            .unwrap();
        let found = open(folder.path()).catalog;
        assert_eq!(found.head(), catalogs[3].head());
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(folder.path()).catalog.generation(), 0);
        let catalogs = example::catalogs(6);
        keep(folder.path(), &catalogs[1..4]);
        let Found {
            mut last_good,
            catalog,
            ..
        } = open(folder.path());
        assert_eq!(catalog.head(), catalogs[3].head());
        last_good
            .keep(&catalogs[4], &step(&catalogs[3], &catalogs[4]))
            .unwrap();
        drop(last_good);
        assert_eq!(open(folder.path()).catalog.head(), catalogs[4].head());
    }

    #[test]
    fn no_flipped_bit_makes_another_catalog() {
        let folder = tempfile::tempdir().unwrap();
        let catalogs = example::catalogs(4);
        keep(folder.path(), &catalogs[1..]);
        let key = example::key(7).public();
        let bytes = fs::read(folder.path().join("last-good")).unwrap();
        let last_record = FORM.len() + record_starts(&bytes)[2];
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            match read(&damaged, &key) {
                Err(_) => {}
                Ok(read) => {
                    // The newest record may be taken for one that was being written.
                    assert!(at >= last_record, "byte {at} went unnoticed");
                    assert_eq!(read.catalog.head(), catalogs[2].head());
                }
            }
        }
    }

    #[test]
    fn a_torn_end_is_cut_and_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-good");
        let catalogs = example::catalogs(4);
        keep(folder.path(), &catalogs[1..]);
        let bytes = fs::read(&path).unwrap();
        let starts = record_starts(&bytes);
        for length in 0..bytes.len() {
            let (cut, first) = (&bytes[..length], FORM.len() + starts[1]);
            let with_zeros = [cut, &[0; 30]].concat();
            let whole_records = starts[1..]
                .iter()
                .filter(|start| FORM.len() + **start <= length)
                .count();
            fs::write(&path, cut).unwrap();
            let found = open(folder.path());
            assert_eq!(found.damage.is_some(), length < first, "{length}");
            if length < first {
                continue;
            }
            assert_eq!(found.catalog.head(), catalogs[whole_records].head());
            // What comes next is found after what was whole.
            let mut last_good = found.last_good;
            let (held, next) = (&catalogs[whole_records], &catalogs[whole_records + 1]);
            last_good.keep(next, &step(held, next)).unwrap();
            assert_eq!(open(folder.path()).catalog.head(), next.head());

            if [cut.len()]
                .iter()
                .all(|end| starts.contains(&(end - FORM.len())))
            {
                fs::write(&path, with_zeros).unwrap();
                assert_eq!(open(folder.path()).catalog.head(), held.head());
            }
        }
    }

    #[test]
    fn a_damaged_catalog_is_set_aside_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last-good");
        let catalogs = example::catalogs(4);
        keep(folder.path(), &catalogs[1..]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[FORM.len() + HEADER_BYTES + 9] ^= 1;
        fs::write(&path, &bytes).unwrap();

        let mut found = open(folder.path());
        let damage = found.damage.unwrap().to_string();
        assert_eq!(damage, "record 0 at byte 16 is not what was written");
        assert_eq!(found.catalog.generation(), 0);
        let aside = fs::read(folder.path().join("last-good.damaged")).unwrap();
        assert_eq!(aside, bytes);
        // Even if the next word is a step, the whole is written.
        let proof = step(&catalogs[2], &catalogs[3]);
        found.last_good.keep(&catalogs[3], &proof).unwrap();
        assert_eq!(open(folder.path()).catalog.head(), catalogs[3].head());
    }

    #[test]
    fn another_keys_catalog_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), &example::catalogs(3)[1..]);
        let stranger = example::key(8).public();
        let found = LastGood::open(folder.path().to_owned(), &stranger).unwrap();
        assert!(matches!(found.damage, Some(Damage::Signature { .. })));
    }

    #[test]
    fn a_file_that_grew_long_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let steps = limits::CATALOG_STEPS.default as usize;
        let catalogs = example::catalogs(steps + 3);
        keep(folder.path(), &catalogs[1..steps + 2]);
        let path = folder.path().join("last-good");
        let length = |path: &Path| fs::metadata(path).unwrap().len();
        let before = length(&path);
        let Found {
            mut last_good,
            catalog,
            ..
        } = open(folder.path());
        last_good.compact(&catalog).unwrap();
        assert!(length(&path) < before / 10);
        let (held, next) = (&catalogs[steps + 1], &catalogs[steps + 2]);
        assert_eq!(catalog.head(), held.head());
        last_good.keep(next, &step(held, next)).unwrap();
        assert_eq!(open(folder.path()).catalog.head(), next.head());
    }

    #[test]
    fn ten_thousand_apps_and_as_many_steps_as_are_kept_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let large = Catalog::build(1, (0..10_000).map(|app| example::entry(app, 1)));
        let mut last_good = open(folder.path()).last_good;
        last_good.keep(&large, &head(&large)).unwrap();
        let mut catalog = large;
        for revision in 0..limits::CATALOG_STEPS.default {
            let put = model::Change::Put(example::entry(revision, 2));
            let (next, delta) = catalog.change(vec![put]);
            let proof = Proof::Deltas(vec![Signed::sign(&delta, &example::key(7))]);
            last_good.keep(&next, &proof).unwrap();
            catalog = next;
        }
        assert_eq!(open(folder.path()).catalog.head(), catalog.head());
    }

    /// Where records begin, counted from the end of the form's line.
    fn record_starts(bytes: &[u8]) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut rest = &bytes[FORM.len()..];
        let all = rest.len();
        while let Ok(Some((_, after))) = next_record(starts.len() as u64, rest) {
            starts.push(all - rest.len());
            rest = after;
        }
        starts
    }
}
