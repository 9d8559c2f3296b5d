//! What a Redis server says about itself.

use redis::RedisError;

use super::Redis;
use super::readiness::{ConnectError, SAFE_POLICY};

/// `CONFIG GET` pattern for the settings that govern fsync. One pattern, because older servers take only one.
const WRITING: &str = "*appendfsync*";

/// One primary, as `INFO` and, where the server allows it, `CONFIG GET` describe it. `None`: the server did not report
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) run_id: String,
    pub(super) is_primary: Option<bool>,
    pub(super) is_loading: Option<bool>,
    pub(super) policy: Option<String>,
    pub(super) aof_enabled: Option<bool>,
    pub(super) aof_last_write: Option<String>,
    pub(super) rewrite_fails: bool,
    pub(super) delayed_fsyncs: Option<u64>,
    pub(super) used_memory: Option<u64>,
    pub(super) maxmemory: Option<u64>,
    pub(super) replicas_online: u64,
    pub(super) appendfsync: Option<String>,
    pub(super) no_fsync_on_rewrite: Option<bool>,
}

impl Facts {
    /// Reads the facts of every primary.
    pub(super) async fn read(redis: &Redis) -> Result<Vec<Self>, ConnectError> {
        let infos = redis.on_every_primary(&redis::cmd("INFO")).await.map_err(ConnectError::Unreachable)?;
        let mut get = redis::cmd("CONFIG");
        get.arg("GET").arg(WRITING);
        let configs = match redis.on_every_primary(&get).await {
            Ok(configs) => configs,
            Err(error) if is_refusal(&error) => Vec::new(),
            Err(error) => return Err(ConnectError::Unreachable(error)),
        };
        let servers = infos.into_iter().map(|(name, info)| {
            let mut facts = Self::parse(&redis::from_redis_value::<String>(info).unwrap_or_default());
            let config = configs.iter().find(|(of, _)| *of == name).map(|(_, config)| config.clone());
            let config = config.and_then(|config| redis::from_redis_value::<Vec<(String, String)>>(config).ok());
            for (setting, value) in config.unwrap_or_default() {
                match setting.as_str() {
                    "appendfsync" => facts.appendfsync = Some(value),
                    "no-appendfsync-on-rewrite" => facts.no_fsync_on_rewrite = Some(value == "yes"),
                    _ => {}
                }
            }
            facts
        });
        Ok(servers.collect())
    }

    /// Parses the reply to `INFO`.
    pub(super) fn parse(info: &str) -> Self {
        let mut facts = Self::default();
        for (field, value) in info.lines().filter_map(|line| line.trim_end().split_once(':')) {
            let flag = || value.parse::<u8>().ok().map(|flag| flag != 0);
            match field {
                "run_id" => facts.run_id = value.to_owned(),
                "role" => facts.is_primary = Some(value == "master"),
                "loading" => facts.is_loading = flag(),
                "maxmemory_policy" => facts.policy = Some(value.to_owned()),
                "aof_enabled" => facts.aof_enabled = flag(),
                "aof_last_write_status" => facts.aof_last_write = Some(value.to_owned()),
                "aof_last_bgrewrite_status" => facts.rewrite_fails = value != "ok",
                "aof_delayed_fsync" => facts.delayed_fsyncs = value.parse().ok(),
                "used_memory" => facts.used_memory = value.parse().ok(),
                "maxmemory" => facts.maxmemory = value.parse().ok(),
                // slave0:ip=10.0.0.2,port=6379,state=online,offset=…
                _ if field.strip_prefix("slave").is_some_and(|n| n.parse::<u16>().is_ok()) => {
                    facts.replicas_online += u64::from(value.split(',').any(|part| part == "state=online"));
                }
                _ => {}
            }
        }
        facts
    }

    /// Returns an error for a server that would lose acknowledged data, or that does not report whether it would.
    pub(super) fn check(&self) -> Result<(), ConnectError> {
        let hidden = |field| ConnectError::Hidden { field };
        if self.is_loading.ok_or(hidden("loading"))? {
            return Err(ConnectError::Loading);
        }
        if !self.is_primary.ok_or(hidden("role"))? {
            return Err(ConnectError::Replica);
        }
        let policy = self.policy.as_deref().ok_or(hidden("maxmemory_policy"))?;
        if policy != SAFE_POLICY {
            return Err(ConnectError::Evicts { policy: policy.to_owned() });
        }
        if !self.aof_enabled.ok_or(hidden("aof_enabled"))? {
            return Err(ConnectError::NoAof);
        }
        let status = self.aof_last_write.as_deref().ok_or(hidden("aof_last_write_status"))?;
        if status != "ok" {
            return Err(ConnectError::AofFails { status: status.to_owned() });
        }
        if self.appendfsync.as_deref() == Some("no") {
            return Err(ConnectError::NoFsync);
        }
        Ok(())
    }

    /// Whether the server always fsyncs before it replies (`appendfsync always`).
    pub(super) fn replies_after_fsync(&self) -> bool {
        self.appendfsync.as_deref() == Some("always") && self.no_fsync_on_rewrite == Some(false)
    }

    /// The used share of `maxmemory`, from 0 to 1. `None` without a limit.
    pub(super) fn memory_share(&self) -> Option<f64> {
        let limit = self.maxmemory.filter(|limit| *limit > 0)?;
        Some(self.used_memory? as f64 / limit as f64)
    }
}

/// Whether a server has answered, and refuses.
pub(super) fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: &str = "# Server\r\nrun_id:x\r\n# Persistence\r\nloading:0\r\naof_enabled:1\r\naof_last_write_status:ok\r\n\
                       # Memory\r\nmaxmemory_policy:noeviction\r\n# Replication\r\nrole:master\r\n";

    fn checked(info: &str) -> Result<(), ConnectError> {
        Facts::parse(info).check()
    }

    #[test]
    fn only_noeviction_passes() {
        for policy in ["allkeys-lru", "volatile-ttl", "noeviction2", ""] {
            let info = FIT.replace("noeviction", policy);
            assert!(matches!(checked(&info), Err(ConnectError::Evicts { policy: found }) if found == policy));
        }
    }

    #[test]
    fn a_server_that_would_lose_data_is_refused() {
        assert!(checked(FIT).is_ok());
        let refused = |from: &str, to: &str| checked(&FIT.replace(from, to)).unwrap_err();
        assert!(matches!(refused("aof_enabled:1", "aof_enabled:0"), ConnectError::NoAof));
        let fails = refused("status:ok", "status:err");
        assert!(matches!(&fails, ConnectError::AofFails { status } if status == "err"), "{fails}");
        assert!(matches!(refused("loading:0", "loading:1"), ConnectError::Loading));
        assert!(matches!(refused("role:master", "role:slave"), ConnectError::Replica));
        let lazy = Facts { appendfsync: Some("no".to_owned()), ..Facts::parse(FIT) };
        assert!(matches!(lazy.check(), Err(ConnectError::NoFsync)));
    }

    #[test]
    fn a_server_that_hides_a_needed_field_is_refused_naming_the_field() {
        for field in ["loading", "role", "maxmemory_policy", "aof_enabled", "aof_last_write_status"] {
            let info: Vec<&str> = FIT.lines().filter(|line| !line.starts_with(&format!("{field}:"))).collect();
            let error = checked(&info.join("\r\n")).unwrap_err();
            assert!(matches!(error, ConnectError::Hidden { field: found } if found == field), "{error}");
        }
    }

    #[test]
    fn online_replicas_and_memory_are_counted() {
        let facts = Facts::parse(
            "slave0:ip=10.0.0.1,port=1,state=online,offset=1,lag=0\r\nslave1:ip=10.0.0.2,port=1,state=wait_bgsave,offset=0\r\n\
             slave_repl_offset:5\r\nused_memory:90\r\nmaxmemory:100\r\n",
        );
        assert_eq!((facts.replicas_online, facts.memory_share()), (1, Some(0.9)));
        assert_eq!(Facts::parse("used_memory:90\r\nmaxmemory:0\r\n").memory_share(), None);
    }
}
