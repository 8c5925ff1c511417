//! What the records keep, refuse and survive.

use model::Incarnations;

use super::*;
use crate::records::incarnations;

fn damaged(path: &Path) -> String {
    match Records::open(path) {
        Err(error @ RecordsError::Damaged { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a damaged file was opened"),
    }
}

#[tokio::test]
async fn records_open_again_with_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    let records = Records::open(&path).unwrap();
    records
        .write(|t| {
            t.execute("INSERT INTO meta VALUES ('a', 'b')", [])?;
            Ok::<_, RecordsError>(())
        })
        .await
        .unwrap();
    let refused: Result<(), _> = records
        .write(|t| {
            t.execute("INSERT INTO meta VALUES ('c', 'd')", [])?;
            Err(RecordsError::Closed)
        })
        .await;
    assert!(refused.is_err());
    records.close().await;
    let after: Result<(), _> = records.read(|_| Ok::<_, RecordsError>(())).await;
    assert!(matches!(after, Err(RecordsError::Closed)));

    let again = Records::open(&path).unwrap();
    let keys: String = again
        .read(|c| {
            let sql = "SELECT group_concat(key) FROM meta";
            Ok::<_, RecordsError>(c.query_row(sql, [], |row| row.get(0))?)
        })
        .await
        .unwrap();
    assert_eq!(keys, "a");
}

#[test]
fn a_newer_schema_is_refused_naming_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .pragma_update(None, "user_version", SCHEMA + 7)
        .unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let text = Records::open(&path).err().unwrap().to_string();
    assert!(text.contains(&format!("schema {}", SCHEMA + 7)), "{text}");
    assert!(text.contains(&format!("schema {SCHEMA} ")), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_damaged_file_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    std::fs::write(
        &path,
        b"this was never a database, not for one page".repeat(100),
    )
    .unwrap();
    assert!(damaged(&path).contains("midge restore"));

    let path = folder.path().join("other.db");
    let connection = open(&path).unwrap();
    for i in 0..5000 {
        connection
            .execute("INSERT INTO meta VALUES (?1, 'x')", [format!("key-{i}")])
            .unwrap();
    }
    drop(connection);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end / 4..end - 4096].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    assert!(damaged(&path).contains("other.db"));
}

#[test]
fn a_changed_row_index_or_schema_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    let connection = open(&path).unwrap();
    connection
        .execute(
            "INSERT INTO meta VALUES ('key', 'a value of some length')",
            [],
        )
        .unwrap();
    connection
        .execute(
            "INSERT INTO uploads (tenant, digest, bytes, at_ms) VALUES ('default', 'a digest', 7, 8)",
            [],
        )
        .unwrap();
    drop(connection);
    let whole = std::fs::read(&path).unwrap();
    assert!(open(&path).is_ok());
    let check = |written: &[u8], changed: &[u8], which: &dyn Fn(usize) -> bool, expected: &str| {
        let mut bytes = whole.clone();
        let places = bytes.windows(written.len()).enumerate();
        let places = places.filter(|(_, here)| *here == written);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        for (_, place) in places.iter().enumerate().filter(|(index, _)| which(*index)) {
            bytes[*place..][..changed.len()].copy_from_slice(changed);
        }
        std::fs::write(&path, bytes).unwrap();
        let text = damaged(&path);
        assert!(text.contains(expected), "{text}");
    };
    check(b"a value", b"A value", &|_| true, "1 rows of `meta`");
    // Once in the table, once in its index.
    check(
        b"a digest",
        b"b digest",
        &|index| index == 0,
        "missing from index",
    );
    check(
        b"a digest",
        b"b digest",
        &|index| index == 1,
        "missing from index",
    );
    check(b"a digest", b"b digest", &|_| true, "1 rows of `uploads`");
    // A column, and the sum that names it; pages that were divided hold both more than once.
    check(b"last_used_ms", b"last_used_mt", &|_| true, "its schema");
    check(
        b"last_used_ms",
        b"last_used_mt",
        &|index| index % 2 == 0,
        "last_used_m",
    );
    check(b"last_used_ms", b"\xecast_used_ms", &|_| true, "utf-8");
}

/// The rows of every table of a schema, each as SQLite writes its values.
fn rows(connection: &Connection, tables: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for table in tables {
        let mut ask = connection
            .prepare(&format!("SELECT * FROM {table}"))
            .unwrap();
        let columns = ask.column_count();
        let read = ask.query_map([], |row| {
            let values = (0..columns).map(|column| format!("{:?}", row.get_ref(column).unwrap()));
            Ok(format!(
                "{table}: {}",
                values.collect::<Vec<_>>().join(", ")
            ))
        });
        all.extend(read.unwrap().map(Result::unwrap));
    }
    all
}

/// What a midge of schema 1 wrote: a row in each of its tables.
const OF_SCHEMA_1: &str = "
BEGIN;
INSERT INTO meta VALUES ('domain', 'midge.example');
INSERT INTO tenants VALUES ('alice');
INSERT INTO apps (tenant, name, latest, revision, version) VALUES ('alice', 'shop', 1, 1, 1);
INSERT INTO versions VALUES ('alice', 'shop', 1, '{\"name\":\"shop\"}', 'a digest', 7, 'http-component', '[]', 8, 'maker');
INSERT INTO deployments VALUES ('alice', 'shop', 1, 1, '\"deploy\"', 1, 9, 'maker');
INSERT INTO routes VALUES ('shop.com', '/', 'alice', 'shop', 0);
INSERT INTO uploads VALUES ('alice', 'a digest', 7, 8);
INSERT INTO natives VALUES ('a digest', 'a build', '{}');
INSERT INTO tokens (id, hash, label, tenant, verb, created_ms, created_by) VALUES ('id', 'hash', 'label', 'alice', '\"admin\"', 8, 'maker');
INSERT INTO replies VALUES ('id', 'key', 'request', 200, 'application/json', x'7b7d', 9);
INSERT INTO generations VALUES (1, 'root', NULL);
COMMIT;
";

/// What one of schema 2 had besides.
const OF_SCHEMA_2: &str = "
INSERT INTO certificates VALUES ('alice', 'shop', '[\"shop.com\"]', 'chain', x'00ff', 'a digest', 1, 2, 8, 'maker');
";

/// What one of schema 3 had besides.
const OF_SCHEMA_3: &str = "
INSERT INTO secrets (tenant, name, revision, value, bytes, set_ms, set_by) VALUES ('alice', 'key', 1, x'00ff', 1, 8, 'maker');
";

/// What one of schema 4 had besides: what was deleted.
const OF_SCHEMA_4: &str = "
BEGIN;
INSERT INTO tenants (name) VALUES ('gone');
INSERT INTO deleted_tenants (name) VALUES ('gone');
INSERT INTO apps (tenant, name, latest, revision, deleted) VALUES ('gone', 'shop', 3, 2, 1), ('alice', 'gone', 1, 0, 1);
COMMIT;
";

/// What was deleted before it was counted was one of each name at least.
#[test]
fn what_an_older_schema_had_deleted_is_not_what_comes_to_be_of_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    let mut older = Connection::open(&path).unwrap();
    know_row_sum(&older).unwrap();
    migrate_to(&mut older, 4).unwrap();
    older.execute_batch(OF_SCHEMA_1).unwrap();
    older.execute_batch(OF_SCHEMA_4).unwrap();
    drop(older);
    let today = open(&path).unwrap();
    let all = incarnations::all(&today).unwrap();
    for (id, tenant, app) in [
        ("alice/shop", 0, 0),
        ("alice/gone", 0, 1),
        ("gone/shop", 1, 1),
    ] {
        let id = id.parse().unwrap();
        let expected = Incarnations { tenant, app };
        assert_eq!(all.of(&id), expected, "{id}");
        assert_eq!(incarnations::of(&today, &id).unwrap(), expected, "{id}");
    }
}

/// What one of schema 5 had besides.
const OF_SCHEMA_5: &str = "
INSERT INTO incarnations (tenant, app, number) VALUES ('gone', 'shop', 1);
";

#[test]
fn records_of_an_older_schema_are_taken_over_with_all_that_they_hold() {
    let rows = [
        OF_SCHEMA_1,
        OF_SCHEMA_2,
        OF_SCHEMA_3,
        OF_SCHEMA_4,
        OF_SCHEMA_5,
    ];
    // Since which schema there is what is empty at first.
    let tables = [
        (2, "certificates"),
        (3, "secrets"),
        (4, "deleted_tenants"),
        (6, "tenant_limits"),
    ];
    for schema in 1..=rows.len() {
        let newer = tables.iter().filter(|(since, _)| *since > schema);
        let newer: Vec<&str> = newer.map(|(_, table)| *table).collect();
        taken_over(schema as u32, &rows[..schema], &newer);
    }
}

/// Writes `rows_of` into records of an older `schema`, and finds all of it in today's, with what is `newer` empty.
fn taken_over(schema: u32, rows_of: &[&str], newer: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.db");
    let mut older = Connection::open(&path).unwrap();
    know_row_sum(&older).unwrap();
    migrate_to(&mut older, schema).unwrap();
    for rows in rows_of {
        older.execute_batch(rows).unwrap();
    }
    let tables = schema_of(&older).unwrap().into_iter();
    let tables: Vec<String> = tables
        .filter(|[kind, ..]| kind == "table")
        .map(|[_, name, _]| name)
        .collect();
    let before = rows(&older, &tables);
    for table in &tables {
        let begins = format!("{table}: ");
        let there = before.iter().any(|row| row.starts_with(&begins));
        assert!(there, "`{table}` is empty");
    }
    drop(older);
    for _ in 0..2 {
        let today = open(&path).unwrap();
        assert_eq!(version(&today).unwrap(), SCHEMA);
        assert_eq!(rows(&today, &tables), before);
        for table in newer {
            let count = format!("SELECT count(*) FROM {table}");
            let count: i64 = today.query_row(&count, [], |row| row.get(0)).unwrap();
            assert_eq!(count, 0, "{table}");
        }
    }
}
