//! `annals`: import, export, read and examine event stores from the command line.
//!
//! It stands on the public interface of the library like any user. One module a verb; [`lines`] is the JSON Lines form,
//! [`event_print`] the other ways an event is shown, [`failure`] turns errors into one line, a hint and an exit code.

mod append;
mod backup;
mod cat;
mod cli;
mod compact;
mod consumers;
mod demo;
mod dump;
mod event_print;
mod export;
mod failure;
mod filter;
mod fork;
mod get;
mod import;
mod index;
mod info;
mod input;
mod lines;
mod ls;
mod moment;
mod opening;
mod output;
mod remove;
mod repair;
mod restore;
mod retain;
mod segments;
mod signals;
mod snapshot;
mod steps;
mod sweep;
mod tail;
mod upgrade;
mod verify;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match signals::prepare(cli.writes()).and_then(|()| cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
