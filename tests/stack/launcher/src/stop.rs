//! The graceful stop: standard input becomes a pipe, and SIGTERM or SIGINT closes its other end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Whether a signal asked for the stop. If not, the server ended by itself, and that is a failure.
pub(crate) fn was_requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Replaces standard input by the read end of a pipe and starts the thread that closes the write end.
///
/// Must be called before any other thread starts: the signals are blocked in this thread, every later thread inherits
/// that, and only the waiting thread takes them. So no handler of ClickHouse's ever sees them.
pub(crate) fn close_stdin_on_signal() -> anyhow::Result<()> {
    let signals = block(&[libc::SIGTERM, libc::SIGINT])?;
    let write_end = replace_stdin_by_pipe()?;
    std::thread::Builder::new()
        .name("stop-signal".into())
        .spawn(move || {
            wait_for(&signals);
            REQUESTED.store(true, Ordering::SeqCst);
            drop(write_end);
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

fn block(numbers: &[libc::c_int]) -> anyhow::Result<libc::sigset_t> {
    // SAFETY: an all-zero sigset_t is a valid value to initialise, and sigemptyset initialises it before it is used.
    let code = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for number in numbers {
            libc::sigaddset(&mut set, *number);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => return Ok(set),
            code => code,
        }
    };
    Err(io::Error::from_raw_os_error(code)).context("cannot block signals")
}

fn wait_for(signals: &libc::sigset_t) {
    let mut number = 0;
    // SAFETY: both pointers are valid for the call. An error is only possible for an invalid set, and then stopping is
    // the right answer too.
    unsafe { libc::sigwait(signals, &mut number) };
}

fn replace_stdin_by_pipe() -> anyhow::Result<OwnedFd> {
    let (read_end, write_end) = io::pipe().context("cannot create a pipe")?;
    // SAFETY: both descriptors are open. dup2 clears close-on-exec on descriptor 0, which is meant.
    if unsafe { libc::dup2(read_end.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error()).context("cannot replace standard input");
    }
    Ok(write_end.into())
}
