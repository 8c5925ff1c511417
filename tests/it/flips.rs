//! Files that change while nobody looks: every app answers with its own bytes, or is refused by name.

use tests::trials;

/// C26
#[test]
fn no_flipped_bit_or_cut_file_makes_an_app_answer_with_wrong_bytes() {
    println!("{}", trials::flips(trials::FLIPS / 200, 7));
}
