//! Requests that sleep, many at once.

use tests::trials;

#[test]
fn very_many_requests_sleep_at_once_and_others_are_served_in_small() {
    println!("{}", trials::parked(trials::PARKED / 20, 7));
}
