//! Every limit of the platform: its name, default, ceiling and reason.
//!
//! A *default* holds where nobody said otherwise. A *ceiling* is the most that a manifest may ask for; the
//! operator may lower it. The names are the ones that manifests, configuration and error texts use.

use serde::{Deserialize, Serialize};

use crate::{Millis, Size};

/// A named bound.
#[derive(Debug, Clone, Copy)]
pub struct Limit<T> {
    pub name: &'static str,
    pub default: T,
    pub ceiling: T,
    pub reason: &'static str,
}

const fn fixed<T: Copy>(name: &'static str, value: T, reason: &'static str) -> Limit<T> {
    Limit {
        name,
        default: value,
        ceiling: value,
        reason,
    }
}

macro_rules! limits {
    ($($name:ident: $type:ty = $value:expr;)*) => {
        $(pub const $name: Limit<$type> = $value;)*

        /// Every limit as its name, default, ceiling and reason: what the reference page is made of.
        pub fn all() -> Vec<[String; 4]> {
            vec![$([
                $name.name.to_owned(),
                $name.default.to_string(),
                $name.ceiling.to_string(),
                $name.reason.to_owned(),
            ],)*]
        }
    };
}

limits! {
    // One invocation
    CPU: Millis = Limit { name: "limits.cpu", default: Millis(50), ceiling: Millis::secs(30),
        reason: "CPU time of one invocation, host functions included; a core is shared by everyone on it" };
    WALL: Millis = Limit { name: "limits.wall", default: Millis::secs(30), ceiling: Millis::secs(300),
        reason: "time from a request's head to the end of its reply; a slot held is a slot others wait for" };
    MEMORY: Size = Limit { name: "limits.memory", default: Size::mib(128), ceiling: Size::mib(512),
        reason: "linear memory of one instance, summed over its memories" };
    REUSE_REQUESTS: u64 = Limit { name: "reuse.requests", default: 100, ceiling: 10_000,
        reason: "requests that one instance answers where its app asks for reuse; what it leaks goes with it" };
    REUSE_CONCURRENT: u64 = Limit { name: "reuse.concurrent", default: 16, ceiling: 16,
        reason: "requests that such an instance answers at once; what the host holds for it is bounded for all of them together" };
    REUSE_IDLE: Millis = Limit { name: "reuse.idle", default: Millis::secs(1), ceiling: Millis::secs(10),
        reason: "how long such an instance waits for its next request; it holds a slot and its memory meanwhile" };
    TABLE_ELEMENTS: u64 = fixed("table-elements", 20_000, "elements of one table; a 0.1 KB module can ask for 10,000,000");
    TABLES: u64 = fixed("tables", 8, "tables of one instance");
    MEMORIES: u64 = fixed("memories", 4, "linear memories of one instance");
    CORE_INSTANCES: u64 = fixed("core-instances", 32, "core instances of one component");
    RESOURCES: u64 = fixed("resources", 1_024, "host resources (streams, bodies, headers) one invocation holds at once");
    TASKS: u64 = fixed("tasks", 1_024, "tasks, streams and futures that one invocation of WASI 0.3 holds at once");
    HANDLES: u64 = fixed("handles", 4_096, "component-model handles one invocation holds at once");
    HOST_CALL_COPY: Size = fixed("host-call-copy", Size::mib(4), "bytes one host call copies from the guest");
    RANDOM: Size = fixed("random", Size::kib(64), "random bytes one call may ask for");
    HEADER_FIELDS: u64 = fixed("header-fields", 256, "header fields one message may have, in either direction");
    HEADER_BYTES: Size = fixed("header-bytes", Size::kib(64), "bytes one header section may have, in either direction");
    OUTGOING_AUTHORITY: Size = fixed("outgoing-authority", Size(512), "bytes of the host and port that a request of a guest's own names; a name has at most 253, and a guest may hold `resources` such requests");
    HOST_MEMORY: Size = fixed("host-memory", Size::mib(4), "bytes of header sections and bodies the host holds for one invocation in all; each body counts as 192 KiB, each field as 256 bytes and its own");
    BODY_CHUNK: Size = fixed("body-chunk", Size::kib(64), "body bytes the host holds for a guest in either direction");
    LOG_BYTES: Size = fixed("log-bytes", Size::kib(64), "bytes of standard output and standard error kept for one invocation");
    LOG_LINE: Size = fixed("log-line", Size::kib(8), "bytes of one log line; longer ones are cut in several");
    LOG_RATE: Size = fixed("log-rate", Size::mib(1), "bytes of guest output a second one tenant may log in one worker");
    COMPRESS_SMALLEST: Size = fixed("compress-smallest", Size::kib(1), "bytes from which on a reply of known length is compressed; a smaller one is one packet either way");
    COMPRESS_TURN: Size = fixed("compress-turn", Size::kib(16), "bytes of a reply that are compressed before others have the core");
    COMPRESS_WINDOW: Size = fixed("compress-window", Size::kib(128), "bytes that compression by `br` and `zstd` looks back, by `gzip` 32 KiB; what it holds in all goes with it");
    CGI_HEAD: Size = fixed("cgi-head", Size::kib(64), "bytes a command may write before the blank line that ends its CGI headers");

    // One worker
    SLOTS: u64 = Limit { name: "node.slots", default: 1_000, ceiling: 8_000,
        reason: "instances live at once in one worker; each takes 6 of the kernel's 65,530 mappings" };
    TENANT_SLOTS: u64 = Limit { name: "node.tenant-slots", default: 500, ceiling: 8_000,
        reason: "instances one tenant may have live in one worker, so that one cannot take every slot" };
    COMPRESSED: u64 = fixed("compressed", 128, "replies that are compressed at once in one worker; each takes up to 3 MiB, and more leave as they are");
    SLOTS_KEPT: u64 = fixed("slots-kept", 10, "percent of a worker's slots, the last ones, of which a tenant gets one only while it holds fewer than are free: while two tenants flood a worker, a third and a tenth get in");
    SLOT_QUEUE: u64 = fixed("slot-queue", 1_000, "requests that wait for a slot in one worker");
    SLOT_WAIT: Millis = fixed("slot-wait", Millis(20), "how long a request waits for a slot before it is refused with `overloaded`");
    SLOT_BUSY: Millis = fixed("slot-busy", Millis::secs(1), "how long after a request was refused for want of a slot others are refused at once: waiting helps in a burst, not where slots are wanting for long");
    QUARANTINE: Millis = fixed("quarantine", Millis::secs(10), "how long a worker does not run a version that failed too often; long enough to relieve its neighbours, short enough to notice that it was mended elsewhere");
    QUARANTINE_WINDOW: Millis = fixed("quarantine-window", Millis::secs(10), "how far back a version's failures count towards its quarantine");
    QUARANTINE_FAULTS: u64 = fixed("quarantine-faults", 100, "failures of a version by its own fault within `quarantine-window` that put it in quarantine; a version asked less often harms nobody");
    QUARANTINE_SHARE: u64 = fixed("quarantine-share", 50, "percent of a version's invocations within `quarantine-window` that must have failed so, lest one bad request in many takes a working app away");
    RESIDENT: u64 = Limit { name: "node.resident-apps", default: 4_000, ceiling: 10_000,
        reason: "apps one worker keeps loaded; each takes a descriptor, 3 mappings and about 100 KiB" };
    LOADING: u64 = fixed("loading", 64, "apps one worker loads at once");
    NATIVE_WAIT: Millis = fixed("native-wait", Millis::secs(30), "how long a worker waits for its supervisor to hand it native code; after an upgrade of the engine that of every app is made anew, one after the other");
    LOG_QUEUE: Size = fixed("log-queue", Size::mib(4), "log bytes a worker holds for its supervisor; beyond, lines are dropped and counted");
    LOG_BATCH: Size = fixed("log-batch", Size::kib(64), "log bytes a worker gathers before it hands them to its supervisor");
    LOG_DELAY: Millis = fixed("log-delay", Millis(20), "how long a worker gathers log lines before it hands them to its supervisor");
    LOG_PATH: Size = fixed("log-path", Size::kib(2), "bytes of a request's path that its log line keeps");
    TRACES_HONOURED: u64 = fixed("traces-honoured", 100, "requests a second that one worker records because their `traceparent` says so; beyond, chance decides as for those without one");
    TRACE_CALLS: u64 = fixed("trace-calls", 64, "calls to capabilities that the trace of one request shows");
    TRACE_STATE: Size = fixed("trace-state", Size(512), "bytes of a request's `tracestate` that its spans carry; the guest is handed all of it");
    TRACE_QUEUE: u64 = fixed("trace-queue", 1_024, "traced requests a worker holds for its supervisor; beyond, they are dropped and counted");
    TRACE_BATCH: u64 = fixed("trace-batch", 64, "traced requests in one message to the supervisor");
    RETIRED: Millis = fixed("retired", Millis::secs(10), "how long code that its app has left stays resident unused, so that a rollback finds it");
    PIPE_FRAME: Size = fixed("pipe-frame", Size::mib(16), "bytes of one message between a supervisor and a worker");
    PIPE_CHUNK: Size = fixed("pipe-chunk", Size::kib(256), "bytes of catalog in one message to a worker, so that none stalls it for long");
    WORKERS: u64 = Limit { name: "workers", default: 1, ceiling: 1_024,
        reason: "worker processes of one node; one for each core unless the operator says otherwise" };
    LISTEN_ADDRESSES: u64 = fixed("listen-addresses", 16, "addresses a node listens on; their descriptors travel to a worker in one message");
    NATIVE_REFUSED: Millis = fixed("native-refused", Millis::secs(1), "how long native code that was refused is not looked at again; each look reads a whole file");
    MENDS: u64 = fixed("mends", 64, "native codes that nodes wait for at once because theirs is missing or damaged; more are refused until one is made");
    NATIVE_FAILED: Millis = fixed("native-failed", Millis::secs(30), "how long native code that could not be made is not tried again for a node that wants it");
    LISTEN_BACKLOG: u64 = fixed("listen-backlog", 4_096, "connections that wait to be accepted in one worker; the kernel may hold fewer");
    WORKER_START: Millis = fixed("worker-start", Millis::secs(10), "how long a worker may take from its start to its first word");
    WORKER_QUEUE: u64 = fixed("worker-queue", 256, "messages that wait for one worker to read them; one that lets more pile up is ended");
    VERIFYING: u64 = fixed("verifying", 4, "native codes a node verifies at once; each reads a whole file");
    CATALOG_STEPS: u64 = fixed("catalog-steps", 256, "deltas a node keeps on disk before it writes its catalog whole; each costs a start some 0.1 ms");
    SUCCESSOR_START: Millis = fixed("successor-start", Millis::secs(30), "how long the program of an upgrade may take to say that it could take over");
    SUCCESSION: Millis = fixed("succession", Millis::secs(900), "how long it may then take to serve; apps are served by the old one meanwhile");
    SUCCESSION_COMPILE: Millis = fixed("succession-compile", Millis::secs(300), "how long it makes native code for what is served before it takes over with what it has");
    SILENCE: Millis = fixed("silence", Millis::secs(2), "a worker that says nothing for this long is killed and replaced");

    // Key-value stores
    KV_STORES: u64 = fixed("kv-stores", 16, "key-value stores of one app");
    KV_STORE: Size = Limit { name: "node.kv-store", default: Size::gib(1), ceiling: Size::gib(64),
        reason: "bytes of keys and values of one key-value store" };
    KV_NODE: Size = fixed("kv-node", Size::gib(256), "bytes of all key-value stores of a node with what is kept about them; so much address space is set apart in each process, and a file that grows as it fills");
    KV_KEY: Size = fixed("kv-key", Size::kib(1), "bytes of a key");
    KV_VALUE: Size = fixed("kv-value", Size::mib(25), "bytes of a value");
    KV_BATCH: Size = fixed("kv-batch", Size::mib(26), "bytes of keys and values that are changed together");
    KV_BATCH_KEYS: u64 = fixed("kv-batch-keys", 1_000, "keys that are read or changed together");
    KV_PAGE: u64 = fixed("kv-page", 1_000, "keys of one page of a listing");
    KV_LISTED: u64 = fixed("kv-listed", 10_000, "keys that are listed whole, by interfaces that know no pages; a store with more is refused by name");
    KV_CALLS: u64 = fixed("kv-calls", 10_000, "calls to key-value stores that one invocation may make");
    KV_HERE: Size = fixed("kv-here", Size::kib(64), "bytes of a value up to which it is read at once; a larger one is read on another thread, so that no other request waits for the disk");
    KV_PENDING: u64 = fixed("kv-pending", 256, "changes of one app's stores that one worker has under way; a commit of the node's takes all that wait");
    KV_SENDING: Size = fixed("kv-sending", Size::mib(64), "bytes of changes that one worker has under way; more wait");
    KV_RECEIVING: Size = fixed("kv-receiving", Size::mib(128), "bytes of values that the control API receives at once; beyond, one is refused with `stores-busy`");
    KV_RECEIVING_TENANT: Size = fixed("kv-receiving-tenant", Size::mib(32), "of those, the ones for one tenant's stores: who sends slowly is in nobody else's way");
    KV_COMMIT: Size = fixed("kv-commit", Size::mib(64), "bytes of changes that are committed together");
    KV_QUEUE: u64 = fixed("kv-queue", 4_096, "changes that wait for the next commit of the node's stores");
    KV_EXPIRED: u64 = fixed("kv-expired", 1_000, "values that are cleared away together when their time is over");
    KV_READERS: u64 = fixed("kv-readers", 4_096, "reads of the node's stores under way at once, in all of its workers");

    // Requests that guests send
    HTTP_GRANTS: u64 = fixed("http-grants", 64, "destinations that one manifest grants");
    SUBREQUESTS: u64 = fixed("subrequests", 32, "requests that one invocation may send");
    SUBREQUESTS_AT_ONCE: u64 = fixed("subrequests-at-once", 6, "requests of one invocation that are under way at once, until the bodies of their replies are read or let go; more wait");
    SUBREQUEST_CONNECT: Millis = fixed("subrequest-connect", Millis::secs(10), "how long a request of a guest's may take to be connected, its wait for others of the same invocation and the look-up of its name included; guests may ask for less");
    SUBREQUEST_HEAD: Millis = fixed("subrequest-head", Millis::secs(30), "how long the head of the reply may take to come; guests may ask for less");
    SUBREQUEST_BODY: Millis = fixed("subrequest-body", Millis::secs(30), "how long the next piece of the reply's body may take to come; guests may ask for less");
    SUBREQUEST_REPLY: Size = fixed("subrequest-reply", Size::mib(100), "bytes of the body of a reply to a guest's request");
    SUBREQUEST_LOOPS: u64 = fixed("subrequest-loops", 8, "how often a request may have gone through the platform: apps that call each other in a circle end there");
    ADDRESSES: u64 = fixed("addresses", 64, "addresses that a name may have for a guest's request to be sent there; each is checked");
    NAMES_KEPT: u64 = fixed("names-kept", 1_024, "names whose addresses one worker remembers, for as long as their records say");
    NAME_KEPT: Millis = fixed("name-kept", Millis::secs(300), "the longest the addresses of a name are remembered, whatever its records say");
    IDLE_CONNECTIONS: u64 = fixed("idle-connections", 512, "connections to elsewhere that one worker keeps for the next request");
    IDLE_CONNECTIONS_TENANT: u64 = fixed("idle-connections-tenant", 64, "of those, the ones of one tenant");
    IDLE_CONNECTION: Millis = fixed("idle-connection", Millis::secs(15), "how long such a connection is kept; shorter than most servers do, so that few are closed under a request");
    EGRESS_NETWORKS: u64 = fixed("egress-networks", 256, "networks that an operator allows or denies to guests' requests");
    EGRESS_ROOTS: Size = fixed("egress-roots", Size::mib(1), "bytes of the certificates that an operator trusts besides");
    // Secrets
    SECRET: Size = fixed("secret", Size::kib(64), "bytes of a secret's value");
    SECRETS_GRANTED: u64 = fixed("secrets-granted", 32, "secrets that one app is granted; a name that a guest asks for is looked for among them");
    SECRETS_TENANT: u64 = fixed("secrets-tenant", 100, "secrets of one tenant");
    SECRETS_TENANTS: Size = fixed("secrets-tenants", Size::mib(64), "bytes of all tenants' secrets together, each with 256 for what is kept about it; every worker holds them");

    // Connections and requests
    CONNECTIONS: u64 = Limit { name: "node.connections", default: 10_000, ceiling: 1_000_000,
        reason: "client connections one worker holds; each takes a descriptor and 10-20 KiB" };
    REQUEST_HEAD: Size = fixed("request-head", Size::kib(64), "bytes of a request's line and headers");
    REQUEST_FIELDS: u64 = fixed("request-fields", 100, "header fields one request may have; browsers send about 20");
    REQUEST_METHOD: Size = fixed("request-method", Size(32), "bytes of a request's method; the longest registered one has 17");
    REQUEST_TARGET: Size = fixed("request-target", Size::kib(16), "bytes of a request target (path and query)");
    HEAD_WAIT: Millis = fixed("head-wait", Millis::secs(10), "how long a request's head may take to arrive, and how long an idle connection is kept");
    LEAVE_WAIT: Millis = fixed("leave-wait", Millis::secs(3), "how long a worker that is being replaced keeps a connection that asks for nothing");
    SETTLE_WAIT: Millis = fixed("settle-wait", Millis::secs(8), "how long such a worker lets a reply that had begun be followed by another request; a deployment is not called live before");
    BODY_WAIT: Millis = fixed("body-wait", Millis::secs(30), "how long the next piece of a request body may take to arrive, and of a reply to be taken");
    PROXY_HEADER: Size = fixed("proxy-header", Size::kib(2), "bytes that a proxy says of a client by the PROXY protocol, version 2");
    CERTIFICATES: u64 = fixed("certificates", 100, "certificates of an operator");
    CERTIFICATES_TENANT: u64 = fixed("certificates-tenant", 100, "certificates of one tenant");
    CERTIFICATES_TENANTS: u64 = fixed("certificates-tenants", 2_000, "certificates of all tenants together; every worker holds each that is shown");
    CERTIFICATE_HOSTS: u64 = fixed("certificate-hosts", 100, "hosts that a tenant's certificate names; public authorities allow as many");
    CERTIFICATE_GATHER: Millis = fixed("certificate-gather", Millis(100), "how long changes of certificates are gathered before workers are told");
    CERTIFICATE_ENDS: Millis = fixed("certificate-ends", Millis::secs(3600), "how often tenants' certificates are looked through for those that have ended");
    CERTIFICATE: Size = fixed("certificate", Size::kib(64), "bytes of a certificate with those of its issuers, and of its key");
    CERTIFICATE_LOOK: Millis = fixed("certificate-look", Millis::secs(2), "how often the files of certificates are looked at for newer ones");
    TICKET_KEY: Millis = fixed("ticket-key", Millis::secs(12 * 3600), "how long one key seals the tickets that TLS sessions are resumed with; it opens them for as long again");
    HTTP2_STREAMS: u64 = fixed("http2-streams", 100, "requests in flight over one HTTP/2 connection; RFC 9113 advises no fewer");
    HTTP2_STREAM_WINDOW: Size = fixed("http2-stream-window", Size::kib(256), "bytes of one HTTP/2 request's body that come before its guest reads them");
    HTTP2_WINDOW: Size = fixed("http2-window", Size::mib(1), "the same, of all requests over one HTTP/2 connection");
    HTTP2_WAITING: Size = fixed("http2-waiting", Size::mib(64), "bytes of replies over HTTP/2 that wait to leave one worker; beyond, no connection has more than `http2-stream-window` of them");
    HTTP2_CANCELLED: u64 = fixed("http2-cancelled", 400, "requests over one HTTP/2 connection that may end before their replies do, in one second; beyond, the connection is ended");
    ROUTE_PATH: Size = fixed("route-path", Size(256), "bytes of a route's path prefix");

    // Versions
    WASM: Size = Limit { name: "control.wasm", default: Size::mib(100), ceiling: Size::mib(100),
        reason: "bytes of one upload; Python components have 18 MB" };
    MANIFEST: Size = fixed("manifest", Size::kib(64), "bytes of a manifest; it travels in every catalog");
    VERSIONS_KEPT: u64 = Limit { name: "control.versions-kept", default: 100, ceiling: 10_000,
        reason: "versions of one app that are kept; the one served and the one before it always are" };
    DEPLOYMENTS_KEPT: u64 = fixed("deployments-kept", 1_000, "deployments of one app that its history shows");
    ARTIFACT_GRACE: Millis = fixed("artifact-grace", Millis::secs(3600), "how long an artifact no version names is kept, so that an upload can become a version");
    ROUTES: u64 = fixed("routes", 32, "routes of one app");
    APPS: u64 = Limit { name: "control.apps", default: 100_000, ceiling: 1_000_000, reason: "apps of the platform" };

    // Compiling
    WASM_FUNCTIONS: u64 = fixed("wasm-functions", 200_000, "functions of one upload; 500,000 empty ones took 16 s and 2.7 GB to compile");
    WASM_LOCALS: u64 = fixed("wasm-locals", 5_000, "locals of one function; register allocation grows faster than linearly");
    WASM_LOCALS_IN_ALL: u64 = fixed("wasm-locals-in-all", 1_000_000, "locals of all functions together");
    WASM_BODY: Size = fixed("wasm-body", Size::mib(1), "bytes of one function body");
    WASM_NESTING: u64 = fixed("wasm-nesting", 2_000, "depth of nested blocks in one function");
    WASM_TYPES: u64 = fixed("wasm-types", 50_000, "types of one module or component");
    WASM_DATA_SEGMENTS: u64 = fixed("wasm-data-segments", 100_000, "data segments of one module; Go's have 29,000");
    WASM_DEPTH: u64 = fixed("wasm-depth", 8, "components within components");
    WASM_MODULES: u64 = fixed("wasm-modules", 64, "core modules in one component");
    WASM_IMPORTS: u64 = fixed("wasm-imports", 256, "imports of one component; the whole of WASI 0.2 has about 30 interfaces");
    WASM_INSTANCE: Size = fixed("wasm-instance", Size::mib(1), "bytes the engine keeps for an instance besides its memory: globals, imports, functions in tables");
    WASM_EXPORTS_LISTED: u64 = fixed("wasm-exports-listed", 100, "exports that an inspection lists");
    COMPILE_CPU: Millis = fixed("compile-cpu", Millis::secs(5), "CPU time of a compile, to which `compile-cpu-per-mib` is added");
    COMPILE_CPU_PER_MIB: Millis = fixed("compile-cpu-per-mib", Millis::secs(2), "CPU time of a compile for each MiB of the upload");
    COMPILE_CPU_MOST: Millis = fixed("compile-cpu-most", Millis::secs(90), "the most CPU time of a compile");
    COMPILE_MEMORY: Size = fixed("compile-memory", Size::gib(2), "address space of a compile");
    NATIVE: Size = fixed("native", Size::mib(256), "bytes of native code made from one upload");
    COMPILE_REPORT: Size = fixed("compile-report", Size::mib(1), "bytes of what a compile child says about an upload");
    COMPILE_WAIT: Millis = fixed("compile-wait", Millis::secs(600), "how long a version waits for its turn to compile");
    COMPILES: u64 = fixed("compiles", 4, "compiles at once, one of each tenant: one that takes long does not hold up the next tenant's");
    COMPILES_WAITING_TENANT: u64 = fixed("compiles-waiting-tenant", 16, "compiles of one tenant that wait for their turn, so that one cannot take the whole queue");
    COMPILES_WAITING: u64 = fixed("compiles-waiting", 64, "compiles that wait for their turn; beyond, a deploy is refused with `compile-queue-full`");

    // The control API
    API_BODY: Size = fixed("api-body", Size::mib(1), "bytes of an API request's body, uploads apart");
    API_WAIT: Millis = fixed("api-wait", Millis::secs(30), "how long a deployment waits for the nodes to say it is live");
    API_CONNECTIONS: u64 = fixed("api-connections", 1_000, "client connections the API holds; more wait to be accepted");
    API_CHANGES: u64 = fixed("api-changes", 2_000, "changes under way at once, those whose client has gone included");
    MISSING: u64 = fixed("missing", 1_000, "digests of one question which artifacts must be uploaded");
    API_DEPTH: u64 = fixed("api-depth", 64, "depth of nested JSON in an API request");
    RECORDS_QUEUE: u64 = fixed("records-queue", 1_024, "questions and changes that wait for the records");
    RECORDS_WAIT: Millis = fixed("records-wait", Millis::secs(10), "how long a question or change waits for a place in that queue");
    DEPLOYS_WAITING: u64 = fixed("deploys-waiting", 256, "deployments that wait for their turn; beyond, one is refused with `deploy-queue-full`");
    TENANTS: u64 = fixed("tenants", 10_000, "tenants of the platform; they are listed whole");
    TOKEN_LABEL: u64 = fixed("token-label", 200, "characters of a token's label");
    TOKENS_KEPT: Millis = fixed("tokens-kept", Millis::secs(30 * 86_400), "how long a token that ended is remembered, so that its bearer is told why");
    TOKENS: u64 = fixed("tokens", 1_000, "tokens of one tenant");
    TOKEN_FAILURES: u64 = fixed("token-failures", 20, "wrong tokens a minute from one address before it is told to wait");
    TOKEN_FAILURE_ADDRESSES: u64 = fixed("token-failure-addresses", 10_000, "addresses whose wrong tokens are counted at once");
    IDEMPOTENCY_KEYS: u64 = fixed("idempotency-keys", 10_000, "replies remembered for one token; the oldest are forgotten first");
    IDEMPOTENCY: Millis = fixed("idempotency", Millis::secs(86_400), "how long the reply to an `Idempotency-Key` is remembered");
    CLIENT_CONNECT: Millis = fixed("client-connect", Millis::secs(5), "how long a command waits for a connection to the control API");
    CLIENT_WAIT: Millis = fixed("client-wait", Millis::secs(60), "how long a command waits for an answer of the control API, beyond what it asked the platform to wait itself");
    CLIENT_TRIES: u64 = fixed("client-tries", 3, "how often a command asks again when it meets no answer at all");
    USAGE_LOOK: Millis = fixed("usage-look", Millis(100), "the shortest time between two looks of `midge top`; workers tell of their counts once a second");
    CLIENT_REPLY: Size = fixed("client-reply", Size::mib(64), "bytes of one answer of the control API, logs apart; a list of 100,000 apps has 30 MB");
    CONFIG_FILE: Size = fixed("config-file", Size::mib(1), "bytes of an operator's configuration, and of a user's profiles, so that a device is not read for ever; one with 100 certificates has 10 KB");
    TOKEN_FILE: Size = fixed("token-file", Size::kib(4), "bytes of a file that holds a token; one has 67");
    DELTAS_KEPT: u64 = fixed("deltas-kept", 1_024, "catalog deltas kept for a node that lags; beyond, it takes the whole catalog");
    LOG_RING: Size = fixed("log-ring", Size::kib(64), "newest log lines of one app kept in memory to show at once");
    LOG_RINGS: Size = fixed("log-rings", Size::mib(64), "newest log lines of all apps kept in memory");
    LOG_FOLLOW: u64 = fixed("log-follow", 1_024, "lines a follower of a log may fall behind before it misses some");
    LOG_FILE: Size = fixed("log-file", Size::mib(64), "bytes of one log file before the next is begun");
    LOG_FILES: u64 = fixed("log-files", 8, "log files kept");
    STDOUT_WAIT: Millis = fixed("stdout-wait", Millis::secs(1), "how long a platform that stops waits for whoever reads the log lines on its standard output");
    GRACE: Millis = Limit { name: "node.grace", default: Millis::secs(10), ceiling: Millis::secs(300),
        reason: "how long requests in flight may take to finish when the platform stops" };

    // Telemetry
    OTLP_QUEUE: Size = fixed("otlp-queue", Size::mib(8), "bytes of traces, and of log lines, that wait for the collector; beyond, they are dropped and counted");
    OTLP_BATCH: u64 = fixed("otlp-batch", 256, "traced requests or log lines sent to the collector at once");
    OTLP_POINTS: u64 = fixed("otlp-points", 5_000, "points of metrics sent to the collector at once");
    OTLP_DELAY: Millis = fixed("otlp-delay", Millis(500), "how long traces and log lines are gathered before they are sent to the collector");
    OTLP_WAIT: Millis = fixed("otlp-wait", Millis::secs(5), "how long the collector may take to answer");
    OTLP_TRIES: u64 = fixed("otlp-tries", 4, "how often the same is sent to a collector that does not take it now, a second later at first, then twice as long each time");
    OTLP_PAUSE: Millis = fixed("otlp-pause", Millis::secs(30), "the longest a collector may ask to be left alone");
    OTLP_REPLY: Size = fixed("otlp-reply", Size::kib(64), "bytes of an answer of the collector");
    OTLP_LAST: Millis = fixed("otlp-last", Millis::secs(3), "how long a platform that stops waits for the collector to take what is left");
    METRICS_EVERY: Millis = Limit { name: "telemetry.metrics-every", default: Millis::secs(10), ceiling: Millis::secs(3600),
        reason: "how often metrics are sent to the collector" };
}

/// The limits of one app: what its manifest asked for, within the operator's ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AppLimits {
    /// [`CPU`]
    pub cpu: Millis,
    /// [`WALL`]
    pub wall: Millis,
    /// [`MEMORY`]
    pub memory: Size,
}

impl Default for AppLimits {
    fn default() -> Self {
        Self {
            cpu: CPU.default,
            wall: WALL.default,
            memory: MEMORY.default,
        }
    }
}

impl AppLimits {
    /// The most any app may have, before the operator lowers it.
    pub const CEILING: Self = Self {
        cpu: CPU.ceiling,
        wall: WALL.ceiling,
        memory: MEMORY.ceiling,
    };
}

/// A limit that a manifest or configuration set beyond its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("`{name}` is {asked}; at most {ceiling} is allowed here")]
    AboveCeiling {
        name: &'static str,
        asked: String,
        ceiling: String,
    },
    #[error("`{name}` may not be zero")]
    Zero { name: &'static str },
}

impl AppLimits {
    /// Whether every limit is above zero and within `ceiling`.
    pub fn check(&self, ceiling: &Self) -> Result<(), LimitError> {
        check(CPU.name, self.cpu, ceiling.cpu)?;
        check(WALL.name, self.wall, ceiling.wall)?;
        check(MEMORY.name, self.memory, ceiling.memory)
    }
}

/// Whether the limit `name` is above zero and at most `ceiling`.
pub fn check<T: PartialOrd + Default + ToString>(
    name: &'static str,
    asked: T,
    ceiling: T,
) -> Result<(), LimitError> {
    if asked == T::default() {
        Err(LimitError::Zero { name })
    } else if asked > ceiling {
        Err(LimitError::AboveCeiling {
            name,
            asked: asked.to_string(),
            ceiling: ceiling.to_string(),
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_has_a_name_of_its_own_and_a_reason() {
        let mut names: Vec<_> = all()
            .into_iter()
            .map(|[name, _, _, reason]| {
                assert!(!reason.is_empty(), "{name}");
                name
            })
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_app_may_not_ask_for_nothing_or_for_more_than_the_ceiling() {
        let ceiling = AppLimits::CEILING;
        assert_eq!(AppLimits::default().check(&ceiling), Ok(()));
        let greedy = AppLimits {
            memory: Size::gib(1),
            ..AppLimits::default()
        };
        assert_eq!(
            greedy.check(&ceiling).unwrap_err().to_string(),
            "`limits.memory` is 1GiB; at most 512MiB is allowed here"
        );
        let idle = AppLimits {
            cpu: Millis(0),
            ..AppLimits::default()
        };
        assert_eq!(
            idle.check(&ceiling).unwrap_err().to_string(),
            "`limits.cpu` may not be zero"
        );
    }
}
