//! The records' schema: each step from one version of it to the next, in order. A step that was released never changes.
//!
//! Each row ends with the sum of its columns, which is checked when the records are opened: SQLite has no check of its
//! own that notices a changed bit in a row.

/// The schema that this midge writes.
pub const SCHEMA: u32 = MIGRATIONS.len() as u32;

/// The step at index `n` leads from schema `n` to schema `n + 1`.
pub(super) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE meta (
    key TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(key, value)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    name TEXT NOT NULL PRIMARY KEY,
    sum INTEGER NOT NULL AS (row_sum(name)) STORED
) STRICT, WITHOUT ROWID;
INSERT INTO tenants (name) VALUES ('default');

-- A deleted app keeps its row, so that its numbers are never used again.
CREATE TABLE apps (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    name TEXT NOT NULL,
    latest INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    version INTEGER,
    deleted INTEGER NOT NULL DEFAULT 0,
    sum INTEGER NOT NULL AS (row_sum(tenant, name, latest, revision, version, deleted)) STORED,
    PRIMARY KEY (tenant, name),
    FOREIGN KEY (tenant, name, version) REFERENCES versions (tenant, app, number) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;

CREATE TABLE versions (
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    wasm TEXT NOT NULL,
    wasm_bytes INTEGER NOT NULL,
    kind TEXT NOT NULL,
    imports TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, app, number, manifest, wasm, wasm_bytes, kind, imports, created_ms, created_by)) STORED,
    PRIMARY KEY (tenant, app, number),
    FOREIGN KEY (tenant, app) REFERENCES apps (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_by_wasm ON versions (wasm);
CREATE TRIGGER versions_never_change BEFORE UPDATE ON versions
BEGIN SELECT RAISE (ABORT, 'a version never changes'); END;

CREATE TABLE deployments (
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    revision INTEGER NOT NULL,
    version INTEGER NOT NULL,
    cause TEXT NOT NULL,
    generation INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    made_by TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, app, revision, version, cause, generation, at_ms, made_by)) STORED,
    PRIMARY KEY (tenant, app, revision),
    FOREIGN KEY (tenant, app) REFERENCES apps (tenant, name)
) STRICT, WITHOUT ROWID;

-- `own` is 1 for the host that the app's name gives it, which follows the platform's domain.
CREATE TABLE routes (
    host TEXT NOT NULL,
    path TEXT NOT NULL,
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    own INTEGER NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(host, path, tenant, app, own)) STORED,
    PRIMARY KEY (host, path),
    FOREIGN KEY (tenant, app) REFERENCES apps (tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX routes_by_app ON routes (tenant, app);

-- Who has shown that it holds the bytes: knowing a digest is not having them.
CREATE TABLE uploads (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, digest, bytes, at_ms)) STORED,
    PRIMARY KEY (tenant, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_digest ON uploads (digest);

CREATE TABLE natives (
    wasm TEXT NOT NULL,
    build TEXT NOT NULL,
    inspection TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(wasm, build, inspection)) STORED,
    PRIMARY KEY (wasm, build)
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,
    label TEXT NOT NULL,
    tenant TEXT,
    app TEXT,
    verb TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    expires_ms INTEGER,
    revoked_ms INTEGER,
    last_used_ms INTEGER,
    sum INTEGER NOT NULL AS (row_sum(id, hash, label, tenant, app, verb, created_ms, created_by, expires_ms, revoked_ms, last_used_ms)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE replies (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    content_type TEXT NOT NULL,
    body BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(token, key, request, status, content_type, body, at_ms)) STORED,
    PRIMARY KEY (token, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX replies_by_time ON replies (at_ms);

CREATE TABLE generations (
    generation INTEGER NOT NULL PRIMARY KEY,
    root TEXT NOT NULL,
    delta TEXT,
    sum INTEGER NOT NULL AS (row_sum(generation, root, delta)) STORED
) STRICT, WITHOUT ROWID;
",
    "
-- `key` is sealed, with a key that is not in this file.
CREATE TABLE certificates (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    name TEXT NOT NULL,
    hosts TEXT NOT NULL,
    chain TEXT NOT NULL,
    key BLOB NOT NULL,
    fingerprint TEXT NOT NULL,
    not_before_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, name, hosts, chain, key, fingerprint, not_before_ms, not_after_ms, created_ms, created_by)) STORED,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
",
    "
-- `value` is sealed, with a key that is not in this file; `bytes` are those of what is sealed.
CREATE TABLE secrets (
    tenant TEXT NOT NULL REFERENCES tenants (name),
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    value BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    set_ms INTEGER NOT NULL,
    set_by TEXT NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, name, revision, value, bytes, set_ms, set_by)) STORED,
    PRIMARY KEY (tenant, name)
) STRICT, WITHOUT ROWID;
",
    "
-- A deleted tenant keeps its row in `tenants`, for its deleted apps, which keep theirs.
CREATE TABLE deleted_tenants (
    name TEXT NOT NULL PRIMARY KEY REFERENCES tenants (name),
    sum INTEGER NOT NULL AS (row_sum(name)) STORED
) STRICT, WITHOUT ROWID;
",
    "
-- How many of a name were deleted: tenants where `app` is empty, else apps. A name may be one that these records never
-- knew, of a store that was found.
CREATE TABLE incarnations (
    tenant TEXT NOT NULL,
    app TEXT NOT NULL,
    number INTEGER NOT NULL,
    sum INTEGER NOT NULL AS (row_sum(tenant, app, number)) STORED,
    PRIMARY KEY (tenant, app)
) STRICT, WITHOUT ROWID;
INSERT INTO incarnations (tenant, app, number) SELECT name, '', 1 FROM deleted_tenants;
INSERT INTO incarnations (tenant, app, number) SELECT tenant, name, 1 FROM apps WHERE deleted = 1;
",
    "
-- What a tenant may have instead of what the platform gives; NULL: what the platform gives.
CREATE TABLE tenant_limits (
    tenant TEXT NOT NULL PRIMARY KEY REFERENCES tenants (name),
    apps INTEGER,
    slots INTEGER,
    kv_store INTEGER,
    sum INTEGER NOT NULL AS (row_sum(tenant, apps, slots, kv_store)) STORED
) STRICT, WITHOUT ROWID;
",
];
