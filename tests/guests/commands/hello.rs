//! The least that answers over CGI: the same text as the component.

fn main() {
    print!("content-type: text/plain\n\nHello, Midge!\n");
}
