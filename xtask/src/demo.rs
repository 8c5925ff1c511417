//! `cargo xtask demo`: the whole platform on this machine with one app on it, until Ctrl-C.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::progress::{Failure, Progress};
use crate::{guests, places};

const LISTEN: &str = "127.0.0.1:8080";
const API: &str = "127.0.0.1:8081";

/// How long the platform may take to be ready. It takes some 0.1 s, and what an earlier demo left may want compiling.
const START: Duration = Duration::from_secs(60);

/// Builds, starts, deploys, shows, and waits.
pub fn run(progress: &mut Progress) -> Result<(), Failure> {
    ports_are_free()?;
    guests::targets(progress)?;
    // The example is there for the features of the dependencies: they are those that the tests have, so that the engine
    // is compiled once for both.
    let binary = [
        "build",
        "--release",
        "--locked",
        "--workspace",
        "--bin",
        "midge",
        "--example",
        "compile-child",
    ];
    progress.step(
        "build the release binary (the first time takes some minutes)",
        &mut places::cargo(&binary),
    )?;
    let example = places::root().join("examples/rust/hello");
    guests::example_of(progress, &example)?;

    let data = places::target().join("demo");
    let mut platform = start(progress, &data)?;
    let shown = deploy(progress, &example, &data);
    if let Err(failure) = shown {
        // SAFETY: a signal to our own child, which has not been waited for.
        unsafe { libc::kill(platform.id() as libc::pid_t, libc::SIGTERM) };
        let _ = platform.wait();
        return Err(failure);
    }
    progress.say("up until Ctrl-C");
    // The terminal sends Ctrl-C to both of us: the platform drains, and we wait for it.
    // SAFETY: no handler is installed; the signal is ignored.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    match platform.wait() {
        Ok(status) if status.success() => {
            progress.say("stopped");
            Ok(())
        }
        Ok(status) => Err(Failure::new(format!("the platform ended: {status}"))),
        Err(error) => Err(Failure::new(format!(
            "the platform cannot be waited for: {error}"
        ))),
    }
}

fn ports_are_free() -> Result<(), Failure> {
    for address in [LISTEN, API] {
        if let Err(error) = TcpListener::bind(address) {
            return Err(Failure::new(format!(
                "the demo needs {address}, which cannot be had: {error}; stop what uses it and start the demo again"
            )));
        }
    }
    Ok(())
}

/// Starts the platform and waits until it is ready.
fn start(progress: &mut Progress, data: &Path) -> Result<Child, Failure> {
    progress.say("start the platform");
    let began = Instant::now();
    let ready = places::target().join("demo.ready");
    let _ = std::fs::remove_file(&ready);
    let log = places::target().join("demo.log");
    let unwritable =
        |error| Failure::new(format!("`{}` cannot be written: {error}", log.display()));
    let output = std::fs::File::create(&log).map_err(unwritable)?;
    let errors = output.try_clone().map_err(unwritable)?;
    let mut command = Command::new(places::release("midge"));
    command.arg("up").arg("--data").arg(data);
    command
        .args([
            "--listen",
            LISTEN,
            "--api",
            API,
            "--no-profile",
            "--ready-file",
        ])
        .arg(&ready);
    command.stdout(output).stderr(errors);
    // SAFETY: `prctl` is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // If this program is killed, the platform drains and goes as well.
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    let mut platform = command
        .spawn()
        .map_err(|error| Failure::new(format!("midge cannot be started: {error}")))?;
    while !ready.exists() {
        if let Ok(Some(status)) = platform.try_wait() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            return Err(Failure::new(format!(
                "{said}\nthe platform ended before it was ready: {status}"
            )));
        }
        if began.elapsed() > START {
            // It is our own child, and of no more use.
            let _ = platform.kill();
            let _ = platform.wait();
            return Err(Failure::new(format!(
                "the platform was not ready within {} s; its log is {}",
                START.as_secs(),
                log.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    progress.say(&format!(
        "ready in {} ms; its log is {}",
        began.elapsed().as_millis(),
        log.display()
    ));
    Ok(platform)
}

/// Deploys the example with the CLI, as a developer would, and shows what it answers.
fn deploy(progress: &mut Progress, example: &Path, data: &Path) -> Result<(), Failure> {
    let token = std::fs::read_to_string(data.join("admin.token"))
        .map_err(|error| Failure::new(format!("the admin token cannot be read: {error}")))?;
    let wasm = places::target().join("examples/wasm32-wasip2/release/hello.wasm");
    let mut command = Command::new(places::release("midge"));
    command
        .arg("deploy")
        .arg(wasm)
        .args(["--manifest", "midge.toml"]);
    command
        .args(["--api", &format!("http://{API}"), "--token", token.trim()])
        .current_dir(example);
    let said = progress.read("deploy examples/rust/hello", &mut command)?;
    println!("\n{}", said.trim_end());
    let reply = get("hello.localhost:8080")?;
    println!(
        "\n$ curl http://hello.localhost:8080\n{}\n",
        reply.trim_end()
    );
    Ok(())
}

/// The body that the app answers with.
fn get(host: &str) -> Result<String, Failure> {
    let ask = || -> std::io::Result<String> {
        let address: SocketAddr = LISTEN.parse().expect("an address");
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    };
    let reply = ask().map_err(|error| Failure::new(format!("the app did not answer: {error}")))?;
    match reply.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(plain(head, body)),
        _ => Err(Failure::new(format!("the app answered:\n{reply}"))),
    }
}

/// The body without its chunks' lengths, if it has them.
fn plain(head: &str, body: &str) -> String {
    if !head.to_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        let Some(piece) = more.get(..length).filter(|piece| !piece.is_empty()) else {
            break;
        };
        whole.push_str(piece);
        rest = more.get(length + 2..).unwrap_or_default();
    }
    whole
}
