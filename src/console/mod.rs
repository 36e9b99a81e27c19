//! Listeners to events: terminal progress, plain lines, JSON lines, the closing table.
//!
//! Everything for people goes to the standard error; the standard output is for data alone.

mod eta;
mod json_lines;
mod plain;
mod summary;
mod terminal;
pub mod words;

use crate::exec::{Event, Listener};

pub use json_lines::JsonLines;
pub use plain::Plain;
pub use summary::Summary;
pub use terminal::Terminal;

/// Several listeners as one.
#[derive(Default)]
pub struct Listeners(pub Vec<Box<dyn Listener>>);

impl Listener for Listeners {
    fn hear(&mut self, event: &Event) {
        for listener in &mut self.0 {
            listener.hear(event);
        }
    }
}
