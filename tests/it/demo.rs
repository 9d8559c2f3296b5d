//! What the README begins with.

use load::demo;
use stack::Endpoints;
use tests::World;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_what_it_sent_by_every_protocol() -> anyhow::Result<()> {
    let world = World::start().await?;
    let org = world.org("demo").await?;
    let endpoints = Endpoints {
        ingest_url: world.api.url(),
        otlp_grpc_url: world.api.otlp_grpc_url(),
        operator_url: String::new(),
        api_key: Some(org.key),
        admin_key: String::new(),
        urls: world.urls.clone(),
    };
    let shown = demo::send_and_look(&endpoints).await?;
    for part in ["otlp_protobuf", "native", "langsmith", "RunnableSequence", "billing_meter"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    Ok(())
}
