//! Looks for files in every way there is; a line for each try.

use std::fs;
use std::io::Error;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

guests::handler!(handle);

const PATHS: &[&str] = &[
    ".",
    "..",
    "/",
    "../../../../etc/passwd",
    "/etc/passwd",
    "/proc/self/environ",
    "/dev/null",
    "a\0b",
    "",
];

fn handle(_request: IncomingRequest, out: ResponseOutparam) {
    let preopens = wasip2::filesystem::preopens::get_directories().len();
    let mut text = format!("preopens {preopens}\n");
    for path in PATHS {
        let tries: [(&str, Result<(), Error>); 7] = [
            ("open", fs::File::open(path).map(drop)),
            ("create", fs::File::create(path).map(drop)),
            ("list", fs::read_dir(path).map(drop)),
            ("look", fs::symlink_metadata(path).map(drop)),
            ("make", fs::create_dir(path)),
            ("remove", fs::remove_file(path)),
            ("link", fs::hard_link(path, "x")),
        ];
        for (what, result) in tries {
            let result =
                result.map_or_else(|error| format!("refused: {error}"), |()| "done".into());
            text += &format!("{what} {path:?} {result}\n");
        }
    }
    guests::answer(out, 200, &text);
}
