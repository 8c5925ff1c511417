//! The stores of apps that are gone.

use std::sync::Arc;

use capabilities::kv::Keeper;
use model::{KvError, Owner};

use crate::control::Platform;
use crate::records::{Records, RecordsError, apps, incarnations};

/// Why it is not known whose stores there are.
#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    #[error(transparent)]
    Stores(#[from] KvError),
}

/// Whose stores no app has: a crash, or what a guest wrote that ran on after its app was deleted, left them. An app
/// that comes later is none of these: its number passes theirs, or, where an app that is there has a lower one than its
/// stores say (the records are older than the stores), they are removed at once.
pub(crate) async fn of_nobody(
    records: &Records,
    kv: &dyn Keeper,
) -> Result<Vec<Owner>, StoresError> {
    let owners = kv.owners().await?;
    if owners.is_empty() {
        return Ok(owners);
    }
    let (of_nobody, ahead) = records
        .write(move |t| {
            let (mut of_nobody, mut ahead) = (Vec::new(), Vec::new());
            for owner in owners {
                let present = incarnations::of(t, &owner.app)?.app;
                if apps::find(t, &owner.app)?.is_none() {
                    incarnations::pass(t, &owner)?;
                    of_nobody.push(owner);
                } else if owner.incarnation > present {
                    ahead.push(owner);
                } else if owner.incarnation < present {
                    of_nobody.push(owner);
                }
            }
            Ok::<_, RecordsError>((of_nobody, ahead))
        })
        .await?;
    for owner in &ahead {
        kv.forget(owner).await?;
    }
    Ok(of_nobody)
}

/// Removes each of them.
pub(crate) async fn forget_all(platform: Arc<Platform>, owners: Vec<Owner>) {
    for owner in &owners {
        forget(&platform, owner).await;
    }
}

/// Removes the stores of an app that was deleted. Where this fails, the next start does.
pub(crate) async fn forget(platform: &Platform, owner: &Owner) {
    if let Err(error) = platform.settings.kv.forget(owner).await {
        platform.notice(format!(
            "the stores of `{}`, which was deleted, are still there: {error}",
            owner.app
        ));
    }
}
