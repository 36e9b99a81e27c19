//! Runs a plan: dispatcher, events, the local executor.
