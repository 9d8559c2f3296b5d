//! Our services, as the tests of the workspace run them.

use std::net::TcpStream;

use stack::{Service, Services, StackError};

fn answers(url: &str) -> bool {
    TcpStream::connect(url.strip_prefix("http://").unwrap()).is_ok()
}

#[tokio::test]
async fn restarted_services_keep_their_addresses() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    stack::migrate(&db).await.unwrap();
    let mut services = Services::start(&db).await.unwrap();
    let (url, pid) = (services.api.url(), services.api.pid().unwrap());
    assert!(answers(&url) && answers(&services.api.otlp_grpc_url()) && answers(&services.worker.url()));

    services.api.kill().await.unwrap();
    assert!(!answers(&url) && services.api.pid().is_none());
    services.api.start().await.unwrap();
    assert_eq!(services.api.url(), url);
    assert!(answers(&url) && services.api.pid().unwrap() != pid);

    services.worker.restart().await.unwrap();
    services.worker.stop().await.unwrap();
    assert!(!answers(&services.worker.url()));
    drop(services);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!answers(&url), "a dropped service is killed");
}

#[tokio::test]
async fn a_service_that_cannot_start_shows_its_log() {
    let db = stack::shared().await.unwrap().fresh_database().await.unwrap();
    let refused = Service::ingest_api(&db, &[("TRACEBILITY_BODY_MAX", "nonsense")]).await;
    let Err(StackError::NotReady { tail, .. }) = refused else { panic!("{refused:?}") };
    assert!(tail.contains("TRACEBILITY_BODY_MAX"), "{tail}");
}
