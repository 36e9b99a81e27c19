//! Live progress on a terminal: a bar for each running instance, a line for each that ended.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{eta::Eta, words};
use crate::exec::{Event, Listener, Outcome};

/// Progress bars on the standard error.
pub struct Terminal {
    bars: MultiProgress,
    overall: ProgressBar,
    running: BTreeMap<String, ProgressBar>,
    eta: Eta,
    width: usize,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a fixed template").progress_chars("━╸ ")
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Terminal {
    /// Bars on the standard error.
    pub fn new() -> Self {
        let bars = MultiProgress::new();
        let overall = bars.add(ProgressBar::new(0));
        overall.set_style(style("{bar:24.cyan} {pos}/{len} stages, {elapsed}"));
        Self { bars, overall, running: BTreeMap::new(), eta: Eta::default(), width: 0 }
    }

    fn line(&self, text: &str) {
        // A terminal that went away is no reason to stop the work.
        let _ = self.bars.println(text);
    }
}

impl Listener for Terminal {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::RunStarted { instances, .. } => {
                self.overall.set_length(instances.len() as u64);
                self.overall.enable_steady_tick(Duration::from_millis(250));
                self.width = instances.iter().map(String::len).max().unwrap_or(0);
            }
            Event::Started { instance, reason, .. } => {
                let bar = self.bars.insert_before(&self.overall, ProgressBar::new(0));
                bar.set_style(style(&format!("  {{prefix:{}}} {{spinner}} {{msg}}", self.width)));
                bar.set_prefix(instance.clone());
                bar.set_message(reason.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                self.running.insert(instance.clone(), bar);
            }
            Event::Progress { instance, done, total, unit, message, seconds } => {
                let left = self.eta.left(instance, *done, *total, *seconds);
                let Some(bar) = self.running.get(instance) else { return };
                if bar.length() != Some(*total) {
                    bar.set_style(style(&format!("  {{prefix:{}}} {{bar:16.magenta}} {{msg}}", self.width)));
                    bar.set_length(*total);
                }
                bar.set_position(*done);
                let left = left.map_or(String::new(), |left| format!(" · {} left", words::duration(left)));
                let message = if message.is_empty() { String::new() } else { format!(" · {message}") };
                bar.set_message(format!("{done}/{total} {unit}{message}{left}"));
            }
            Event::Note { instance, message } => {
                let name = instance.as_deref().unwrap_or("");
                self.line(&format!("  {name:width$} {message}", width = self.width));
            }
            Event::Finished { instance, outcome, .. } => {
                self.eta.forget(instance);
                if let Some(bar) = self.running.remove(instance) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                self.overall.inc(1);
                let words = match outcome {
                    Outcome::Hit => return,
                    Outcome::Executed { seconds } => format!("done in {}", words::duration(*seconds)),
                    Outcome::Failed { message, .. } => format!("failed: {message}"),
                    Outcome::Skipped { because } => format!("not tried, because `{because}` failed"),
                    Outcome::Interrupted => "interrupted; what was done is kept".to_owned(),
                };
                self.line(&format!("  {instance:width$} {words}", width = self.width));
            }
            Event::RunFinished { .. } => self.overall.finish_and_clear(),
        }
    }
}
