//! The command line: what all commands share. Each noun has a file of its own.

use std::ffi::OsString;

use auth::invalidate::Invalidator;
use auth::resolver::POSITIVE_TTL;
use clap::{Args, Parser, Subcommand};
use registry::Registry;
use service::settings::parse;
use stores::redis::Redis;

use crate::environment::{DSN, REDIS};
use crate::failure::Failure;
use crate::output::{Answer, Format};
use crate::{audit, cutover, dlq, idp, keys, ledger, limits, orgs, products, projects, quota, shards, workspaces};

/// Changes and shows orgs, their limits, workspaces, projects, products, sign-in and API keys.
///
/// Orgs, workspaces and projects are named by slug or id everywhere. Every change is written to the org's audit trail
/// with who made it. Standard output holds nothing but data; notes and errors go to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "tracectl",
    bin_name = "tracectl",
    version,
    after_help = "Examples:\n  \
        tracectl orgs create acme --name 'Acme Inc.' --plan pro\n  \
        tracectl projects create acme website\n  \
        tracectl keys create acme website --name 'production' --expires 90d\n  \
        tracectl orgs list --output json\n\n\
        Exit status: 0 done, 1 failed, 2 the command line is wrong or a yes is missing, 3 done, and something is wrong."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Global {
    /// The format of standard output.
    #[arg(long, global = true, value_enum, env = "TRACECTL_OUTPUT", default_value = "table")]
    pub(crate) output: Format,
    /// The actor of changes in the audit trail; `user@host` unless set
    #[arg(long, global = true, env = "TRACEBILITY_ACTOR", value_name = "NAME")]
    actor: Option<String>,
    /// The URL of Postgres, for the operators' role, such as postgres://user:password@host:5432/database. A password is
    /// safer in the variable than on a command line.
    #[arg(long, global = true, env = DSN, hide_env_values = true, value_name = "URL")]
    dsn: Option<String>,
    /// The URL of Redis, such as redis://:password@host:6379/0, to announce changed keys to the services at once.
    /// Without it they notice within a minute.
    #[arg(long, global = true, env = REDIS, hide_env_values = true, value_name = "URL")]
    redis: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Orgs: the boundary of isolation and billing.
    #[command(subcommand, after_help = "Examples:\n  tracectl orgs list\n  tracectl orgs show acme")]
    Orgs(orgs::Command),
    /// What an org may use, where it differs from its plan.
    #[command(subcommand, after_help = "Examples:\n  tracectl limits show acme\n  tracectl limits set acme --rps 100")]
    Limits(limits::Command),
    /// Orgs' usage of their monthly limits.
    #[command(subcommand, after_help = "Examples:\n  tracectl quota show acme")]
    Quota(quota::Command),
    /// The audit trail as a whole; `tracectl orgs audit` shows an org's.
    #[command(subcommand, after_help = "Examples:\n  tracectl audit gaps")]
    Audit(audit::Command),
    /// Workspaces inside an org; every org has `main`.
    #[command(subcommand, after_help = "Examples:\n  tracectl workspaces list acme")]
    Workspaces(workspaces::Command),
    /// Projects inside a workspace; every API key belongs to one.
    #[command(subcommand, after_help = "Examples:\n  tracectl projects list acme")]
    Projects(projects::Command),
    /// Products that an org has, with their configuration.
    #[command(subcommand, after_help = "Examples:\n  tracectl products list acme")]
    Products(products::Command),
    /// How an org's people sign in.
    #[command(subcommand, after_help = "Examples:\n  tracectl idp show acme")]
    Idp(idp::Command),
    /// API keys: what a client sends to say which project it is.
    #[command(subcommand, after_help = "Examples:\n  tracectl keys list acme")]
    Keys(keys::Command),
    /// The assignment of orgs to the 16 shards.
    #[command(subcommand, after_help = "Examples:\n  tracectl shards plan\n  tracectl shards assign acme 7")]
    Shards(shards::Command),
    /// Dead letters: what could not be stored.
    #[command(subcommand, after_help = "Examples:\n  tracectl dlq ls\n  tracectl dlq replay --org acme")]
    Dlq(dlq::Command),
    /// Draining the legacy stream, and closing it: docs/operations/cutover.md.
    #[command(subcommand, after_help = "Examples:\n  tracectl cutover status\n  tracectl cutover verify")]
    Cutover(cutover::Command),
    /// Whether any accepted item is lost or doubled, per org and hour.
    ///
    /// Counts the items that were accepted, stored, withheld, dead-lettered and are in flight, independently of each
    /// other. A difference is an imbalance: above zero items are missing, below zero there are more than were accepted.
    /// docs/operations/ledger.md says what to do.
    #[command(after_help = "Examples:\n  tracectl ledger\n  tracectl ledger acme --hours 48\n  \
        tracectl ledger --watch\n\nExit status: 3 when an imbalance has lasted for longer than --settle.")]
    Ledger(ledger::Command),
}

impl Cli {
    /// Connects and runs the command.
    pub(crate) async fn run(self) -> Result<Answer, Failure> {
        let registry = self.global.registry().await?;
        let done = match self.noun {
            Noun::Orgs(command) => command.run(&registry).await,
            Noun::Limits(command) => command.run(&registry).await,
            Noun::Quota(command) => {
                let redis = self.global.redis()?;
                command.run(&registry, redis, &self.global.actor()).await
            }
            Noun::Audit(command) => command.run().await,
            Noun::Workspaces(command) => command.run(&registry).await,
            Noun::Projects(command) => command.run(&registry).await,
            Noun::Products(command) => command.run(&registry).await,
            Noun::Idp(command) => command.run(&registry).await,
            Noun::Keys(command) => command.run(&registry).await,
            Noun::Shards(command) => command.run(&registry, self.global.redis()?).await,
            Noun::Dlq(command) => command.run(&registry, self.global.redis()?, &self.global.actor()).await,
            Noun::Cutover(command) => {
                let (redis, actor) = (self.global.redis()?, self.global.actor());
                command.run(redis, self.global.output, &actor).await
            }
            Noun::Ledger(command) => command.run(&registry, self.global.redis()?, self.global.output).await,
        };
        if let Some(reason) = registry.unannounced() {
            let seconds = POSITIVE_TTL.as_secs();
            eprintln!(
                "note: the services notice within {seconds} s, because they could not be told: {reason} ({REDIS})"
            );
        }
        done
    }
}

impl Global {
    async fn registry(&self) -> Result<Registry, Failure> {
        let example = format!("set {DSN}, for example to postgres://tracebility_operator:…@db:5432/tracebility");
        let dsn = self.dsn.as_deref().filter(|text| !text.trim().is_empty());
        let dsn = dsn.ok_or_else(|| Failure::usage("it is not known where the registry is", &example))?;
        let dsn = parse::postgres_url(dsn)
            .map_err(|reason| Failure::usage(format!("the registry's URL {reason}"), example))?;
        let registry = Registry::connect(&dsn).await.map_err(|error| Failure::connecting(&error, &dsn))?;
        let registry = registry.acting_as(self.actor());
        Ok(match self.redis()? {
            Some(redis) => registry.announcing(Invalidator::new(redis)),
            None => registry,
        })
    }

    /// Redis, if its URL was given.
    pub(crate) fn redis(&self) -> Result<Option<Redis>, Failure> {
        let Some(redis) = self.redis.as_deref().filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let wrong =
            |reason| Failure::usage(format!("the URL of Redis {reason}"), format!("correct {REDIS}, or unset it"));
        let redis = stores::redis::connect(&parse::redis_url(redis).map_err(wrong)?);
        redis.map(Some).map_err(|error| wrong(error.to_string()))
    }

    fn actor(&self) -> String {
        let named = self.actor.as_deref().map(str::trim).filter(|actor| !actor.is_empty());
        named.map_or_else(user_at_host, str::to_owned)
    }
}

fn user_at_host() -> String {
    let user = std::env::var_os("USER").or_else(|| std::env::var_os("LOGNAME")).filter(|user| !user.is_empty());
    // In a container, the user often has no name.
    let user = user.unwrap_or_else(|| OsString::from(format!("uid{}", rustix::process::getuid().as_raw())));
    let host = rustix::system::uname();
    format!("{}@{}", user.to_string_lossy(), host.nodename().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::*;

    fn all(command: &Command) -> Vec<Command> {
        let inner = command.get_subcommands().filter(|inner| inner.get_name() != "help").flat_map(all);
        std::iter::once(command.clone()).chain(inner).collect()
    }

    /// Splits a line into words as a shell does, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_that_its_own_parser_takes() {
        let mut tried = 0;
        let mut root = Cli::command();
        root.build();
        for command in all(&root) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_bin_name().unwrap_or_default().to_owned();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("tracectl ")).collect();
            assert!(!examples.is_empty(), "{name} --help has no example");
            for example in examples {
                let line = format!("tracectl {example}");
                assert!(line.starts_with(&name), "{name} has an example of another command: {line}");
                parses(&line);
                tried += 1;
            }
        }
        assert!(tried > 30, "{tried}");
    }

    #[test]
    fn every_command_of_the_documentation_parses() {
        let pages = [include_str!("../../../docs/operations/tracectl.md"), include_str!("../../../README.md")];
        let lines = pages.iter().flat_map(|page| page.lines());
        let commands: Vec<&str> = lines
            .filter_map(|line| {
                let line = line.strip_prefix("KEY=$(").and_then(|line| line.strip_suffix(')')).unwrap_or(line);
                line.strip_prefix("cargo ").unwrap_or(line).starts_with("tracectl ").then_some(line)
            })
            .collect();
        assert!(commands.len() > 20, "{commands:?}");
        commands.iter().for_each(|line| parses(line.strip_prefix("cargo ").unwrap_or(line)));
    }

    /// Fails unless the command of a line, without its comment and its pipe, is a valid one.
    fn parses(line: &str) {
        let command = line.split(" #").next().and_then(|line| line.split(" | ").next()).unwrap();
        let parsed = Cli::try_parse_from(words(command));
        assert!(parsed.is_ok(), "{line}\n{}", parsed.unwrap_err());
    }
}
