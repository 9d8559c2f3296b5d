//! Servers from Debian's and Ubuntu's packages, installed without starting the distribution's own instances.

use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::install::{in_path, is_root, step};
use crate::{StackError, layout};

const INSTALL_LIMIT: Duration = Duration::from_secs(900);

/// Debian asks this script before it starts a service; exit status 101 means "do not".
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_SCRIPT: &[u8] =
    b"#!/bin/sh\n# Written for the time of one installation by tracebility's `stack`.\nexit 101\n";

/// Without it, installing a server's package creates a database cluster.
const CLUSTER_CONF: &str = "/etc/postgresql-common/createcluster.conf";

pub(crate) async fn install(packages: &[&str]) -> Result<(), StackError> {
    if !is_root() || in_path("apt-get").is_none() {
        return Err(StackError::Missing { what: packages.join(", "), command: by_hand(packages) });
    }
    let _policy = NoServices::begin()?;
    let _cluster = packages.contains(&"postgresql").then(NoCluster::begin).transpose()?;
    // The lists of a fresh image are empty, and those of an old one name versions that are gone.
    step("updating the package lists", &mut apt(&["update"]), INSTALL_LIMIT).await?;
    let mut install = apt(&["install", "--yes", "--no-install-recommends"]);
    step(&format!("installing {}", packages.join(", ")), install.args(packages), INSTALL_LIMIT).await?;
    Ok(())
}

fn by_hand(packages: &[&str]) -> String {
    let packages = packages.join(" ");
    if in_path("apt-get").is_some() {
        format!("sudo apt-get update && sudo apt-get install --yes {packages}")
    } else if in_path("dnf").is_some() {
        format!(
            "sudo dnf install {}",
            packages.replace("postgresql", "postgresql-server").replace("redis-server", "redis")
        )
    } else {
        format!(
            "your system's package manager ({packages}), or point TRACEBILITY_PG_DSN, TRACEBILITY_PG_OWNER_DSN, \
                 TRACEBILITY_REDIS_URL and TRACEBILITY_CLICKHOUSE_URL at running servers"
        )
    }
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["--quiet", "--option", "DPkg::Lock::Timeout=300", "--option", "Dpkg::Options::=--force-confold"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Debian's Postgres packages merge their configuration with ucf, which would ask about ours.
        .env("UCF_FORCE_CONFFOLD", "1");
    command
}

/// While it lives, packages do not start services. Where the administrator has a policy, that one stands.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self, StackError> {
        let path = Path::new(POLICY);
        match OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                let policy = Self { ours: true };
                file.write_all(POLICY_SCRIPT).map_err(StackError::file("write", path))?;
                Ok(policy)
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // Left behind by an installation of ours that was killed, or the administrator's.
                Ok(Self { ours: fs::read(path).is_ok_and(|script| script == POLICY_SCRIPT) })
            }
            Err(e) => Err(StackError::file("write", path)(e)),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // A policy that stays behind is found and removed by the next installation.
            _ = layout::remove_file(Path::new(POLICY));
        }
    }
}

/// Says that no cluster is wanted, unless the machine already has an opinion.
struct NoCluster;

impl NoCluster {
    fn begin() -> Result<Self, StackError> {
        let path = Path::new(CLUSTER_CONF);
        if path.exists() {
            return Ok(Self);
        }
        let fail = |e| StackError::file("write", path)(e);
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(fail)?;
        fs::write(
            path,
            "# Written by tracebility's `stack`, which runs Postgres itself.\ncreate_main_cluster = false\n",
        )
        .map_err(fail)?;
        Ok(Self)
    }
}
