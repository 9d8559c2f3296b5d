#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod crashes;
mod ledger;
mod ledger_scale;
mod sizes {
    use faults::run::run;
    use faults::scenarios::SCENARIOS;
    use faults::scene::Size;
    #[tokio::test(flavor = "multi_thread")]
    async fn sizes_shift() -> anyhow::Result<()> {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == "sizes-shift").unwrap();
        let outcome = run(scenario, None, Size::Short, 1).await?;
        println!("{outcome:?}");
        assert!(outcome.verdict.holds(), "{outcome:?}");
        Ok(())
    }
}
