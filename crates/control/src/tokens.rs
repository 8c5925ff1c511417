//! Tokens: who shows one, who may make one, and when one ends.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use model::api::{CreatedToken, NewToken, Scope, TokenSummary, Verb};
use model::{Digest, TenantName, limits};
use rusqlite::Connection;

use crate::auth::{Caller, TokenText};
use crate::control::Platform;
use crate::keys::write_secret;
use crate::records::tokens::Token;
use crate::records::{RecordsError, tenants, tokens};

/// Who makes the tokens that the platform writes to a file.
const PLATFORM: &str = "platform";

/// How often a token's last use is written down.
const TOUCH_MS: u64 = 60_000;

/// Why a caller is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("this needs a token; send `Authorization: Bearer TOKEN`")]
    Missing,
    #[error("there is more than one `Authorization`; send one")]
    Twice,
    #[error(
        "this is not a token of this platform: its form or checksum is wrong; it begins with `midge_` and has 67 characters"
    )]
    Malformed,
    #[error("there is no such token")]
    Unknown,
    #[error("the token expired; make a new one with `midge token create`")]
    Expired,
    #[error("the token was revoked; make a new one with `midge token create`")]
    Revoked,
    #[error("too many wrong tokens came from your address; try again in {0} s")]
    TooMany(u64),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// Why a token was not made or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "a token can only make tokens within its own scope, and only one with the verb `admin` can make any"
    )]
    BeyondScope,
    #[error("a scope with an app needs the app's tenant too")]
    AppWithoutTenant,
    #[error("the label has {0} characters; it may have {limit}", limit = limits::TOKEN_LABEL.default)]
    LabelTooLong(u64),
    #[error("there are {0} tokens of this tenant, and there may be no more; revoke one")]
    TooMany(u64),
    #[error("there is no tenant `{0}`; `midge tenant create {0}` makes it")]
    NoTenant(TenantName),
    #[error("there is no token `{0}` within your scope")]
    NoToken(String),
    #[error(
        "a token that expires after no time is of no use; leave `expires_in` out, or give it a time"
    )]
    ExpiresAtOnce,
    #[error("the operating system gave no random bytes: {0}")]
    Random(getrandom::Error),
    #[error("while writing the token to a file: {0}")]
    File(std::io::Error),
    #[error(transparent)]
    Ended(#[from] AuthError),
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// The caller who shows `text`, from `address`.
pub(crate) async fn authenticate(
    platform: &Platform,
    text: &str,
    address: IpAddr,
) -> Result<Caller, AuthError> {
    let now = platform.now();
    let found = match TokenText::parse(text) {
        None => Err(AuthError::Malformed),
        Some(token) => find(platform, token, now).await,
    };
    match &found {
        // Whoever has the right one shares an address with who guesses: a proxy's, or this machine's.
        Ok(_) | Err(AuthError::Records(_)) => found,
        Err(_) => match platform.failures.wait(address, now) {
            Some(seconds) => Err(AuthError::TooMany(seconds)),
            None => {
                platform.failures.count(address, now);
                found
            }
        },
    }
}

/// Whether a caller's token still holds: it may have ended since the request began.
pub(crate) async fn still_holds(platform: &Platform, caller: &Caller) -> Result<(), AuthError> {
    let (id, now) = (caller.token.clone(), platform.now());
    platform.records.read(move |c| holds(c, &id, now)).await
}

/// The same of the token with this id, within what it is shown for: nothing ends it before that is done.
pub(crate) fn holds(c: &Connection, id: &str, now: u64) -> Result<(), AuthError> {
    let token = tokens::find(c, id)?.ok_or(AuthError::Unknown)?;
    alive(&token, now)
}

async fn find(platform: &Platform, token: TokenText, now: u64) -> Result<Caller, AuthError> {
    let id = token.id().to_owned();
    let known = platform.records.read(move |c| tokens::find(c, &id)).await?;
    // An unknown id takes the time of a wrong secret, and says the same.
    let stored = known
        .as_ref()
        .map_or(Digest::from_bytes([0; 32]), |known| known.hash);
    let matches = token.matches(&stored);
    let known = known.filter(|_| matches).ok_or(AuthError::Unknown)?;
    alive(&known, now)?;
    let stale = known
        .summary
        .last_used_ms
        .is_none_or(|last| last + TOUCH_MS <= now);
    if stale {
        let id = known.summary.id.clone();
        let touched = platform
            .records
            .write(move |t| tokens::touch(t, &id, now))
            .await;
        // When it was used last is not worth a refusal: what a disk that takes nothing still tells can be asked for.
        drop(touched);
    }
    Ok(Caller {
        token: known.summary.id,
        scope: known.summary.scope,
    })
}

fn alive(token: &Token, now: u64) -> Result<(), AuthError> {
    if token.revoked_ms.is_some() {
        Err(AuthError::Revoked)
    } else if token.summary.expires_ms.is_some_and(|end| end <= now) {
        Err(AuthError::Expired)
    } else {
        Ok(())
    }
}

/// Makes a token within the caller's scope.
pub(crate) async fn create(
    platform: &Platform,
    caller: &Caller,
    new: NewToken,
) -> Result<CreatedToken, TokenError> {
    if caller.scope.verb < Verb::Admin || !caller.covers(&new.scope) {
        return Err(TokenError::BeyondScope);
    }
    if new.scope.app.is_some() && new.scope.tenant.is_none() {
        return Err(TokenError::AppWithoutTenant);
    }
    let characters = new.label.chars().count() as u64;
    if characters > limits::TOKEN_LABEL.default {
        return Err(TokenError::LabelTooLong(characters));
    }
    if new.expires_in.is_some_and(|time| time.0 == 0) {
        return Err(TokenError::ExpiresAtOnce);
    }
    add(platform, Maker::Caller(caller.token.clone()), new).await
}

/// Who makes a token.
enum Maker {
    /// Who shows the token with this id.
    Caller(String),
    Platform,
}

async fn add(platform: &Platform, by: Maker, new: NewToken) -> Result<CreatedToken, TokenError> {
    let token = TokenText::make().map_err(TokenError::Random)?;
    let now = platform.now();
    let summary = TokenSummary {
        id: token.id().to_owned(),
        label: new.label,
        scope: new.scope,
        created_ms: now,
        expires_ms: new.expires_in.map(|time| now.saturating_add(time.0)),
        last_used_ms: None,
    };
    let (hash, kept) = (token.hash(), summary.clone());
    platform
        .records
        .write(move |t| {
            let by = match &by {
                Maker::Caller(id) => {
                    holds(t, id, now)?;
                    id
                }
                Maker::Platform => PLATFORM,
            };
            // One that is made later would have an admin whom its maker does not know of.
            if let Some(tenant) = &kept.scope.tenant
                && !tenants::exists(t, tenant)?
            {
                return Err(TokenError::NoTenant(tenant.clone()));
            }
            let most = limits::TOKENS.default;
            if tokens::count(t, kept.scope.tenant.as_ref(), now)? >= most {
                return Err(TokenError::TooMany(most));
            }
            Ok(tokens::add(t, &kept, &hash, by)?)
        })
        .await?;
    Ok(CreatedToken {
        token: token.reveal().to_owned(),
        summary,
    })
}

/// The tokens within the caller's scope that still hold.
pub(crate) async fn list(
    platform: &Platform,
    caller: &Caller,
) -> Result<Vec<TokenSummary>, RecordsError> {
    let now = platform.now();
    let all = platform.records.read(move |c| tokens::list(c, now)).await?;
    let seen = all.into_iter().filter(|token| caller.covers(&token.scope));
    Ok(seen.collect())
}

/// Ends a token within the caller's scope. One that has ended already stays so.
pub(crate) async fn revoke(
    platform: &Platform,
    caller: &Caller,
    id: String,
) -> Result<(), TokenError> {
    let (caller, now) = (caller.clone(), platform.now());
    platform
        .records
        .write(move |t| {
            let known = tokens::find(t, &id)?;
            match known.filter(|token| caller.covers(&token.summary.scope)) {
                None => Err(TokenError::NoToken(id)),
                Some(_) => Ok(tokens::revoke(t, &id, now)?),
            }
        })
        .await
}

/// Keeps a token for everything in the file at `path`: the one that is there if it holds, else a new one, and
/// those of lost files end.
pub(crate) async fn keep_admin(platform: &Platform, path: &Path) -> Result<(), TokenError> {
    if let Ok(text) = std::fs::read_to_string(path)
        && let Some(token) = TokenText::parse(text.trim())
        && let Ok(caller) = find(platform, token, platform.now()).await
        && caller.covers(&everything())
    {
        // Nothing is written: a start must succeed on a full disk too.
        return make_private(path).map_err(TokenError::File);
    }
    let now = platform.now();
    platform
        .records
        .write(move |t| tokens::revoke_made_by(t, PLATFORM, now))
        .await?;
    let new = NewToken {
        label: "the platform's own".into(),
        scope: everything(),
        expires_in: None,
    };
    let created = add(platform, Maker::Platform, new).await?;
    let text = format!("{}\n", created.token);
    write_secret(path, text.as_bytes()).map_err(TokenError::File)
}

/// Only the owner reads it, whoever made it.
fn make_private(path: &Path) -> std::io::Result<()> {
    let private = std::fs::Permissions::from_mode(0o600);
    if std::fs::metadata(path)?.permissions().mode() & 0o777 == 0o600 {
        return Ok(());
    }
    std::fs::set_permissions(path, private)
}

fn everything() -> Scope {
    Scope {
        tenant: None,
        app: None,
        verb: Verb::Admin,
    }
}
