//! Every event as a line of JSON, for programs.

use std::{fs::File, io::Write, path::Path};

use crate::exec::{Event, Listener};

/// Writes each event as one line of JSON, at once.
pub struct JsonLines {
    out: File,
}

impl JsonLines {
    /// Lines to a new file at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { out: File::create(path)? })
    }
}

impl Listener for JsonLines {
    fn hear(&mut self, event: &Event) {
        let mut line = serde_json::to_string(event).expect("events are plain data");
        line.push('\n');
        // The run goes on when the file system does not: the events are a record of the work, not the work.
        let _ = self.out.write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Outcome;

    #[test]
    fn a_line_an_event_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let events = [
            Event::Note { instance: None, message: "two\nlines".into() },
            Event::Finished {
                instance: "a".into(),
                kind: "k".into(),
                outcome: Outcome::Executed { seconds: 1.5 },
                bytes: 7,
            },
        ];
        let mut lines = JsonLines::create(&path).unwrap();
        events.iter().for_each(|event| lines.hear(event));
        let text = std::fs::read_to_string(&path).unwrap();
        let back: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, events);
    }
}
