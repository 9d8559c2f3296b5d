//! Faults under load: what was answered with a 2xx is stored once, whatever dies, stands still or lies, and whenever.
//!
//! * [`scenarios`]: what goes wrong, by name.
//! * [`run`]: one scenario from its start to its verdict.
//! * [`scene`]: the processes of a scenario, and what it may do to them.
//! * [`traffic`]: the load. An answer of 2xx makes an obligation; whatever else happens to a request makes none.
//! * [`check`]: compares the obligations with every row there is, without FINAL.
//! * [`gate`], [`clickhouse_proxy`], [`redis_proxy`]: what stands between a worker and its stores, so that a fault
//!   happens at a point and not by luck.
//! * [`power_cut`]: takes away what a server had not synced when it was killed.
//! * [`redis_fleet`]: Redis servers of a scenario's own: with a replica and Sentinel, as a cluster, on a slow disk.
//! * [`latency`]: how soon what was accepted can be queried, when nothing is wrong.

pub mod check;
pub mod clickhouse_proxy;
pub mod gate;
pub mod hold;
pub mod latency;
pub mod power_cut;
pub mod redis_fleet;
pub mod redis_proxy;
pub mod run;
pub mod scenarios;
pub mod scene;
pub mod servers;
pub mod traffic;
