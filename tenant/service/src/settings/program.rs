//! What a program does with its arguments: run, or print its help, version or effective configuration and exit.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use super::{Declared, Errors, Values, WhenUnset};

/// The exit status of a program whose arguments or settings are wrong.
const EXIT_USAGE: u8 = 2;

/// A program that is configured by environment variables alone.
pub struct Program {
    /// The name of the binary.
    pub name: &'static str,
    /// The version of the program.
    pub version: &'static str,
    /// What the program does, in one or two sentences.
    pub about: &'static str,
    /// A complete command line that works.
    pub example: &'static str,
    /// All settings that the program reads.
    pub settings: &'static [&'static dyn Declared],
}

/// What to do after reading arguments and environment.
#[derive(Debug)]
pub enum Start<C> {
    /// Serve with this configuration.
    Run(C),
    /// Print these texts and exit.
    Exit(Exit),
}

/// What a program prints before it exits, and its status.
#[derive(Debug, Default)]
pub struct Exit {
    /// The text for standard output.
    pub stdout: String,
    /// The text for standard error.
    pub stderr: String,
    /// 0 after success, 2 when arguments or settings are wrong.
    pub code: u8,
}

impl Exit {
    /// Prints both texts; return the result from `main`.
    pub fn print(&self) -> ExitCode {
        // A closed pipe (`program --help | head -1`) is not a failure.
        let _closed = std::io::stdout().write_all(self.stdout.as_bytes()).is_err();
        let _closed = std::io::stderr().write_all(self.stderr.as_bytes()).is_err();
        ExitCode::from(self.code)
    }

    fn ok(stdout: String) -> Self {
        Self { stdout, ..Self::default() }
    }

    fn wrong(stderr: String) -> Self {
        Self { stderr, code: EXIT_USAGE, ..Self::default() }
    }
}

impl Program {
    /// Reads the arguments (without the program's own name) and the environment. `read` builds the configuration from
    /// values that have all been checked, and may add rules that span several settings.
    pub fn start<C, A: Into<OsString>, K: Into<OsString>, V: Into<OsString>>(
        &self,
        args: impl IntoIterator<Item = A>,
        env: impl IntoIterator<Item = (K, V)>,
        read: impl FnOnce(&Values) -> Result<C, Errors>,
    ) -> Start<C> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let argument = match args.as_slice() {
            [] => None,
            [one] => one.to_str(),
            _ => Some("several"),
        };
        let check_only = match argument {
            None if args.is_empty() => false,
            Some("--check-config") => true,
            Some("--help" | "-h") => return Start::Exit(Exit::ok(self.help())),
            Some("--version" | "-V") => return Start::Exit(Exit::ok(format!("{} {}\n", self.name, self.version))),
            _ => return Start::Exit(Exit::wrong(self.usage_error(&args))),
        };
        let checked = Values::read(self.settings, env).and_then(|values| Ok((read(&values)?, values)));
        match checked {
            Err(errors) => Start::Exit(Exit::wrong(format!("{errors}See {} --help.\n", self.name))),
            Ok((_, values)) if check_only => Start::Exit(Exit::ok(self.effective(&values))),
            Ok((config, _)) => Start::Run(config),
        }
    }

    /// The text of `--help`.
    pub fn help(&self) -> String {
        let mut text = format!(
            "{}\n\nUsage: {} [--check-config | --help | --version]\n\n\
             Options:\n  --check-config  print the effective settings (without secrets) and exit 0, or say what is wrong and exit 2\n\
             \x20 --help          print this\n  --version       print the version\n\n\
             Settings, all of them environment variables (blank is unset):\n",
            self.about, self.name
        );
        for setting in self.settings {
            let when_unset = match setting.when_unset() {
                WhenUnset::Required(example) => format!("required, for example {example}"),
                WhenUnset::Default(default) => format!("default {default}"),
                WhenUnset::Optional => "optional".to_owned(),
            };
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "  {}\n      {}\n      [{when_unset}]", setting.name(), setting.help()).is_ok();
        }
        text + "\nExample:\n  " + self.example + "\n"
    }

    /// All settings with their effective values, secrets hidden, as `--check-config` prints them.
    fn effective(&self, values: &Values) -> String {
        let mut text = String::new();
        for setting in self.settings {
            let value = values.text(*setting).map_or_else(String::new, |text| setting.printable(text));
            let origin = match (values.is_given(*setting), setting.when_unset()) {
                (true, _) => "",
                (false, WhenUnset::Default(_)) => "  # default",
                (false, WhenUnset::Required(_) | WhenUnset::Optional) => "  # unset",
            };
            // Writing to a String cannot fail.
            let _ok = writeln!(text, "{}={value}{origin}", setting.name()).is_ok();
        }
        for name in values.ignored() {
            let _ok = writeln!(text, "# {name} is no setting of {}", self.name).is_ok();
        }
        text
    }

    fn usage_error(&self, args: &[OsString]) -> String {
        // Repeat only the first argument's name: the text after a `=` may be a secret.
        let first = args.first().map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default();
        let first = first.split('=').next().unwrap_or_default();
        let name = self.name;
        format!(
            "{name}: unexpected arguments, starting with {first:?}; settings are environment variables. See {name} --help.\n"
        )
    }
}
