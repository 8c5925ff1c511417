//! One file per command: its options with their help, and what it does.

pub mod apps;
pub mod backup;
pub mod build;
pub mod certificate;
pub mod completions;
pub mod delete;
pub mod deploy;
pub mod dev;
pub mod doctor;
pub mod inspect;
pub mod kv;
pub mod limits;
pub mod logs;
pub mod new;
pub mod restore;
pub mod rollback;
pub mod secret;
pub mod status;
pub mod tenant;
pub mod token;
pub mod top;
pub mod up;
pub mod upgrade;
pub mod versions;
