//! Runs a plan: dispatcher, events, the local executor.
//!
//! The dispatcher (`run.rs`) decides what happens next and puts everything that happens in one order; running instances
//! (`local.rs`) have a thread each and tell it; listeners only hear. Results that people open are copied by `results.rs`.

mod event;
mod exit_code;
mod host;
mod interrupt;
mod local;
mod provenance;
mod results;
mod run;
#[cfg(test)]
mod tests;

pub use event::{Event, Listener, Outcome};
pub use exit_code::ExitCode;
pub use interrupt::Interrupt;
pub use results::{ResultsError, copy_tree};
pub use run::{Options, RunError, Summary, run};
