//! Plain lines, for logs, pipes and clusters.

use std::{collections::BTreeMap, io::Write};

use super::{eta::Eta, words};
use crate::exec::{Event, Listener, Outcome};

/// Writes a line when something begins or ends, and now and then in between.
pub struct Plain<W> {
    out: W,
    eta: Eta,
    last: BTreeMap<String, f64>,
}

/// Seconds between two lines about the progress of one instance.
const PACE: f64 = 15.0;

impl<W: Write> Plain<W> {
    /// Lines to `out`.
    pub fn new(out: W) -> Self {
        Self { out, eta: Eta::default(), last: BTreeMap::new() }
    }

    fn line(&mut self, text: &str) {
        // Nobody can be told that the lines cannot be written; the work goes on.
        let _ = writeln!(self.out, "{text}");
    }
}

impl<W: Write + Send> Listener for Plain<W> {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::RunStarted { pipeline, instances, expected_hits } => {
                let number = words::count(instances.len(), "stage");
                self.line(&format!("{pipeline}: {number}, {expected_hits} of them cached"));
            }
            Event::Started { instance, reason, .. } => self.line(&format!("{instance}: started ({reason})")),
            Event::Progress { instance, done, total, unit, message, seconds } => {
                let left = self.eta.left(instance, *done, *total, *seconds);
                let last = self.last.entry(instance.clone()).or_insert(0.0);
                if seconds - *last < PACE {
                    return;
                }
                *last = *seconds;
                let left = left.map_or(String::new(), |left| format!(", {} left", words::duration(left)));
                let message = if message.is_empty() { String::new() } else { format!(", {message}") };
                self.line(&format!("{instance}: {done}/{total} {unit}{message}{left}"));
            }
            Event::Note { instance, message } => match instance {
                Some(instance) => self.line(&format!("{instance}: {message}")),
                None => self.line(message),
            },
            Event::Finished { instance, outcome, .. } => {
                self.eta.forget(instance);
                match outcome {
                    Outcome::Hit => {}
                    Outcome::Executed { seconds } => {
                        self.line(&format!("{instance}: done in {}", words::duration(*seconds)))
                    }
                    Outcome::Failed { message, .. } => self.line(&format!("{instance}: failed: {message}")),
                    Outcome::Skipped { because } => {
                        self.line(&format!("{instance}: not tried, because `{because}` failed"))
                    }
                    Outcome::Interrupted => self.line(&format!("{instance}: interrupted")),
                }
            }
            Event::RunFinished { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_silent_and_progress_is_paced() {
        let mut plain = Plain::new(Vec::new());
        let progress = |done, seconds| Event::Progress {
            instance: "shape".into(),
            done,
            total: 10,
            unit: "epochs".into(),
            message: "ELBO -3".into(),
            seconds,
        };
        plain.hear(&Event::Finished { instance: "field".into(), kind: "k".into(), outcome: Outcome::Hit, bytes: 1 });
        for (done, seconds) in [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0), (4, 40.0)] {
            plain.hear(&progress(done, seconds));
        }
        let text = String::from_utf8(plain.out).unwrap();
        assert_eq!(text, "shape: 2/10 epochs, ELBO -3, 80.0 s left\nshape: 4/10 epochs, ELBO -3, 60.0 s left\n");
    }
}
