//! The compile child from outside, with children that do what a bad one could. The real one is tested where it lives.

use model::{CpuClass, EngineSetting, GuestKind};

use super::*;

/// What compiling an upload of `bytes` bytes with the shell script `child` comes to.
async fn compiled(child: &str, bytes: usize) -> Result<Vec<u8>, CompileError> {
    let folder = tempfile::tempdir().unwrap();
    let wasm = folder.path().join("upload.wasm");
    std::fs::write(&wasm, vec![7; bytes]).unwrap();
    let command = ["/bin/sh", "-c", child].map(OsString::from);
    let compiled = compile(&command, &wasm, folder.path()).await?;
    assert_eq!(compiled.build, build());
    let native = std::fs::read(compiled.file.path()).unwrap();
    assert_eq!(compiled.body, Digest::of(&native));
    assert_eq!(compiled.body_bytes, native.len() as u64);
    Ok(native)
}

async fn check(child: &str, expected: &str) {
    let found = match compiled(child, 1000).await {
        Ok(native) => format!("{} bytes", native.len()),
        Err(error) => error.to_string(),
    };
    assert!(
        found.contains(expected),
        "{child}\n{found}\nlacks\n{expected}"
    );
}

fn build() -> BuildKey {
    BuildKey {
        engine: "test".into(),
        setting: EngineSetting::A,
        cpu: CpuClass::X86_64V2,
    }
}

/// The end of a script that says it wrote `bytes` bytes.
fn says(bytes: usize) -> String {
    let report = CompileReport::Compiled {
        inspection: Inspection {
            kind: GuestKind::HttpComponent,
            componentized: false,
            imports: Vec::new(),
            exports: Vec::new(),
        },
        build: build(),
        native_bytes: bytes as u64,
    };
    format!("echo '{}'", serde_json::to_string(&report).unwrap())
}

#[tokio::test]
async fn native_code_comes_back_as_the_child_wrote_it() {
    check(&format!("cat >&3; {}", says(1000)), "1000 bytes").await;
    let refusal = r#"echo '{"refused":{"code":"not-wasm","text":"this is no wasm"}}'"#;
    check(refusal, "this is no wasm").await;
    check(&format!("{refusal}; exit 1"), "this is no wasm").await;
}

#[tokio::test]
async fn a_child_that_lies_or_dies_is_told_apart() {
    check(&format!("cat >&3; {}", says(999)), "left 1000 bytes").await;
    check(&says(0), "left 0 bytes").await;
    check(&format!("cat >&3; {}; exit 3", says(1000)), "exit status 3").await;
    check("echo 'no report'", "cannot be read").await;
    check("echo why >&2; kill -SEGV $$", "signal 11): why").await;
    check("kill -KILL $$", "more than 2GiB of memory").await;
    check(
        "echo 'memory allocation of 9 bytes failed' >&2; kill -ABRT $$",
        "more than 2GiB of memory",
    )
    .await;
    check("kill -XCPU $$", "more than 7s of CPU time").await;
    check("yes | head -c 2000000; true", "says more than 1MiB").await;
    let writes_on = format!(
        "(exec 0<&- 1>&- 2>&-; exec sleep 20) & cat >&3; {}",
        says(1000)
    );
    check(&writes_on, "1000 bytes").await;
}

#[tokio::test]
async fn the_kernel_keeps_the_limits_of_a_child() {
    // 20 times the upload and 1 MiB.
    let most = Size((1 << 20) + 20_000).to_string();
    check("exec head -c 2000000 /dev/zero >&3", &most).await;
    check(
        "ulimit -v; ulimit -t; ulimit -n; ulimit -c",
        "cannot be read",
    )
    .await;
    let limits = format!(
        "[ $(ulimit -v) = 2097152 ] && [ $(ulimit -t) = 7 ] && [ $(ulimit -n) = 64 ] && [ $(ulimit -c) = 0 ] \
         && [ $(env | grep -cv '^PWD=\\|^_=\\|^SHLVL=') = 0 ] && cat >&3 && {}",
        says(1000)
    );
    check(&limits, "1000 bytes").await;
}

#[tokio::test]
async fn a_child_reaches_nobody() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let reach = format!(
        "exec /bin/bash -c 'exec 4<>/dev/tcp/{}'",
        listener.local_addr().unwrap().to_string().replace(':', "/")
    );
    check(&reach, "Permission denied").await;
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    // The same, unfenced.
    let status = std::process::Command::new("/bin/sh")
        .args(["-c", &reach])
        .status();
    assert!(status.unwrap().success());
    assert!(listener.accept().is_ok());
}

#[test]
fn an_upload_may_take_time_and_room_by_its_size() {
    let check = |bytes: u64, cpu_ms: u64, output: u64| {
        let allowance = Allowance::of(Size(bytes));
        assert_eq!(
            (allowance.cpu.0, allowance.output.bytes()),
            (cpu_ms, output)
        );
        assert_eq!(allowance.wall.0, 3 * cpu_ms + 5000);
    };
    check(0, 5000, 1 << 20);
    check(1, 7000, 20 + (1 << 20));
    check(13 << 20, 31_000, 256 << 20);
    check(100 << 20, 90_000, 256 << 20);
}
