//! Servers as containers: for machines that have a container engine and no packages.
//!
//! A process per container starts it and looks after it, so that the rest of the stack deals with processes only. Ports
//! and passwords are those a local process would have. The data is in a named volume, so that a container that was
//! killed is simply replaced.

use std::time::Duration;

use rustix::process::Signal;
use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error as DockerError;
use testcontainers::bollard::models::PortBinding;
use testcontainers::bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions, RemoveVolumeOptions};
use testcontainers::core::{IntoContainerPort, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerRequest, GenericImage, ImageExt};
use tokio::signal::unix::{SignalKind, signal as listen_for};

use crate::state::State;
use crate::{Layout, Name, StackError, clickhouse, postgres, redis};

/// A first start pulls the image.
const START_LIMIT: Duration = Duration::from_secs(900);
/// How often to look whether the container still runs.
const POLL_EVERY: Duration = Duration::from_millis(500);
const STOP_SECONDS: i32 = 15;
const GIB: i64 = 1 << 30;

pub(crate) fn check() -> Result<(), StackError> {
    docker().map(drop)
}

/// Starts one server as a container, waits until it ends or this process is asked to stop, and removes it.
pub async fn look_after(layout: &Layout, name: Name) -> Result<(), StackError> {
    let state = State::load(layout)?.ok_or_else(|| StackError::NoStack { dir: layout.root().to_owned() })?;
    let listen = |kind| listen_for(kind).map_err(|e| StackError::server("signals", e));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let fail = |e: testcontainers::TestcontainersError| StackError::server("containers", e);
    let container = request(layout, &state, name)?.start().await.map_err(fail)?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
        if !container.is_running().await.map_err(fail)? {
            let logs = container.stderr_to_vec().await.map_err(fail)?;
            eprintln!("{}", String::from_utf8_lossy(&logs));
            container.rm().await.map_err(fail)?;
            return Err(StackError::server("containers", format!("{name} has ended")));
        }
    }
    container.stop_with_timeout(Some(STOP_SECONDS)).await.map_err(fail)?;
    container.rm().await.map_err(fail)
}

/// Removes a container, and its data if nobody wants it any more. What is not there need not be removed.
pub(crate) async fn remove(layout: &Layout, name: Name, with_data: bool) -> Result<(), StackError> {
    let (docker, container) = (docker()?, container_name(layout, name));
    let force = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    unless_absent(docker.remove_container(&container, Some(force)).await)?;
    if with_data {
        unless_absent(docker.remove_volume(&container, None::<RemoveVolumeOptions>).await)?;
    }
    Ok(())
}

/// Sends a signal to the server in a container.
pub(crate) async fn signal(layout: &Layout, name: Name, signal: Signal) -> Result<(), StackError> {
    let options = KillContainerOptions { signal: signal.as_raw().to_string() };
    unless_absent(docker()?.kill_container(&container_name(layout, name), Some(options)).await)
}

fn docker() -> Result<Docker, StackError> {
    Docker::connect_with_defaults().map_err(|e| StackError::server("containers", e))
}

fn unless_absent(done: Result<(), DockerError>) -> Result<(), StackError> {
    match done {
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        other => other.map_err(|e| StackError::server("containers", e)),
    }
}

/// The same for the same stack, so that it is found again; also the name of the volume.
fn container_name(layout: &Layout, name: Name) -> String {
    format!("tracebility-{:016x}-{name}", layout.id())
}

fn request(layout: &Layout, state: &State, name: Name) -> Result<ContainerRequest<GenericImage>, StackError> {
    let ports = &state.ports;
    match name {
        Name::Postgres => {
            let image = ("postgres", "16");
            let request = base(layout, name, image, &[(ports.postgres, 5432)], "/var/lib/postgresql/data", GIB);
            Ok(request
                .with_env_var("POSTGRES_PASSWORD", &state.secrets.pg_superuser)
                .with_cmd(std::iter::once("postgres".to_owned()).chain(postgres::settings(state, "*", 5432))))
        }
        Name::Redis => {
            let config = "/usr/local/etc/redis.conf";
            let request = base(layout, name, ("redis", "7"), &[(ports.redis, 6379)], "/data", GIB);
            Ok(request
                .with_copy_to(config, redis::settings(state, "* -::*", 6379).into_bytes())
                .with_cmd(["redis-server", config]))
        }
        Name::Clickhouse => {
            let image = ("clickhouse/clickhouse-server", "25.8");
            let published = [(ports.clickhouse_http, 8123), (ports.clickhouse_tcp, 9000)];
            let users = clickhouse::our_users_xml(state, "::/0");
            let config = "<clickhouse><max_server_memory_usage>2147483648</max_server_memory_usage></clickhouse>";
            Ok(base(layout, name, image, &published, "/var/lib/clickhouse", 3 * GIB)
                .with_copy_to("/etc/clickhouse-server/config.d/stack.xml", config.as_bytes().to_vec())
                .with_copy_to(
                    "/etc/clickhouse-server/users.d/stack.xml",
                    format!("<clickhouse><users>{users}</users></clickhouse>").into_bytes(),
                ))
        }
        Name::IngestApi | Name::IngestWorker => Err(StackError::Setting(format!("{name} is not a container"))),
    }
}

/// What the three have in common. The ready-check is the stack's own, so none is asked for here.
fn base(
    layout: &Layout,
    name: Name,
    (image, tag): (&str, &str),
    published: &[(u16, u16)],
    data: &str,
    memory_bytes: i64,
) -> ContainerRequest<GenericImage> {
    let container = container_name(layout, name);
    // The crate would publish on every interface.
    let bindings: std::collections::HashMap<_, _> = published
        .iter()
        .map(|(host, inside)| {
            let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(host.to_string()) };
            (format!("{inside}/tcp"), Some(vec![binding]))
        })
        .collect();
    let request = GenericImage::new(image, tag)
        .with_container_name(&container)
        .with_mount(Mount::volume_mount(&container, data))
        .with_startup_timeout(START_LIMIT)
        .with_host_config_modifier(move |config| {
            config.port_bindings = Some(bindings.clone());
            config.publish_all_ports = Some(false);
            config.memory = Some(memory_bytes);
        });
    published.iter().fold(request, |request, (host, inside)| request.with_mapped_port(*host, inside.tcp()))
}
