//! Answers with its environment, a line each. `/status/STATUS` and `/location` set CGI headers, `/exit/CODE` ends before
//! it answered, `/silent` says nothing, `/garbage` says what is not CGI, `/spin` never ends.

fn main() {
    let path = std::env::var("PATH_INFO").unwrap_or_default();
    let segments: Vec<_> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["status", status, ..] => print!("Status: {status}\nX-Kind: command\n\nstatus {status}\n"),
        ["location", ..] => print!("Location: http://example.com/\n\n"),
        ["exit", code, ..] => std::process::exit(code.parse().unwrap_or(1)),
        ["silent", ..] => {}
        ["garbage", ..] => println!("this is not a header\nnor is this"),
        ["spin", ..] => loop {
            std::hint::black_box(());
        },
        _ => {
            let mut lines: Vec<_> = std::env::vars()
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect();
            lines.sort();
            print!("content-type: text/plain\n\n{}", lines.concat());
        }
    }
}
