//! The command line: every command, its help and the options that all commands of the API share.

use clap::{Args, Parser, Subcommand};
use model::TenantName;

use crate::commands::{
    apps, backup, build, certificate, completions, delete, deploy, dev, doctor, inspect, kv,
    limits, logs, new, restore, rollback, secret, status, tenant, token, top, up, upgrade,
    versions,
};
use crate::failure::EXIT_CODES;

/// Runs WebAssembly at the edge: upload a `.wasm`, and it answers HTTP a moment later, each request in a fresh
/// instance of its own.
///
/// `midge up` is the whole platform on this machine. The other commands speak to a platform: the one that the
/// default profile names, or the one given by `--api` and `--token`.
#[derive(Debug, Parser)]
#[command(
    name = "midge",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Begin with `midge up`, then `midge new hello && cd hello && midge deploy`.",
    after_long_help = EXIT_CODES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Up(up::Options),
    Upgrade(upgrade::Options),
    New(new::Options),
    Build(build::Options),
    Dev(dev::Options),
    Deploy(deploy::Options),
    Apps(apps::Options),
    Versions(versions::Options),
    Rollback(rollback::Options),
    Logs(logs::Options),
    Delete(delete::Options),
    Inspect(inspect::Options),
    Token(token::Options),
    Tenant(tenant::Options),
    Certificate(certificate::Options),
    Secret(secret::Options),
    Kv(kv::Options),
    Status(status::Options),
    Top(top::Options),
    Doctor(doctor::Options),
    Backup(backup::Options),
    Restore(restore::Options),
    Limits(limits::Options),
    Completions(completions::Options),
    /// Serves requests for a supervisor, which starts it
    #[command(hide = true)]
    Worker,
    /// Compiles one upload for a control plane, which starts it
    #[command(hide = true)]
    CompileChild,
}

/// Which platform to speak to, and as whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Platform")]
pub struct Platform {
    /// The control API's address, such as `http://127.0.0.1:8081` [default: the profile's]
    #[arg(long, value_name = "URL", env = "MIDGE_API", hide_env_values = true)]
    pub api: Option<String>,

    /// The token to be let in with [default: the profile's]
    #[arg(
        long,
        value_name = "TOKEN",
        env = "MIDGE_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,

    /// The profile to take address and token from [default: default]
    #[arg(
        long,
        value_name = "NAME",
        env = "MIDGE_PROFILE",
        hide_env_values = true
    )]
    pub profile: Option<String>,

    /// Whose apps are meant
    #[arg(
        long,
        value_name = "TENANT",
        env = "MIDGE_TENANT",
        hide_env_values = true,
        default_value = "default"
    )]
    pub tenant: TenantName,
}

/// How results are written.
#[derive(Debug, Clone, Default, Args)]
pub struct Form {
    /// Write the result as JSON, for scripts
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_a_summary_and_examples() {
        let mut commands = vec![Arguments::command()];
        while let Some(command) = commands.pop() {
            let subcommands = command.get_subcommands();
            commands.extend(subcommands.filter(|it| !it.is_hide_set()).cloned());
            let name = command.get_name();
            if name == "midge" {
                continue;
            }
            let about = command.get_about().map(ToString::to_string);
            let about = about.unwrap_or_default();
            assert!(
                !about.is_empty() && !about.contains('\n'),
                "{name}: {about}"
            );
            let after = command.get_after_help().map(ToString::to_string);
            let after = after.unwrap_or_default();
            let (_, examples) = after.split_once("Examples:\n").unwrap_or_default();
            let mut lines = examples.lines().map(str::trim).peekable();
            assert!(lines.peek().is_some(), "{name} has no examples");
            assert!(lines.all(|line| line.contains("midge")), "{name}: {after}");
        }
    }

    #[test]
    fn the_commands_of_the_tutorial_are_understood() {
        for line in [
            "midge up --listen 127.0.0.1:0 --listen [::1]:0 --api 127.0.0.1:0 --workers 2",
            "midge upgrade",
            "midge upgrade ./midge --data /tmp/x --json",
            "midge new hello --template rust",
            "midge build",
            "midge dev",
            "midge dev shop.wasm --addr 127.0.0.1:0 --env A=B --grant config.color=blue",
            "midge dev --secret stripe-key=x --secret-file session-key=key",
            "midge deploy",
            "midge deploy shop.wasm --name shop --api http://127.0.0.1:1 --token t",
            "midge apps --json",
            "midge versions shop",
            "midge rollback shop --to 2",
            "midge logs shop -f --tail 10 --stream stderr",
            "midge logs shop -f --status 5xx --since 10m --json",
            "midge delete shop --yes",
            "midge inspect shop.wasm --json",
            "midge token create ci --verb deploy --app shop --expires 30d",
            "midge token list",
            "midge token revoke abc",
            "midge tenant create alice",
            "midge tenant list --json",
            "midge tenant limits alice --json",
            "midge tenant limits alice --apps 0 --slots default --kv-store 1MiB",
            "midge certificate set shop --chain a.pem --key a.key --tenant alice",
            "midge certificate list --json",
            "midge certificate delete shop",
            "midge secret set stripe-key",
            "midge secret set stripe-key --from key --json --tenant alice",
            "midge secret list --json",
            "midge secret delete stripe-key",
            "midge kv stores shop --json",
            "midge kv list shop --store carts --prefix a/",
            "midge kv get shop k",
            "midge kv set shop k v --ttl 1h",
            "midge kv set shop k --file -",
            "midge kv delete shop k --tenant alice",
            "midge kv export shop --store carts",
            "midge kv import shop -",
            "midge status",
            "midge top",
            "midge top --once --json --sort cpu --interval 5s",
            "midge doctor --json",
            "midge backup b.tar",
            "midge restore b.tar --data /tmp/x",
            "midge completions bash",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_is_not_a_command_line_is_refused() {
        for line in [
            "midge",
            "midge fly",
            "midge up --listen nowhere",
            "midge up --grace 10",
            "midge logs shop --stream nowhere",
            "midge logs shop --status 6xx",
            "midge logs shop --since yesterday",
            "midge dev --addr nowhere",
            "midge dev --env A",
            "midge dev --grant moon.A=B",
            "midge rollback shop --to 0",
            "midge top --sort luck",
            "midge versions Shop",
            "midge versions",
            "midge delete shop --tenant ../x",
            "midge tenant create Alice",
            "midge certificate set shop --chain a.pem",
            "midge kv set shop k",
            "midge kv set shop k v --file f",
            "midge kv set shop k v --ttl soon",
            "midge kv get shop k --store ../x",
            "midge certificate delete ../x",
            "midge secret set stripe-key value",
            "midge secret set stripe_key",
            "midge secret set",
            "midge dev --secret stripe-key",
            "midge dev --secret ../x=y",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }
}
