//! What `up` and `status` print for a person.

use stack::{Endpoints, Health, Layout, ProcessStatus};

pub(crate) fn of_processes(processes: &[ProcessStatus]) -> String {
    let mut text = format!("{:<15} {:>8}  {:<22} {}\n", "NAME", "PID", "ADDRESS", "HEALTH");
    for process in processes {
        let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let health = match process.health {
            Health::Ready => "ready".to_owned(),
            Health::Stopped => "stopped".to_owned(),
            Health::NotReady => format!("not ready: {}", process.detail.as_deref().unwrap_or("no answer")),
        };
        text.push_str(&format!("{:<15} {pid:>8}  {:<22} {health}\n", process.name, process.address));
    }
    text
}

pub(crate) fn next_steps(layout: &Layout, endpoints: &Endpoints) -> String {
    let env = layout.env_file();
    let mut text = format!("\nAddresses, credentials and the key are in {}:\n  . {}\n", env.display(), env.display());
    if endpoints.api_key.is_some() {
        text.push_str(
            "\nSend a span with any OpenTelemetry SDK:\n  \
             export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf\n  \
             export OTEL_EXPORTER_OTLP_ENDPOINT=$TRACEBILITY_INGEST_URL\n  \
             export OTEL_EXPORTER_OTLP_HEADERS=\"authorization=Bearer%20$TRACEBILITY_API_KEY\"\n",
        );
    }
    text.push_str(
        "\nThen:\n  cargo stack status      how each process is\n  cargo stack logs -f     what they write\n  \
         cargo stack kill redis  rehearse a failure; `cargo stack up` repairs it\n  cargo stack down        \
         stop everything and remove its data\n",
    );
    text
}
