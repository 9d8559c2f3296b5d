//! The faults that need no servers of their own, shortly: `just faults` has all of them, and for longer.

use faults::run::run;
use faults::scenarios::{CONTROL, SCENARIOS};
use faults::scene::Size;

#[tokio::test(flavor = "multi_thread")]
async fn the_control_scenario_detects_rows_stored_twice() -> anyhow::Result<()> {
    let outcome = run(&CONTROL, None, Size::Short, 1).await?;
    assert!(outcome.verdict.duplicated > 0 && outcome.verdict.lost == 0, "{outcome:?}");
    Ok(())
}

async fn holds(name: &str) -> anyhow::Result<()> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
    let outcome = run(scenario, None, Size::Short, 1).await?;
    println!("{outcome:?}");
    assert!(outcome.verdict.holds(), "{outcome:?}");
    assert!(outcome.verdict.acked > 200, "not a load: {outcome:?}");
    Ok(())
}

macro_rules! faults {
    ($($test:ident = $name:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $test() -> anyhow::Result<()> {
            holds($name).await
        })*
    };
}

faults! {
    killed_between_tables = "killed-between-tables";
    killed_before_commit = "killed-before-commit";
    late_insert = "late-insert";
    network_slow = "network-slow";
    poison = "poison";
    sizes_shift = "sizes-shift";
}
