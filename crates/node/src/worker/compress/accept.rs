//! What a client takes: `Accept-Encoding`, as RFC 9110 §12.5.3 has it.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use model::Coding;

/// The weight that an element without one has; weights are thousandths.
const WHOLE: u16 = 1000;

/// What a request says of one coding.
#[derive(Default)]
struct Weights {
    named: [Option<u16>; Coding::ALL.len()],
    identity: Option<u16>,
    /// Of whatever is not named.
    other: Option<u16>,
}

/// The coding that the client likes best among `offered`; of those it likes alike, the one that is offered first. None
/// if the reply is to leave as it is.
///
/// Who says nothing is sent nothing that it may not know. A client that refuses everything is sent the reply as it is.
pub fn choose(headers: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let mut weights = Weights::default();
    for line in headers.get_all(ACCEPT_ENCODING) {
        // What is no text names no coding we know.
        for element in line.to_str().unwrap_or_default().split(',') {
            weights.take(element);
        }
    }
    let least = weights.identity.unwrap_or(0).max(1);
    let mut best: Option<(u16, Coding)> = None;
    for coding in offered {
        let weight = weights.named[*coding as usize].or(weights.other);
        let weight = weight.unwrap_or(0);
        if weight >= least && best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, *coding));
        }
    }
    best.map(|(_, coding)| coding)
}

impl Weights {
    /// Of two elements that name the same, the first counts.
    fn take(&mut self, element: &str) {
        let (name, parameter) = match element.split_once(';') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (element, None),
        };
        let Some(weight) = parameter.map_or(Some(WHOLE), weight) else {
            return;
        };
        let place = match name.trim().to_ascii_lowercase().as_str() {
            "br" => &mut self.named[Coding::Brotli as usize],
            "zstd" => &mut self.named[Coding::Zstd as usize],
            "gzip" | "x-gzip" => &mut self.named[Coding::Gzip as usize],
            "identity" => &mut self.identity,
            "*" => &mut self.other,
            _ => return,
        };
        place.get_or_insert(weight);
    }
}

/// `q=0.123` in thousandths; none if it is no weight.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let value = value.trim();
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if part.len() > 3 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(WHOLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_client_says_what_it_takes_and_the_app_what_it_likes() {
        let check = |accepted: &[&'static str], offered: &str, expected: &str| {
            let all = |name: &str| Coding::ALL.into_iter().find(|it| it.as_str() == name);
            let offered: Vec<Coding> = offered.split(' ').filter_map(all).collect();
            let mut headers = HeaderMap::new();
            for line in accepted {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(line));
            }
            let found = choose(&headers, &offered).map_or("-", Coding::as_str);
            assert_eq!(found, expected, "{accepted:?}");
        };
        let every = "br zstd gzip";
        check(&[], every, "-");
        check(&[""], every, "-");
        check(&["gzip"], every, "gzip");
        check(&["gzip"], "br zstd", "-");
        check(&["gzip, deflate, br, zstd"], every, "br");
        check(&["gzip, deflate, br, zstd"], "zstd br gzip", "zstd");
        check(&["gzip, deflate", "br"], every, "br");
        check(&["GZip;Q=0.5"], every, "gzip");
        check(&["x-gzip"], every, "gzip");
        check(&["deflate, compress"], every, "-");
        // Weights.
        check(&["br;q=0.5, gzip"], every, "gzip");
        check(&["br;q=0.500,gzip;q=0.5"], every, "br");
        check(&["br;q=0.001"], every, "br");
        check(&["br;q=0"], every, "-");
        check(&["br;q=0.000, gzip;q=0"], every, "-");
        check(&["br ; q=0.3 , gzip ; q=0.4"], every, "gzip");
        check(&["br;q=0, br;q=1"], every, "-");
        // Whatever is not named.
        check(&["*"], every, "br");
        check(&["*;q=0"], every, "-");
        check(&["br;q=0, *"], every, "zstd");
        check(&["gzip, *;q=0"], every, "gzip");
        check(&["*;q=0.5, gzip;q=0.3"], every, "br");
        // The reply as it is.
        check(&["identity"], every, "-");
        check(&["identity;q=0"], every, "-");
        check(&["identity;q=0, *"], every, "br");
        check(&["identity, gzip;q=0.5"], every, "-");
        check(&["identity;q=0.5, gzip;q=0.5"], every, "gzip");
        check(&["identity;q=0.5, gzip;q=0.4, br;q=0.6"], every, "br");
        // What is no weight is no wish.
        for odd in ["1.001", "2", "-1", "0.1234", "0,5", ".5", "", "0.x", "1e3"] {
            let line: &'static str = format!("gzip;q={odd}").leak();
            check(&[line], every, "-");
        }
        check(&["gzip;level=9"], every, "-");
        check(&["gzip;q=1.", "br;q=0."], every, "gzip");
    }

    #[test]
    fn what_is_no_text_names_no_coding() {
        let mut headers = HeaderMap::new();
        headers.append(
            ACCEPT_ENCODING,
            HeaderValue::from_bytes(b"gzip\xff").unwrap(),
        );
        assert_eq!(choose(&headers, &Coding::ALL), None);
    }
}
