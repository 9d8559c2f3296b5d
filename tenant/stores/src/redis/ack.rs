//! What must happen before a request is acknowledged.
//!
//! | class | before the answer | the servers must have |
//! | --- | --- | --- |
//! | `queued` | Redis replied to the append | |
//! | `fsynced` | the primary has it on its disk, and so have as many replicas as are asked for | `WAITAOF` (Redis 7.2, Valkey); without replicas `appendfsync always` will do |
//! | `replicated` | so many replicas have it in memory | that many replicas |
//!
//! `deploy/README.md` has the table of what each class survives.

use std::time::Duration;

use model::words;
use redis::{Cmd, Value};

words! {
    /// What an acknowledgement promises.
    AckClass, "ack class" {
        /// Redis has replied to the append.
        Queued = "queued",
        /// The primary and the configured number of replicas have it on disk.
        Fsynced = "fsynced",
        /// The configured number of replicas have it in memory.
        Replicated = "replicated",
    }
}

/// The operator's settings for acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckPolicy {
    /// What an acknowledgement promises.
    pub class: AckClass,
    /// How many replicas must have the write as well. 0 for `queued`, at least 1 for `replicated`.
    pub replicas: u8,
    /// How long to wait for disks and replicas.
    pub timeout: Duration,
}

impl AckPolicy {
    /// No wait: the reply of Redis is enough.
    pub const QUEUED: Self = Self { class: AckClass::Queued, replicas: 0, timeout: Duration::ZERO };
    /// The most replicas that can be asked for.
    pub const REPLICAS_MAX: u8 = 8;

    /// A policy; without `replicas`, 1 for `replicated` and 0 otherwise. The error says what is invalid.
    pub fn new(class: AckClass, replicas: Option<u8>, timeout: Duration) -> Result<Self, &'static str> {
        match (class, replicas) {
            (AckClass::Queued, Some(1..)) => Err("is for TRACEBILITY_ACK=fsynced or replicated, not for queued"),
            (AckClass::Replicated, Some(0)) => Err("is 0, and TRACEBILITY_ACK=replicated waits for at least 1"),
            (AckClass::Replicated, replicas) => Ok(Self { class, replicas: replicas.unwrap_or(1), timeout }),
            (_, replicas) => Ok(Self { class, replicas: replicas.unwrap_or(0), timeout }),
        }
    }
}

/// What to wait for after the reply of Redis, where the reply alone does not give the ack class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The disk of the primary, and those of so many replicas: `WAITAOF 1 n`.
    Disks {
        /// How many replicas must have fsynced, besides the primary.
        replicas: u8,
    },
    /// The memory of so many replicas: `WAIT n`.
    Replicas(u8),
}

impl Wait {
    /// The command that waits for what was written before it on its connection.
    pub(super) fn command(self, timeout: Duration) -> Cmd {
        // 0 would wait forever.
        let timeout_ms = timeout.as_millis().max(1) as u64;
        match self {
            Self::Disks { replicas } => redis::cmd("WAITAOF").arg(1).arg(replicas).arg(timeout_ms).to_owned(),
            Self::Replicas(replicas) => redis::cmd("WAIT").arg(replicas).arg(timeout_ms).to_owned(),
        }
    }

    /// Whether the reply confirms the wait; the error says why not.
    pub(super) fn check(self, reply: &Value) -> Result<(), String> {
        let (is_fsynced, confirmed, wanted) = match (self, reply) {
            (_, Value::ServerError(error)) => return Err(error.to_string()),
            (Self::Disks { replicas }, Value::Array(counts)) => match counts[..] {
                [Value::Int(here), Value::Int(confirmed)] => (here > 0, confirmed, replicas),
                _ => return Err("redis answered something unexpected to WAITAOF".to_owned()),
            },
            (Self::Replicas(replicas), Value::Int(confirmed)) => (true, *confirmed, replicas),
            _ => return Err("redis answered something unexpected to WAIT or WAITAOF".to_owned()),
        };
        if !is_fsynced {
            return Err("the primary did not fsync in time".to_owned());
        }
        if confirmed < i64::from(wanted) {
            return Err(format!("{confirmed} of {wanted} replicas confirmed in time"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[test]
    fn a_policy_asks_for_replicas_that_fit_its_class() {
        let replicas = |class, given| AckPolicy::new(class, given, TIMEOUT).map(|policy| policy.replicas);
        assert_eq!(replicas(AckClass::Queued, None), Ok(0));
        assert_eq!(replicas(AckClass::Fsynced, None), Ok(0));
        assert_eq!(replicas(AckClass::Fsynced, Some(2)), Ok(2));
        assert_eq!(replicas(AckClass::Replicated, None), Ok(1));
        assert_eq!(replicas(AckClass::Replicated, Some(2)), Ok(2));
        assert!(replicas(AckClass::Queued, Some(1)).is_err() && replicas(AckClass::Replicated, Some(0)).is_err());
    }

    #[test]
    fn a_wait_is_met_only_by_enough_disks_and_replicas() {
        let counts = |disks, replicas| Value::Array(vec![Value::Int(disks), Value::Int(replicas)]);
        let disks = Wait::Disks { replicas: 1 };
        assert_eq!(disks.check(&counts(1, 1)), Ok(()));
        for (reply, why) in
            [(counts(0, 1), "the primary did not"), (counts(1, 0), "0 of 1 replicas"), (Value::Int(1), "unexpected")]
        {
            assert!(disks.check(&reply).is_err_and(|error| error.contains(why)), "{reply:?}");
        }
        assert_eq!(Wait::Replicas(2).check(&Value::Int(2)), Ok(()));
        assert!(Wait::Replicas(2).check(&Value::Int(1)).is_err() && Wait::Replicas(1).check(&Value::Nil).is_err());
        let text = |wait: Wait, timeout| wait.command(timeout).get_packed_command();
        assert_eq!(text(disks, TIMEOUT), b"*4\r\n$7\r\nWAITAOF\r\n$1\r\n1\r\n$1\r\n1\r\n$4\r\n5000\r\n");
        assert_eq!(text(Wait::Replicas(2), Duration::ZERO), b"*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$1\r\n1\r\n");
    }
}
