//! Tokens as text, and what their bearers may do. No records, no clock.
//!
//! A token is `midge_`, a public id of 12 characters, a secret of 43 (256 bits) and a checksum of 6, all base62:
//! a scanner finds one in a text, and a typing error is told from a wrong token without asking the records.

use model::api::{Scope, Verb};
use model::{AppId, AppName, Digest, TenantName};
use subtle::ConstantTimeEq;

const PREFIX: &str = "midge_";
const ID: usize = 12;
const SECRET: usize = 43;
const CHECK: usize = 6;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A token's text, well formed. It is not shown by accident: there is no `Debug` or `Display`.
pub(crate) struct TokenText(String);

impl TokenText {
    /// A token nobody has seen before.
    pub fn make() -> Result<Self, getrandom::Error> {
        let mut text = String::from(PREFIX);
        for _ in 0..ID + SECRET {
            text.push(random_digit()?);
        }
        text.push_str(&check_of(&text));
        Ok(Self(text))
    }

    /// Whether there is one somewhere in `text`.
    pub fn is_in(text: &str) -> bool {
        let length = PREFIX.len() + ID + SECRET + CHECK;
        let mut places = text.match_indices(PREFIX);
        places.any(|(at, _)| {
            let whole = text.get(at..at + length);
            whole.is_some_and(|whole| Self::parse(whole).is_some())
        })
    }

    /// The token that `text` is, if its form and checksum are right.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        let fits =
            rest.len() == ID + SECRET + CHECK && rest.bytes().all(|b| b.is_ascii_alphanumeric());
        if !fits {
            return None;
        }
        let (body, check) = text.split_at(text.len() - CHECK);
        (check_of(body) == check).then(|| Self(text.to_owned()))
    }

    /// The public part.
    pub fn id(&self) -> &str {
        &self.0[PREFIX.len()..PREFIX.len() + ID]
    }

    /// The whole text: to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it. The secret has 256 random bits: a plain hash is enough.
    pub fn hash(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// Whether its hash is `stored`, in a time that does not tell how much of it is.
    pub fn matches(&self, stored: &Digest) -> bool {
        self.hash().as_bytes().ct_eq(stored.as_bytes()).into()
    }
}

fn random_digit() -> Result<char, getrandom::Error> {
    loop {
        let mut byte = [0];
        getrandom::fill(&mut byte)?;
        // 248 is the largest multiple of 62 in a byte: beyond it, some digits would come more often.
        if byte[0] < 248 {
            return Ok(char::from(DIGITS[usize::from(byte[0] % 62)]));
        }
    }
}

fn check_of(text: &str) -> String {
    let mut rest = crc32c::crc32c(text.as_bytes());
    let mut check = [b'0'; CHECK];
    for digit in check.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    String::from_utf8_lossy(&check).into_owned()
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The token's public id.
    pub token: String,
    pub scope: Scope,
}

/// What something that is asked for touches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach<'a> {
    /// The platform itself.
    Platform,
    /// Something of a tenant that each of its apps needs, such as its uploads.
    Within(&'a TenantName),
    /// Something of a tenant that is not for who works at one of its apps alone.
    Tenant(&'a TenantName),
    App(&'a AppId),
}

/// What a caller's token does not reach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this needs a token that lets its bearer `{}` on {on}; yours does not", verb_name(*.verb))]
pub(crate) struct NotAllowed {
    verb: Verb,
    on: String,
}

impl Caller {
    pub fn check(&self, verb: Verb, reach: Reach<'_>) -> Result<(), NotAllowed> {
        let Scope { tenant, app, .. } = &self.scope;
        let in_tenant = |other: &TenantName| tenant.as_ref().is_none_or(|own| own == other);
        let in_app = |other: &AppName| app.as_ref().is_none_or(|own| own == other);
        let (reaches, on) = match reach {
            Reach::Platform => (tenant.is_none(), "the platform".to_owned()),
            Reach::Within(tenant) => (in_tenant(tenant), format!("the tenant `{tenant}`")),
            Reach::Tenant(tenant) => (
                in_tenant(tenant) && app.is_none(),
                format!("the whole tenant `{tenant}`"),
            ),
            Reach::App(id) => (
                in_tenant(&id.tenant) && in_app(&id.app),
                format!("the app `{id}`"),
            ),
        };
        if reaches && self.scope.verb >= verb {
            Ok(())
        } else {
            Err(NotAllowed { verb, on })
        }
    }

    /// Whether everything that `other` reaches is within this caller's scope.
    pub fn covers(&self, other: &Scope) -> bool {
        let own = &self.scope;
        let tenant = own.tenant.is_none() || own.tenant == other.tenant;
        let app = own.app.is_none() || own.app == other.app;
        tenant && app && own.verb >= other.verb
    }
}

fn verb_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Read => "read",
        Verb::Deploy => "deploy",
        Verb::Admin => "admin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_as_it_was_made_and_a_typing_error_shows() {
        let token = TokenText::make().unwrap();
        let text = token.reveal().to_owned();
        let again = TokenText::parse(&text).unwrap();
        assert_eq!(again.id(), token.id());
        assert!(again.matches(&token.hash()));
        assert!(!TokenText::make().unwrap().matches(&token.hash()));

        for place in PREFIX.len()..text.len() {
            let mut wrong = text.clone();
            let other = if &text[place..=place] == "x" {
                "y"
            } else {
                "x"
            };
            wrong.replace_range(place..=place, other);
            assert!(TokenText::parse(&wrong).is_none(), "{place}");
        }
        for wrong in [
            "",
            "midge_",
            &text[1..],
            &format!("{text}0"),
            &"é".repeat(40),
        ] {
            assert!(TokenText::parse(wrong).is_none(), "{wrong}");
        }
    }

    fn caller(scope: &str) -> Caller {
        Caller {
            token: "a".into(),
            scope: self::scope(scope),
        }
    }

    /// `tenant/app verb`, `-` for none.
    fn scope(text: &str) -> Scope {
        let (place, verb) = text.split_once(' ').unwrap();
        let (tenant, app) = place.split_once('/').unwrap();
        Scope {
            tenant: (tenant != "-").then(|| tenant.parse().unwrap()),
            app: (app != "-").then(|| app.parse().unwrap()),
            verb: match verb {
                "read" => Verb::Read,
                "deploy" => Verb::Deploy,
                _ => Verb::Admin,
            },
        }
    }

    #[test]
    fn a_scope_reaches_what_lies_within_it() {
        let check = |token: &str, verb: Verb, reach: Reach<'_>, may: bool| {
            let allowed = caller(token).check(verb, reach).is_ok();
            assert_eq!(allowed, may, "{token} {verb:?} {reach:?}");
        };
        let (alice, bob): (TenantName, TenantName) =
            ("alice".parse().unwrap(), "bob".parse().unwrap());
        let (shop, cart): (AppId, AppId) =
            ("alice/shop".parse().unwrap(), "alice/cart".parse().unwrap());
        let bobs: AppId = "bob/shop".parse().unwrap();
        for token in ["-/- admin", "-/- deploy"] {
            check(token, Verb::Deploy, Reach::App(&bobs), true);
            check(token, Verb::Read, Reach::Platform, true);
        }
        check("-/- deploy", Verb::Admin, Reach::Platform, false);
        check("alice/- admin", Verb::Admin, Reach::App(&shop), true);
        check("alice/- admin", Verb::Admin, Reach::Within(&alice), true);
        check("alice/- admin", Verb::Read, Reach::Platform, false);
        check("alice/- admin", Verb::Read, Reach::App(&bobs), false);
        check("alice/- admin", Verb::Read, Reach::Within(&bob), false);
        check("alice/- read", Verb::Deploy, Reach::App(&shop), false);
        check("alice/shop deploy", Verb::Deploy, Reach::App(&shop), true);
        check("alice/shop deploy", Verb::Read, Reach::App(&cart), false);
        check("alice/shop deploy", Verb::Deploy, Reach::App(&bobs), false);
        check(
            "alice/shop deploy",
            Verb::Deploy,
            Reach::Within(&alice),
            true,
        );
        check(
            "alice/shop deploy",
            Verb::Deploy,
            Reach::Within(&bob),
            false,
        );
    }

    #[test]
    fn a_token_makes_tokens_within_its_own_scope() {
        let check = |own: &str, other: &str, may: bool| {
            assert_eq!(caller(own).covers(&scope(other)), may, "{own} {other}");
        };
        check("-/- admin", "-/- admin", true);
        check("-/- admin", "bob/shop read", true);
        check("alice/- admin", "alice/- admin", true);
        check("alice/- admin", "alice/shop deploy", true);
        check("alice/- admin", "-/- read", false);
        check("alice/- admin", "bob/- read", false);
        check("alice/shop admin", "alice/- read", false);
        check("alice/shop admin", "alice/cart read", false);
        check("alice/shop deploy", "alice/shop admin", false);
    }
}
