//! The `statcell` program: parses arguments, prints errors, sets the exit code; nothing else.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use statcell::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    let ended = cli::execute(&cli, &mut out).and_then(|()| out.flush().map_err(cli::Failure::output));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A closed standard error leaves the exit code to tell.
            let _ = io::stderr().lock().write_all(failure.text.as_bytes());
            failure.code.into()
        }
    }
}
