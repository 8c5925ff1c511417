//! The flags of `midge up` that set what a configuration file may set too, and the environment in their place.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use model::{Host, Millis};

/// The flags of `midge up` that a configuration file may hold too. The environment stands in for flags not given.
#[derive(Debug, Default, Args)]
pub struct Flags {
    /// Read this file instead of `midge.config.toml` in the current folder
    #[arg(
        long,
        value_name = "PATH",
        env = "MIDGE_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// Keep records, artifacts and logs in this folder [default: $XDG_DATA_HOME/midge or ~/.local/share/midge]
    #[arg(long, value_name = "DIR", env = "MIDGE_DATA", hide_env_values = true)]
    pub data: Option<PathBuf>,

    #[allow(
        rustdoc::broken_intra_doc_links,
        reason = "an address in the text of the help"
    )]
    /// Answer apps' requests on this address; may be given several times [default: 127.0.0.1:8080, and [::1]:8080 where there is IPv6]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MIDGE_LISTEN",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// Serve the control API on this address [default: 127.0.0.1:8081]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "MIDGE_API_ADDRESS",
        hide_env_values = true
    )]
    pub api: Option<SocketAddr>,

    /// Apps answer at their name below this domain [default: localhost]
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "MIDGE_DOMAIN",
        hide_env_values = true
    )]
    pub domain: Option<Host>,

    /// Run this many worker processes [default: one for each core]
    #[arg(long, value_name = "N", env = "MIDGE_WORKERS", hide_env_values = true)]
    pub workers: Option<u32>,

    /// Give requests in flight this long to finish when stopping [default: 10s]
    #[arg(
        long,
        value_name = "DURATION",
        env = "MIDGE_GRACE",
        hide_env_values = true
    )]
    pub grace: Option<Millis>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_stands_in_for_flags_that_were_not_given() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            flags: Flags,
        }
        let command = <Line as clap::CommandFactory>::command();
        let named: Vec<_> = command
            .get_arguments()
            .filter_map(|argument| argument.get_env())
            .collect();
        assert_eq!(
            named,
            [
                "MIDGE_CONFIG",
                "MIDGE_DATA",
                "MIDGE_LISTEN",
                "MIDGE_API_ADDRESS",
                "MIDGE_DOMAIN",
                "MIDGE_WORKERS",
                "MIDGE_GRACE"
            ]
        );
    }
}
