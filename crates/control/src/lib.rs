//! The control plane: who may do what, which version serves, and the records of it. It orders compiles and publishes
//! catalogs; it cannot run a guest, and it does not know its nodes but through `distribution`.

mod api;
mod auth;
mod backup;
mod catalog;
mod certificate;
mod certificates;
mod collect;
mod compile;
mod control;
mod deploy;
mod failures;
mod keys;
mod live;
mod mend;
mod natives;
mod pins;
mod receiving;
mod records;
mod restore;
mod rollout;
mod routes;
mod seal;
mod secrets;
mod settings;
mod stores;
mod temporary;
mod tenant_limits;
mod tenants;
mod tokens;
mod turns;
mod versions;

pub use backup::{Backup, BackupError};
pub use catalog::CatalogError;
pub use certificate::{Judged, Named, Unusable, judge};
pub use control::{AdminTokenError, Control, OpenError, system_time};
pub use keys::{KeyError, PublicKeys};
pub use records::{RecordsError, SCHEMA};
pub use restore::{RestoreError, restore};
pub use settings::{Clock, ControlSettings, NodeLimits, Notice, PublicUrl};
