//! Command line → settings → one subcommand. The only place that reads the environment and exits the process.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use tertulia::{cli, config::ConfigErrors};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.h: the settings or the command line are wrong, and trying again will not help.
const EXIT_CONFIGURATION: u8 = 64;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    #[expect(clippy::disallowed_methods, reason = "this is where the environment comes in")]
    let variable = |name: &str| std::env::var(name).ok();
    let names: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    match cli::run(arguments, cli::Environment { variable: &variable, names: &names }) {
        Ok(code) => code,
        Err(error) => {
            // Whoever reads our output has seen enough, as in `tertulia key list | head -1`.
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            // Standard error may be as gone.
            if let Some(mistakes) = error.downcast_ref::<ConfigErrors>() {
                let _ = write!(io::stderr(), "tertulia: {mistakes}");
                return ExitCode::from(EXIT_CONFIGURATION);
            }
            let _ = writeln!(io::stderr(), "tertulia: {error:#}");
            ExitCode::FAILURE
        }
    }
}
