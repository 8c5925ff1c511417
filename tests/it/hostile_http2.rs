//! Hostile HTTP/2: whoever floods, stalls or lies loses a stream or the connection, keeps nothing, and the neighbours
//! notice nothing.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use model::limits;
use tests::http2::frames::{
    AGAIN, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Fate, Frames, HEADERS,
    INITIAL_WINDOW_SIZE, MOST, PADDED, PING, PREFACE, RST_STREAM, WHOLE, WINDOW_UPDATE, block,
    frame, priority, remembered, settings, table_size, telling,
};
use tests::http2::{Fields, Reason};
use tests::load::{Always, Protocol};
use tests::{Load, anonymous_bytes, eventually, guest};

use crate::hostile_http::{self, Watched};

/// Frames of one attack: more than any client has reason to send.
const FLOOD: u32 = 5_000;

/// Bytes that a worker may hold more than before when an attack is over or held up. Most are the slots of the guests that
/// ran, which stay resident.
const KEPT: u64 = 64 << 20;

/// A platform under attack, in whose one worker a neighbour is served over either protocol all the while.
struct Front {
    platform: Watched,
    load: Load,
    before: u64,
}

impl Front {
    /// With these guests, which have time enough.
    fn open(apps: &[&'static str]) -> Self {
        let platform = Watched::configured("workers = 1");
        let limits = "[limits]\nwall = '120s'\ncpu = '10s'";
        for app in apps {
            platform.deploy_with(app, &guest(app), limits);
        }
        let load = Load::over(
            Protocol::Http2,
            platform.listen,
            &platform.host("hello"),
            "/",
            1,
            Duration::from_millis(5),
            Arc::new(Always("Hello, Midge!\n")),
        );
        let before = anonymous_bytes(platform.workers()[0]);
        Self {
            platform,
            load,
            before,
        }
    }

    /// A connection to an app.
    fn connect(&self, app: &str) -> Frames {
        self.connect_with(app, &[])
    }

    fn connect_with(&self, app: &str, settings: &[(u16, u32)]) -> Frames {
        let host = self.platform.host(app);
        Frames::open_with(self.platform.listen, &host, settings).unwrap()
    }

    /// What becomes of a request that these frames make, on stream 1 of a connection of its own.
    fn fate(&self, app: &str, frames: &[u8]) -> Fate {
        let mut connection = self.connect(app);
        // The platform may end the connection before it has read everything.
        let _ = connection.send(frames);
        connection.fate(1).unwrap()
    }

    /// Asserts that a request with this block of fields is refused: itself with 400, its stream or its connection.
    #[track_caller]
    fn refuses(&self, app: &str, block: &[u8]) {
        let fate = self.fate(app, &frame(HEADERS, WHOLE, 1, block));
        let shown = block.escape_ascii();
        match fate.end {
            End::Whole => assert_eq!(fate.status, Some(400), "{shown}: {fate:?}"),
            End::Open | End::Reset(_) | End::Closed(_) => {
                assert_eq!(fate.status, None, "{shown}: {fate:?}");
            }
        }
    }

    /// Asserts that no request has reached an app, and asks it once.
    #[track_caller]
    fn was_not_reached(&self, app: &str) {
        let served = format!(r#"midge_requests_total{{tenant="default",app="{app}""#);
        assert_eq!(self.metric(&served), 0.0, "what is no request was served");
        self.get(app, "/").is(200);
        eventually("a request of the app would have been counted", || {
            (self.metric(&served) == 1.0).then_some(())
        });
    }

    /// Asserts that the worker holds little more than before.
    #[track_caller]
    fn keeps_little(&self) {
        let held = anonymous_bytes(self.platform.workers()[0]).saturating_sub(self.before);
        assert!(held < KEPT, "{held} bytes more than before");
    }

    /// Waits until so many guests run, the neighbours' apart.
    fn runs(&self, least: u64) {
        eventually(&format!("{least} guests run"), || {
            (self.platform.metric("midge_live_instances") >= least as f64).then_some(())
        });
    }

    /// Asserts that the neighbours were served always, in the same worker, and that every slot is free.
    #[track_caller]
    fn holds(self) {
        self.load.stop().is_clean();
        self.platform.unharmed();
    }
}

impl Deref for Front {
    type Target = Watched;

    fn deref(&self) -> &Watched {
        &self.platform
    }
}

/// The first streams of a client.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// What is said of each of them.
fn of_each(count: u32, say: impl FnMut(u32) -> Vec<u8>) -> Vec<u8> {
    streams(count).flat_map(say).collect()
}

/// H26: behind a preface, HTTP/1.1 is no request, nor is a second preface.
#[test]
fn nothing_but_frames_follows_a_preface() {
    let front = Front::open(&["headers"]);
    let host = front.host("headers");
    let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
    for behind in [request.as_bytes(), PREFACE] {
        let mut connection = Frames::silent(front.listen, &host).unwrap();
        let _ = connection.send(&[PREFACE, behind].concat());
        connection.ended().unwrap();
    }
    front.was_not_reached("headers");
    front.holds();
}

/// H36
#[test]
fn requests_that_are_given_up_at_once_end_their_connection() {
    let front = Front::open(&["slow"]);
    let cancel = |stream| telling(RST_STREAM, stream, Reason::CANCEL.into());
    // All at once: most are given up before anybody has looked at them.
    for _ in 0..5 {
        let mut connection = front.connect("slow");
        let ask = connection.block("GET", "/wait/60000", &[]);
        let both = |stream| [frame(HEADERS, WHOLE, stream, &ask), cancel(stream)].concat();
        let flood = of_each(FLOOD, both);
        let _ = connection.send(&flood);
        let said = connection.ended().unwrap();
        assert!(
            matches!(said, None | Some(Reason::ENHANCE_YOUR_CALM)),
            "{said:?}"
        );
    }
    // Each only when the platform has taken it.
    let mut connection = front.connect("slow");
    let ask = connection.block("GET", "/wait/60000", &[]);
    let all: Vec<u32> = streams(FLOOD).collect();
    let ended = all.chunks(50).any(|some| {
        let asks = some
            .iter()
            .flat_map(|stream| frame(HEADERS, WHOLE, *stream, &ask));
        let cancels = some.iter().flat_map(|stream| cancel(*stream));
        let (asks, cancels): (Vec<u8>, Vec<u8>) = (asks.collect(), cancels.collect());
        let begun = connection.send(&asks).and_then(|()| connection.heard());
        begun.and_then(|()| connection.send(&cancels)).is_err()
    });
    assert!(ended, "{FLOOD} guests were begun and given up");
    front.keeps_little();
    front.holds();
}

/// H37
#[test]
fn requests_that_the_platform_must_give_up_end_their_connection() {
    let front = Front::open(&["slow"]);
    let overflow = |stream| telling(WINDOW_UPDATE, stream, MOST);
    let nothing = |stream| telling(WINDOW_UPDATE, stream, 0);
    let after_itself = |stream| priority(stream, stream, 0);
    let body_after_the_end = |stream| frame(DATA, 0, stream, b"more");
    let head_after_the_end = |stream| frame(HEADERS, END_HEADERS, stream, &block(&[("x", "y")]));
    let mistakes: [&dyn Fn(u32) -> Vec<u8>; 5] = [
        &overflow,
        &nothing,
        &after_itself,
        &body_after_the_end,
        &head_after_the_end,
    ];
    for mistake in mistakes {
        let mut connection = front.connect("slow");
        let ask = connection.block("GET", "/wait/60000", &[]);
        let both = |stream| [frame(HEADERS, WHOLE, stream, &ask), mistake(stream)].concat();
        let flood = of_each(FLOOD, both);
        let _ = connection.send(&flood);
        connection.ended().unwrap();
    }
    // The window of the connection has a limit as well.
    let mut connection = front.connect("slow");
    let _ = connection.send(&telling(WINDOW_UPDATE, 0, MOST));
    let said = connection.ended().unwrap();
    assert!(
        matches!(said, None | Some(Reason::FLOW_CONTROL_ERROR)),
        "{said:?}"
    );
    front.keeps_little();
    front.holds();
}

/// H38
#[test]
fn a_head_that_goes_on_for_ever_ends_its_connection() {
    let front = Front::open(&["headers"]);
    let large = block(&[("x", &"y".repeat(16_000))]);
    let small = block(&[("x", "y")]);
    // The beginning of a field that is longer than anybody may send.
    let one = &block(&[("x", &"y".repeat(1 << 20))])[..16 << 10];
    for piece in [&large[..], &small, &[], one, &[b'y'; 16 << 10]] {
        let mut connection = front.connect("headers");
        let begin = connection.block("GET", "/", &[]);
        connection
            .send(&frame(HEADERS, END_STREAM, 1, &begin))
            .unwrap();
        let more = frame(CONTINUATION, 0, 1, piece);
        let _ = (0..10 * FLOOD).try_for_each(|_| connection.send(&more));
        connection.ended().unwrap();
    }
    // Nothing else comes between the parts of a head.
    let begin = front.connect("headers").block("GET", "/", &[]);
    let begin = frame(HEADERS, END_STREAM, 1, &begin);
    for between in [
        frame(PING, 0, 0, b"between!"),
        frame(CONTINUATION, END_HEADERS, 3, b""),
        frame(DATA, 0, 1, b""),
    ] {
        let end = frame(CONTINUATION, END_HEADERS, 1, b"");
        let fate = front.fate("headers", &[&begin[..], &between, &end].concat());
        assert!(matches!(fate.end, End::Closed(_)), "{fate:?}");
    }
    front.keeps_little();
    front.was_not_reached("headers");
    front.holds();
}

/// H39
#[test]
fn pieces_of_a_body_that_are_empty_end_their_connection() {
    let front = Front::open(&["sum"]);
    let empty = frame(DATA, 0, 1, b"");
    let padded = frame(DATA, PADDED, 1, &[vec![255], vec![0; 255]].concat());
    for piece in [empty, padded] {
        let mut connection = front.connect("sum");
        let head = connection.block("POST", "/", &[]);
        connection
            .send(&frame(HEADERS, END_HEADERS, 1, &head))
            .unwrap();
        let flood = piece.repeat(20 * FLOOD as usize);
        let _ = connection.send(&flood);
        let said = connection.ended().unwrap();
        assert!(
            matches!(said, None | Some(Reason::ENHANCE_YOUR_CALM)),
            "{said:?}"
        );
    }
    // One that holds a single byte each time is read as it is meant, or ended as well.
    let mut connection = front.connect("sum");
    let head = frame(HEADERS, END_HEADERS, 1, &connection.block("POST", "/", &[]));
    let flood = frame(DATA, 0, 1, b"x").repeat(FLOOD as usize);
    let _ = connection.send(&[head, flood, frame(DATA, END_STREAM, 1, b"")].concat());
    let fate = connection.fate(1).unwrap();
    let whole = fate.is(200) && fate.text() == FLOOD.to_string();
    assert!(whole || matches!(fate.end, End::Closed(_)), "{fate:?}");
    front.keeps_little();
    front.holds();
}

/// H40: who asks without end and hears no answer is held up, or ended.
#[test]
fn answers_to_a_client_that_hears_none_do_not_pile_up() {
    const BYTES: usize = 200 << 20;
    let front = Front::open(&[]);
    let many = settings(&[(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 200)]);
    for question in [frame(PING, 0, 0, b"question"), settings(&[]), many] {
        let mut connection = front.connect("hello");
        let stopped = connection.flood(&question.repeat(1_000), BYTES).unwrap();
        assert!(stopped, "{BYTES} bytes of questions were taken unanswered");
        front.keeps_little();
    }
    // Requests that are refused, and what is said of streams that are over, are answered in the same way.
    let mut connection = front.connect("hello");
    let wrong = block(&[(":method", "GET")]);
    let flood = of_each(FLOOD, |stream| frame(HEADERS, WHOLE, stream, &wrong));
    let _ = connection.send(&flood);
    connection.ended().unwrap();
    front.keeps_little();
    front.holds();
}

/// H41
#[test]
fn fields_that_are_larger_than_their_block_are_counted_in_full() {
    let front = Front::open(&["headers"]);
    let ask = front.connect("headers").block("GET", "/", &[]);
    let large = remembered("x", &"y".repeat(4_000));
    let bomb = |times: usize| [&ask[..], &large, &vec![AGAIN; times]].concat();
    for _ in 0..20 {
        // Within what may be read, and a little more than a head may have.
        for times in [20, 50] {
            let fate = front.fate("headers", &frame(HEADERS, WHOLE, 1, &bomb(times)));
            assert!(fate.is(431), "{times}: {fate:?}");
        }
        // 16 and 48 MB.
        for times in [4_000, 12_000] {
            let fate = front.fate("headers", &frame(HEADERS, WHOLE, 1, &bomb(times)));
            assert!(!fate.is(200), "{times}: {fate:?}");
        }
    }
    // The same on each stream of one connection, which remembers the field for all of them.
    let mut connection = front.connect("headers");
    connection
        .send(&frame(HEADERS, WHOLE, 1, &bomb(0)))
        .unwrap();
    let again = [&ask[..], &[AGAIN; 1_000]].concat();
    let flood = of_each(200, |stream| frame(HEADERS, WHOLE, stream + 2, &again));
    let _ = connection.send(&flood);
    connection.ended().unwrap();
    front.keeps_little();
    front.holds();
}

/// H41
#[test]
fn nobody_is_made_to_remember_more_fields_than_was_agreed() {
    let front = Front::open(&["headers"]);
    let ask = front.connect("headers").block("GET", "/", &[]);
    for wrong in [
        [table_size(4_097), ask.clone()].concat(),
        [table_size(1 << 30), ask.clone()].concat(),
        // In the middle of a block.
        [ask.clone(), table_size(0)].concat(),
        // A field that nobody remembers, one whose number is none, and one that is cut short.
        [ask.clone(), vec![AGAIN]].concat(),
        [ask.clone(), vec![0x80]].concat(),
        [ask.clone(), vec![0xff; 12]].concat(),
        [ask.clone(), vec![0, 5, b'x']].concat(),
        // A text in a code that ends in the middle of a letter, and the code's own end.
        [ask.clone(), vec![0, 1, b'x', 0x81, 0]].concat(),
        [ask.clone(), vec![0, 1, b'x', 0x84, 255, 255, 255, 255]].concat(),
    ] {
        let fate = front.fate("headers", &frame(HEADERS, WHOLE, 1, &wrong));
        let shown = wrong[ask.len().min(wrong.len())..].escape_ascii();
        assert!(matches!(fate.end, End::Closed(_)), "{shown}: {fate:?}");
    }
    front.was_not_reached("headers");
    // Changes within what was agreed are no fault.
    let changes: Vec<u8> = [4_096, 0, 100, 4_096]
        .into_iter()
        .flat_map(table_size)
        .collect();
    let fate = front.fate(
        "headers",
        &frame(HEADERS, WHOLE, 1, &[changes, ask].concat()),
    );
    assert!(fate.is(200), "{fate:?}");
    front.keeps_little();
    front.holds();
}

/// H42: a client that takes nothing, and one that sends nothing, on many streams.
#[test]
fn streams_that_stand_still_are_ended_and_give_their_slots_back() {
    const STREAMS: u32 = 50;
    let front = Front::open(&["endless", "sum"]);
    let mut taking = front.connect_with("endless", &[(INITIAL_WINDOW_SIZE, 0)]);
    let mut sending = front.connect("sum");
    let head = sending.block("POST", "/", &[]);
    for stream in streams(STREAMS) {
        taking.ask(stream, "/").unwrap();
        sending
            .send(&frame(HEADERS, END_HEADERS, stream, &head))
            .unwrap();
    }
    front.runs(u64::from(2 * STREAMS));
    for stream in streams(STREAMS) {
        let fate = taking.fate(stream).unwrap();
        let ended = matches!(fate.end, End::Reset(_) | End::Closed(_));
        assert!(ended && fate.body.is_empty(), "{fate:?}");
        // Its guest is told that the body broke off, and answers with what it has.
        let fate = sending.fate(stream).unwrap();
        assert!(fate.status != Some(200) || fate.body == b"0", "{fate:?}");
    }
    let timed_out = || hostile_http::Observed::ended(&*front.platform, "request-timeout");
    eventually("every upload that stood still is named so", || {
        (timed_out() >= f64::from(STREAMS)).then_some(())
    });
    front.holds();
}

/// H42: replies of which one byte may leave hold their connection's memory no longer than any that stand still, however
/// much else the client says.
#[test]
fn replies_that_nobody_takes_are_thrown_away() {
    const STREAMS: u32 = 50;
    let front = Front::open(&["echo"]);
    let mut connection = front.connect_with("echo", &[(INITIAL_WINDOW_SIZE, 1)]);
    let head = connection.block("POST", "/", &[]);
    let body = [b'x'; 1024];
    for stream in streams(STREAMS) {
        let head = frame(HEADERS, END_HEADERS, stream, &head);
        let body = frame(DATA, END_STREAM, stream, &body);
        connection.send(&[head, body].concat()).unwrap();
    }
    says_to_its_end(&mut connection);
    front.keeps_little();
    front.holds();
}

/// H46: who says only that it is there is closed like who says nothing.
#[test]
fn a_client_that_only_pings_is_closed() {
    let front = Front::open(&["headers"]);
    let mut connection = front.connect("headers");
    connection.ask(1, "/").unwrap();
    assert!(connection.fate(1).unwrap().is(200));
    says_to_its_end(&mut connection);
    front.holds();
}

/// Says twice a second that it is there, until the connection has ended.
fn says_to_its_end(connection: &mut Frames) {
    for _ in 0..240 {
        if connection.heard().is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("the connection is held for two minutes");
}

/// H30: who takes a reply slowly but steadily gets all of it, as over HTTP/1.1.
#[test]
fn a_reply_that_is_taken_slowly_is_not_cut() {
    const LETTERS: usize = 40_000;
    let front = Front::open(&["echo"]);
    let mut connection = front.connect_with("echo", &[(INITIAL_WINDOW_SIZE, 1)]);
    let head = connection.block("POST", "/", &[]);
    connection
        .send(&frame(HEADERS, END_HEADERS, 1, &head))
        .unwrap();
    for piece in [b'x'; LETTERS].chunks(10_000) {
        connection.send(&frame(DATA, 0, 1, piece)).unwrap();
    }
    connection.send(&frame(DATA, END_STREAM, 1, &[])).unwrap();
    // For longer than a client that takes nothing is waited for.
    let wait = limits::BODY_WAIT.default.0 / 1000;
    for _ in 0..wait + 5 {
        connection.send(&telling(WINDOW_UPDATE, 1, 100)).unwrap();
        std::thread::sleep(Duration::from_secs(1));
    }
    connection
        .send(&telling(WINDOW_UPDATE, 1, LETTERS as u32))
        .unwrap();
    let fate = connection.fate(1).unwrap();
    assert!(fate.is(200) && fate.body.len() == LETTERS, "{fate:?}");
    front.holds();
}

/// H43
#[test]
fn what_a_client_says_of_priorities_changes_nothing() {
    let front = Front::open(&["headers"]);
    let mut connection = front.connect("headers");
    // Streams that there are not, in a line, in a ring, and all after one.
    let line = streams(10 * FLOOD).map(|stream| priority(stream + 2, stream, 255));
    let ring = streams(FLOOD).map(|stream| priority(stream, (stream + 2) % 1_000, 0));
    let star = streams(FLOOD).map(|stream| priority(stream, 1 << 31, 16));
    let flood: Vec<u8> = line.chain(ring).chain(star).flatten().collect();
    let _ = connection.send(&flood);
    connection.ask(200_001, "/").unwrap();
    let fate = connection.fate(200_001).unwrap();
    assert!(fate.is(200), "{fate:?}");
    front.keeps_little();
    front.holds();
}

/// H44
#[test]
fn a_request_says_once_and_well_what_it_asks_for() {
    let front = Front::open(&["headers"]);
    let (host, other) = (front.host("headers"), front.host("hello"));
    let method = (":method", "GET");
    let scheme = (":scheme", "http");
    let path = (":path", "/");
    let authority = (":authority", &*host);
    let all = [method, scheme, path, authority];
    let refuses = |fields: Fields<'_>| front.refuses("headers", &block(fields));
    for one in all {
        // Twice, the same and another; not at all; empty; behind the fields.
        refuses(&[&all[..], &[one]].concat());
        refuses(&[&all[..], &[(one.0, "x")]].concat());
        let rest: Vec<_> = all.into_iter().filter(|other| *other != one).collect();
        refuses(&rest);
        refuses(&[&rest[..], &[(one.0, "")]].concat());
        refuses(&[&rest[..], &[("x", "y"), one]].concat());
    }
    for more in [
        (":status", "200"),
        (":protocol", "websocket"),
        (":foo", "bar"),
        (":", "x"),
        ("", "x"),
        ("X", "y"),
        ("Host", &*host),
        ("x-Mixed", "y"),
        ("connection", "close"),
        ("connection", "x"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, gzip"),
        ("host", &*other),
        ("host", "hello.localhost/path"),
        ("host", ""),
    ] {
        refuses(&[&all[..], &[more]].concat());
    }
    let twice = [("host", &*host), ("host", &*host)];
    refuses(&[&all[..], &twice].concat());
    for wrong in ["x", "*", "", "http://hello.localhost/", "/a b", "/\u{7f}"] {
        refuses(&[method, scheme, (":path", wrong), authority]);
    }
    for wrong in ["ftp", "", "http:", "1", "h ttp"] {
        refuses(&[method, (":scheme", wrong), path, authority]);
    }
    for wrong in [
        "user@headers.localhost",
        "headers.localhost/path",
        "headers.localhost,hello.localhost",
        "headers.localhost hello.localhost",
        "headers.localhost:99999",
        "[::1",
        "headers%2elocalhost",
    ] {
        refuses(&[method, scheme, path, (":authority", wrong)]);
    }
    for wrong in ["", "G T", "G(T", &"A".repeat(33)] {
        refuses(&[(":method", wrong), scheme, path, authority]);
    }
    refuses(&[(":method", "CONNECT"), authority]);
    refuses(&[(":method", "CONNECT"), scheme, path, authority]);
    refuses(&[]);
    front.was_not_reached("headers");
    // A client that has no `:authority` to give may name its host as in HTTP/1.1 (RFC 9113 §8.3.1).
    let as_before = block(&[method, scheme, path, ("host", &*host)]);
    let fate = front.fate("headers", &frame(HEADERS, WHOLE, 1, &as_before));
    assert!(fate.is(200), "{fate:?}");
    let seen = format!("authority {host}\n");
    assert!(fate.text().contains(&seen), "{}", fate.text());
    front.holds();
}

/// H44
#[test]
fn a_stream_is_opened_once_in_its_order_and_by_the_client() {
    let front = Front::open(&["headers"]);
    let ask = front.connect("headers").block("GET", "/", &[]);
    let head = |stream| frame(HEADERS, WHOLE, stream, &ask);
    for frames in [
        head(0),
        head(2),
        frame(DATA, END_STREAM, 0, b"x"),
        frame(DATA, END_STREAM, 1, b"x"),
        telling(RST_STREAM, 0, 8),
        telling(RST_STREAM, 1, 8),
        telling(WINDOW_UPDATE, 1, 1),
        frame(WINDOW_UPDATE, 0, 0, b"x"),
        frame(CONTINUATION, END_HEADERS, 1, &ask),
        frame(PING, 0, 1, b"question"),
        frame(PING, 0, 0, b"short"),
        settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]),
        // The largest frame that was not agreed upon; a padding that is longer than what it pads.
        frame(DATA, 0, 1, &vec![0; (16 << 10) + 1]),
        frame(HEADERS, WHOLE | PADDED, 1, &[&[255], &ask[..]].concat()),
    ] {
        let mut connection = front.connect("headers");
        let _ = connection.send(&frames);
        connection.ended().unwrap();
    }
    front.was_not_reached("headers");
    // A stream that is over is not opened again, nor is one before it.
    for again in [3, 1] {
        let mut connection = front.connect("headers");
        connection.send(&head(3)).unwrap();
        assert!(connection.fate(3).unwrap().is(200));
        connection.send(&head(again)).unwrap();
        connection.ended().unwrap();
    }
    // What nobody knows is passed over (RFC 9113 §5.5).
    let unknown = [frame(0xbe, 255, 1, b"x"), settings(&[(0xbeef, 1)])].concat();
    let fate = front.fate("headers", &[unknown, head(1)].concat());
    assert!(fate.is(200), "{fate:?}");
    front.holds();
}

/// H45
#[test]
fn a_body_is_as_long_as_it_says_or_its_request_fails() {
    let front = Front::open(&["whole", "echo"]);
    let send = |app: &str, lengths: &[&str], pieces: &[&str]| {
        let fields: Vec<_> = lengths
            .iter()
            .map(|length| ("content-length", *length))
            .collect();
        let head = front.connect(app).block("POST", "/", &fields);
        let last = pieces.len();
        let flag = |at: usize| if at == last { END_STREAM } else { 0 };
        let mut frames = frame(HEADERS, END_HEADERS | flag(0), 1, &head);
        for (at, piece) in pieces.iter().enumerate() {
            frames.extend(frame(DATA, flag(at + 1), 1, piece.as_bytes()));
        }
        front.fate(app, &frames)
    };
    for app in ["whole", "echo"] {
        let check = |lengths: &[&str], pieces: &[&str]| {
            let fate = send(app, lengths, pieces);
            // A reply may have begun; it never comes to its end.
            let refused = fate.end != End::Whole || matches!(fate.status, Some(400 | 422));
            assert!(refused, "{app} {lengths:?} {pieces:?}: {fate:?}");
        };
        for length in ["6", "10", "4", "1", "0", "9223372036854775808"] {
            check(&[length], &["hello"]);
            check(&[length], &["he", "", "llo"]);
        }
        check(&["5"], &[]);
        check(&[""], &[]);
        check(&["5"], &["hello", "more"]);
        check(&["5"], &["hello", "", "x"]);
        check(&["5", "6"], &["hello"]);
        check(&["6", "5"], &["hello"]);
        for wrong in [
            "+5",
            "-5",
            "0x5",
            "5,5",
            "5, 5",
            "5.0",
            "5 ",
            "",
            "99999999999999999999",
        ] {
            check(&[wrong], &["hello"]);
        }
    }
    // What is left of one that fails is of no other request, and one that does not is whole.
    for (lengths, pieces) in [(&["5"][..], &["he", "llo"][..]), (&[], &["hello", ""])] {
        let fate = send("whole", lengths, pieces);
        assert!(fate.is(200) && fate.text() == "5", "{fate:?}");
        let fate = send("echo", lengths, pieces);
        assert!(fate.is(200) && fate.text() == "hello", "{fate:?}");
    }
    front.holds();
}

/// H46
#[test]
fn streams_beyond_those_allowed_are_refused_and_connections_that_ask_for_nothing_are_closed() {
    const ASKED: u32 = 600;
    let front = Front::open(&["slow"]);
    let allowed = limits::HTTP2_STREAMS.default;
    let mut connection = front.connect("slow");
    let ask = connection.block("GET", "/wait/5000", &[]);
    let asks = |count| of_each(count, |stream| frame(HEADERS, WHOLE, stream, &ask));
    connection.send(&asks(ASKED)).unwrap();
    front.runs(allowed);
    let fates: Vec<Fate> = streams(ASKED)
        .map(|stream| connection.fate(stream).unwrap())
        .collect();
    let served = fates.iter().filter(|fate| fate.is(200)).count();
    assert_eq!(served as u64, allowed);
    let refused = |fate: &&Fate| fate.end == End::Reset(Reason::REFUSED_STREAM);
    let refused = fates.iter().filter(refused).count();
    assert_eq!(served + refused, ASKED as usize);

    // Who goes on asking all the same is not heard for ever.
    let mut greedy = front.connect("slow");
    let _ = greedy.send(&asks(2 * FLOOD));
    greedy.ended().unwrap();

    // Idle, and ever so little said: each is closed after a while.
    let host = front.host("slow");
    let said = |bytes: &[u8]| {
        let mut silent = Frames::silent(front.listen, &host).unwrap();
        silent.send(bytes).unwrap();
        silent
    };
    let begun = frame(HEADERS, END_STREAM, 1, &ask);
    let begin = [PREFACE, &settings(&[])].concat();
    for mut idle in [
        connection,
        front.connect("slow"),
        said(&PREFACE[..10]),
        said(PREFACE),
        // A head without an end, and one of which a frame is cut short.
        said(&[&begin[..], &begun].concat()),
        said(&[&begin[..], &begun[..20]].concat()),
    ] {
        idle.ended().unwrap();
    }
    front.keeps_little();
    front.holds();
}

/// H47
#[test]
fn what_would_frame_an_http_1_message_reaches_no_guest() {
    let front = Front::open(&["headers"]);
    let host = front.host("headers");
    let all = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", &*host),
    ];
    let refuses = |fields: Fields<'_>| front.refuses("headers", &block(fields));
    for coding in ["chunked", "identity", "trailers", ""] {
        refuses(&[&all[..], &[("transfer-encoding", coding)]].concat());
    }
    for odd in [
        "\r\n",
        "\r",
        "\n",
        "\0",
        "\r\n\r\n",
        "\r\nx: y",
        "\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hello.localhost\r\n\r\n",
        "\u{1}",
        "\u{7f}",
    ] {
        let value = format!("a{odd}b");
        refuses(&[&all[..], &[("x", &*value)]].concat());
        refuses(&[&all[..], &[(&*value, "x")]].concat());
        for (name, _) in all {
            let rest = all.into_iter().filter(|(other, _)| *other != name);
            let mut fields: Vec<_> = rest.collect();
            let value = format!("{}{odd}", all.iter().find(|one| one.0 == name).unwrap().1);
            fields.insert(0, (name, &value));
            refuses(&fields);
        }
    }
    for name in ["x y", "x:", "x: y", "é", "x\t", "(x)", "x,y"] {
        refuses(&[&all[..], &[(name, "z")]].concat());
    }
    front.was_not_reached("headers");
    front.holds();
}

/// H12, H44, H47
#[test]
fn trailers_cannot_say_what_only_a_head_may_over_http_2() {
    let front = Front::open(&["trailers"]);
    let mut connection = front.connect_http2("trailers");
    let mut stream = connection
        .begin("POST", "/", &[("te", "trailers")])
        .unwrap();
    stream.send(b"hello").unwrap();
    let trailers = [
        ("content-length", "99"),
        ("host", "hello.localhost"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("midge-client", "6.6.6.6"),
        ("x-sum", "1"),
    ];
    stream.finish_with(&trailers).unwrap();
    let reply = stream.reply().unwrap().is(200).says("hello");
    let mut names: Vec<&str> = reply.trailers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["x-length", "x-sum"]);
    let head = front.connect("trailers").block("POST", "/", &[]);
    let begin = [
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, 0, 1, b"hello"),
    ]
    .concat();
    for trailers in [
        [("transfer-encoding", "chunked")],
        [("connection", "x-sum")],
        [("X-Sum", "1")],
        [("x-sum", "1\r\nx: y")],
    ] {
        let end = frame(HEADERS, WHOLE, 1, &block(&trailers));
        let fate = front.fate("trailers", &[&begin[..], &end].concat());
        assert!(!fate.is(200), "{trailers:?}: {fate:?}");
    }
    // Trailers end a request.
    let open = frame(HEADERS, END_HEADERS, 1, &block(&[("x-sum", "1")]));
    let fate = front.fate("trailers", &[begin, open].concat());
    assert!(!fate.is(200), "{fate:?}");
    front.holds();
}

/// H13, H19
#[test]
fn heads_and_trailers_have_the_same_limits_over_http_2() {
    let front = Front::open(&["trailers"]);
    let mut connection = front.connect_http2("hello");
    let most = vec![("x", "y"); 99];
    connection.request("GET", "/", &most, b"").unwrap().is(200);
    let long = "y".repeat(70_000);
    let half = "y".repeat(35_000);
    for fields in [
        vec![("x", "y"); 101],
        vec![("x", &*long)],
        vec![("x", &*half); 2],
    ] {
        let reply = connection.request("GET", "/", &fields, b"").unwrap();
        reply.is(431).fails("headers-too-large");
    }
    connection.get("/").unwrap().is(200);
    // Beyond what is read at all, nobody need be told why.
    let check = |count: usize, length: usize, ended: bool| {
        let fields = vec![("x", "y".repeat(length)); count];
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let mut connection = front.connect("hello");
        let head = connection.block("GET", "/", &fields);
        let _ = connection.send(&head_in_parts(END_STREAM, &head));
        let fate = connection.fate(1).unwrap();
        let closed = matches!(fate.end, End::Closed(_));
        assert!(
            fate.is(431) || ended && closed,
            "{count} of {length}: {fate:?}"
        );
        let mut connection = front.connect("trailers");
        let head = connection.block("POST", "/", &[("te", "trailers")]);
        let head = frame(HEADERS, END_HEADERS, 1, &head);
        let trailers = head_in_parts(END_STREAM, &block(&fields));
        let _ = connection.send(&[head, frame(DATA, 0, 1, b"hello"), trailers].concat());
        let fate = connection.fate(1).unwrap();
        let refused = matches!(fate.status, Some(400 | 431)) || fate.end != End::Whole;
        let passed = fate.is(200) && fate.text() == "hello";
        assert!(refused || passed && !ended, "{count} of {length}: {fate:?}");
    };
    check(1, 150_000, false);
    check(2_000, 60, false);
    check(10_000, 1, false);
    check(40_000, 1, true);
    check(1, 1 << 20, true);
    check(100, 10_400, true);
    front.keeps_little();
    front.holds();
}

/// A head of stream 1 in as many frames as it takes.
fn head_in_parts(flags: u8, block: &[u8]) -> Vec<u8> {
    let last = block.chunks(16 << 10).count() - 1;
    let parts = block.chunks(16 << 10).enumerate();
    let part = |(at, part): (usize, &[u8])| {
        let end = if at == last { END_HEADERS } else { 0 };
        match at {
            0 => frame(HEADERS, flags | end, 1, part),
            _ => frame(CONTINUATION, end, 1, part),
        }
    };
    parts.flat_map(part).collect()
}
