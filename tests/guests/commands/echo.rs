//! Sends its standard input back as the reply's body.

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    output.write_all(b"content-type: application/octet-stream\n\n")?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = input.read(&mut buffer)?;
        if length == 0 {
            return output.flush();
        }
        output.write_all(&buffer[..length])?;
    }
}
