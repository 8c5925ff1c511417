//! No packet of a guest's reaches an address that is not for guests, whatever names and spellings lead there; and what is
//! public is reached.
//!
//! The platform runs in a network of its own. Its one way out leads to another, where every address there is answers: who
//! connects to one is seen. The test runs itself in both.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use tests::names::{Names, Says};
use tests::{Platform, guest, skip};

const ROLE: &str = "MIDGE_TEST_ROLE";
const TEST: &str = "addresses::no_packet_reaches_an_address_that_is_not_for_guests";
/// What a name of the other side is looked up at.
const NAME_SERVER: &str = "198.18.0.2:53";

/// Addresses that guests reach.
const PUBLIC: [&str; 50] = [
    "1.0.0.1",
    "1.1.1.1",
    "4.4.4.4",
    "8.8.8.8",
    "9.9.9.9",
    "11.0.0.1",
    "23.1.2.3",
    "34.1.2.3",
    "45.1.2.3",
    "52.1.2.3",
    "66.1.2.3",
    "77.1.2.3",
    "91.1.2.3",
    "93.184.216.34",
    "99.255.255.255",
    "100.63.255.255",
    "100.128.0.1",
    "104.16.1.1",
    "126.255.255.254",
    "128.0.0.1",
    "140.82.112.3",
    "151.101.1.69",
    "160.1.2.3",
    "169.253.1.1",
    "169.255.1.1",
    "172.15.1.1",
    "172.32.1.1",
    "185.199.108.153",
    "191.255.255.254",
    "192.0.1.1",
    "192.0.3.1",
    "192.88.98.1",
    "192.88.100.1",
    "192.167.1.1",
    "192.169.1.1",
    "198.17.1.1",
    "198.20.1.1",
    "198.51.99.1",
    "198.51.101.1",
    "203.0.112.1",
    "203.0.114.1",
    "223.255.255.254",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2400:cb00::1",
    "2606:4700::1111",
    "2620:fe::fe",
    "2a00:1450::1",
    "3fff:1000::1",
];

/// Addresses that they do not.
const FORBIDDEN: [&str; 60] = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.254",
    "127.0.0.1",
    "127.0.0.53",
    "127.255.255.254",
    "169.254.169.254",
    "169.254.0.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.0.0.1",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "192.168.1.254",
    "198.18.0.1",
    "198.18.0.2",
    "198.19.255.254",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:198.18.0.2",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd77::1",
    "fd77::2",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "4000::1",
];

/// Where every address of IPv6 there answers: all that the tests name but the link between the two.
const FAR: [&str; 9] = [
    "2000::/3",
    "4000::/3",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "5f00::/16",
    "fc00::/8",
    "fd00::/24",
    "fec0::/10",
];

/// Spellings of forbidden addresses, and what is no address at all.
const ODD: [&str; 40] = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "localhost.localdomain",
    "ip6-localhost",
    "2130706433",
    "017700000001",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "0",
    "0.0",
    "00.0.0.0",
    "10.1",
    "167772161",
    "0xa9fea9fe",
    "2852039166",
    "169.254.43518",
    "0251.0376.0251.0376",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[::1]",
    "[::]",
    "127.0.0.1@8.8.8.8",
    "8.8.8.8@127.0.0.1",
    "8.8.8.8#@127.0.0.1",
    "8.8.8.8\\@127.0.0.1",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "127.0.0.1%00.test",
    "metadata",
    "1.2.3.4.5",
];

#[test]
fn no_packet_reaches_an_address_that_is_not_for_guests() {
    match std::env::var(ROLE).as_deref() {
        Ok("within") => within(),
        Ok("world") => world(),
        _ => from_outside(),
    }
}

/// The program that makes networks: of this machine, or of the tools of the tests.
fn ip() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into(), "/bin".into()]);
    folders
        .map(|folder| folder.join("ip"))
        .find(|ip| ip.exists())
}

fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?}: {said}");
}

fn ourselves(role: &str, unshare: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(unshare)
        .arg(std::env::current_exe().expect("a test is a program"))
        .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
        .env(ROLE, role);
    command
}

fn from_outside() {
    let can = Command::new("unshare").args(["-Urn", "true"]).status();
    if !can.is_ok_and(|status| status.success()) || ip().is_none() {
        skip(
            TEST,
            "networks of a user's own cannot be made here, or there is no `ip`",
        );
        return;
    }
    let mut inside = ourselves("within", &["-Urn", "--kill-child"]);
    let status = inside.status().expect("a test can be run");
    assert!(status.success(), "the test within failed; see above");
}

/// The other network's process, and what it saw.
struct World(Child, Arc<Mutex<BTreeSet<IpAddr>>>);

impl World {
    /// Starts it, and makes the way between the two.
    fn start() -> Self {
        let mut child = ourselves("world", &["-n", "--kill-child"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a test can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("it was piped")).lines();
        let mut next = move || lines.next().expect("it goes on").expect("it is text");
        let id = loop {
            if let Some(id) = next().strip_prefix("world ") {
                break id.to_owned();
            }
        };
        let ip = ip().expect("it was there");
        let ip = ip.to_str().expect("its name is text");
        let ours = |arguments: &str| run(ip, &arguments.split(' ').collect::<Vec<_>>());
        let theirs = |arguments: &str| {
            let enter = ["-t", &id, "-n", ip];
            let arguments = enter.into_iter().chain(arguments.split(' '));
            run("nsenter", &arguments.collect::<Vec<_>>());
        };
        ours("link set lo up");
        ours(&format!("link add w0 type veth peer name w1 netns {id}"));
        ours("addr add 198.18.0.1/30 dev w0");
        ours("addr add fd77::1/64 dev w0 nodad");
        ours("link set w0 up");
        theirs("link set lo up");
        theirs("addr add 198.18.0.2/30 dev w1");
        theirs("addr add fd77::2/64 dev w1 nodad");
        theirs("link set w1 up");
        ours("route add default via 198.18.0.2");
        ours("-6 route add default via fd77::2");
        theirs("route add local default dev lo");
        // All of them would take what is sent back as well.
        for network in FAR {
            theirs(&format!("-6 route add local {network} dev lo"));
        }
        writeln!(child.stdin.as_mut().expect("it was piped"), "go").expect("it reads");
        while next() != "ready" {}
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let sees = seen.clone();
        thread::spawn(move || {
            loop {
                let line = next();
                let Some(address) = line.strip_prefix("seen ") else {
                    continue;
                };
                let address = address.parse().expect("it is an address");
                sees.lock().unwrap().insert(address);
            }
        });
        Self(child, seen)
    }

    fn seen(&self) -> BTreeSet<IpAddr> {
        self.1.lock().unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers at every address, and tells which were connected to.
fn world() {
    // Whoever runs tests has begun a line.
    println!("\nworld {}", std::process::id());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("it is told");
    for at in ["[::]:80", "[::]:8080"] {
        let listener = TcpListener::bind(at).expect("the ports are free");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let to = stream.local_addr().expect("it is connected").ip();
                println!("seen {}", to.to_canonical());
                thread::spawn(move || {
                    let mut head = [0; 4096];
                    while stream.read(&mut head).is_ok_and(|length| length > 0) {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                    }
                });
            }
        });
    }
    let socket = UdpSocket::bind(NAME_SERVER).expect("the address is its own");
    let _names = Names::at(socket, answer);
    println!("ready");
    // Until the other test ends it.
    loop {
        thread::park();
    }
}

/// `p-N` has a public address, `f-N` a forbidden one; `r-N` a public one at first and then the forbidden one; `c-N` is
/// another name of `f-N`; `m-N` has both.
fn answer(name: &str, round: u64) -> Says {
    let parts = name
        .strip_suffix(".test")
        .and_then(|name| name.split_once('-'));
    let Some((kind, number)) = parts else {
        return Says::Nothing;
    };
    let Ok(number) = number.parse::<usize>() else {
        return Says::Nothing;
    };
    let public: IpAddr = PUBLIC[number % PUBLIC.len()].parse().unwrap();
    let forbidden: IpAddr = FORBIDDEN[number % FORBIDDEN.len()].parse().unwrap();
    match kind {
        "p" => Says::Addresses(vec![public], 0),
        "f" => Says::Addresses(vec![forbidden], 0),
        "r" if round == 0 => Says::Addresses(vec![public], 0),
        "r" => Says::Addresses(vec![forbidden], 0),
        "c" => Says::Alias(format!("f-{number}.test"), vec![forbidden]),
        "m" => Says::Addresses(vec![public, forbidden], 0),
        _ => Says::Nothing,
    }
}

/// Asks for everything.
fn within() {
    let world = World::start();
    // Nor does anything here: what listens on the machine's own addresses.
    let own = TcpListener::bind("[::]:80").expect("the port is free");
    let met = Arc::new(Mutex::new(Vec::<SocketAddr>::new()));
    let meets = met.clone();
    thread::spawn(move || {
        for stream in own.incoming().flatten() {
            meets.lock().unwrap().push(stream.local_addr().unwrap());
        }
    });
    let config = format!("workers = 1\n[egress]\nnameservers = ['{NAME_SERVER}']\n");
    let platform = Platform::configured(&config);
    let everything =
        "grant = { http = ['http://*', 'http://*:8080', 'https://*'] }\n[limits]\nwall = '60s'";
    platform.deploy_with("a", &guest("fetch"), everything);
    let mut connection = platform.connect("a");
    let mut ask = |authority: &str| {
        let headers = format!("x-authority: {authority}\r\nx-waits: 3000000000,3000000000,-\r\n");
        connection.send_head("GET", "/fetch", &headers).unwrap();
        connection.reply("GET").unwrap().is(200).text()
    };
    let url = |address: &str| match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let mut asked = 0;
    let mut refused = |authority: &str| {
        let text = ask(authority);
        assert!(!text.starts_with("answered"), "{authority}: {text}");
        asked += 1;
        text
    };
    for address in FORBIDDEN {
        let text = refused(&url(address));
        assert!(
            text.contains("DestinationIpProhibited"),
            "{address}: {text}"
        );
        refused(&format!("{}:8080", url(address)));
    }
    for odd in ODD {
        refused(odd);
        refused(&format!("{odd}:80"));
    }
    for number in 0..FORBIDDEN.len() {
        for kind in ["f", "c", "m"] {
            refused(&format!("{kind}-{number}.test"));
        }
    }
    assert!(asked >= 380, "{asked}");
    assert_eq!(world.seen(), BTreeSet::new());

    // One that changes its mind is reached where it was checked, or not at all.
    let mut once = 0;
    for number in 0..FORBIDDEN.len() {
        let name = format!("r-{number}.test");
        once += usize::from(ask(&name).starts_with("answered"));
        let text = ask(&name);
        assert!(!text.starts_with("answered"), "{name}: {text}");
    }
    assert!(once >= 50, "{once}");
    let public: BTreeSet<IpAddr> = PUBLIC.iter().map(|text| text.parse().unwrap()).collect();
    assert!(world.seen().is_subset(&public), "{:?}", world.seen());

    // Nothing that is public is refused.
    for (number, address) in PUBLIC.iter().enumerate() {
        for authority in [url(address), format!("p-{number}.test")] {
            let text = ask(&authority);
            assert!(text.starts_with("answered 200"), "{authority}: {text}");
        }
    }
    assert_eq!(world.seen(), public);
    assert_eq!(*met.lock().unwrap(), []);
}
