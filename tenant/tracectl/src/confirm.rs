//! Asks for confirmation: a change that stops something says what, and needs a yes.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use clap::Args;

use crate::failure::Failure;
use crate::printable::printable;

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1024;

/// Whether the change is confirmed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Confirm {
    /// Do it without asking. Required when standard input is no terminal.
    #[arg(long, short)]
    yes: bool,
}

impl Confirm {
    /// Returns if the change is confirmed by `--yes` or by an answer. `what` is the change, `effect` what stops
    /// working.
    pub(crate) fn ask(self, what: &str, effect: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::usage(format!("{what} needs a yes, because {effect}"), "repeat it with --yes"));
        }
        eprint!("{}: {}.\nGo on? [y/N] ", printable(what), printable(effect));
        let mut answer = String::new();
        std::io::stdin().lock().take(ANSWER_BYTES_MAX).read_line(&mut answer)?;
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            Err(Failure::new("nothing was changed", "answer y to go on"))
        }
    }
}
