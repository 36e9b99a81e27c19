//! Runs a plan: dispatcher, events, the local executor.

mod event;

pub use event::{Event, Listener, Outcome};
