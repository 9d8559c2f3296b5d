//! A door on loopback that connections pass through as long as it is open.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

/// Between two attempts to listen again where somebody still does.
const LISTEN_AGAIN: Duration = Duration::from_millis(20);

/// Listens until dropped. While it is shut connections are refused, and those that had passed are cut.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    open: watch::Sender<bool>,
}

impl Gate {
    /// Opens one, which gives each connection to `pass`.
    pub async fn open<F, W>(pass: F) -> anyhow::Result<Self>
    where
        F: Fn(TcpStream) -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        let port = stack::ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("a port for a proxy")?;
        let (open, opened) = watch::channel(true);
        tokio::spawn(keep(listener, port, opened, Arc::new(pass)));
        Ok(Self { port, open })
    }

    /// The URL of a server, as it is through this gate.
    pub fn in_front_of(&self, mut server: Url) -> anyhow::Result<Url> {
        let set = server.set_host(Some("127.0.0.1")).is_ok() && server.set_port(Some(self.port)).is_ok();
        anyhow::ensure!(set, "the URL has no host");
        Ok(server)
    }

    /// Shuts it: connections are refused from now on, and those that passed are cut.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets connections pass again.
    pub fn reopen(&self) {
        self.open.send_replace(true);
    }
}

async fn keep<F, W>(mut listener: TcpListener, port: u16, mut open: watch::Receiver<bool>, pass: Arc<F>)
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let mut shut = open.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            is_shut = until(&mut shut, false) => {
                drop(listener);
                if !is_shut || !until(&mut open, true).await {
                    return;
                }
                listener = listen_again(port).await;
                continue;
            }
        };
        let Ok((connection, _)) = accepted else { continue };
        // As without a proxy: nothing waits for more to be sent with it.
        drop(connection.set_nodelay(true));
        let (mut shut, pass) = (open.clone(), Arc::clone(&pass));
        tokio::spawn(async move {
            tokio::select! {
                () = pass(connection) => {}
                _ = until(&mut shut, false) => {}
            }
        });
    }
}

/// Waits until it is open, or shut. False if the gate is gone.
async fn until(open: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    open.wait_for(|open| *open == wanted).await.is_ok()
}

async fn listen_again(port: u16) -> TcpListener {
    loop {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(LISTEN_AGAIN).await,
        }
    }
}
