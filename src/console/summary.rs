//! The closing table: what each stage cost, and where the report lies.

use std::io::Write;

use super::words;
use crate::exec::{Event, Listener, Outcome};

/// Collects the run and writes the closing table when it ends.
pub struct Summary<W> {
    out: W,
    rows: Vec<Row>,
    order: Vec<String>,
}

struct Row {
    stage: String,
    instances: usize,
    hits: usize,
    executed: usize,
    failed: usize,
    other: usize,
    seconds: f64,
    bytes: u64,
    problems: Vec<(String, String, Option<String>)>,
}

impl<W: Write> Summary<W> {
    /// A table to `out`.
    pub fn new(out: W) -> Self {
        Self { out, rows: Vec::new(), order: Vec::new() }
    }

    fn row(&mut self, instance: &str) -> &mut Row {
        let stage = instance.split('[').next().unwrap_or(instance);
        let at = self.rows.iter().position(|row| row.stage == stage).unwrap_or_else(|| {
            self.rows.push(Row {
                stage: stage.to_owned(),
                instances: 0,
                hits: 0,
                executed: 0,
                failed: 0,
                other: 0,
                seconds: 0.0,
                bytes: 0,
                problems: Vec::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn table(&self) -> String {
        let place = |row: &Row| self.order.iter().position(|name| name.split('[').next() == Some(&row.stage));
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| place(row));
        let lines: Vec<[String; 4]> = rows
            .iter()
            .map(|row| {
                let name =
                    if row.instances > 1 { format!("{} × {}", row.stage, row.instances) } else { row.stage.clone() };
                let time = if row.executed > 0 { words::duration(row.seconds) } else { String::new() };
                let size = if row.hits + row.executed > 0 { words::size(row.bytes) } else { String::new() };
                [name, row.verdict(), time, size]
            })
            .collect();
        let heads = ["stage", "", "time", "size"].map(str::to_owned);
        let width =
            |column: usize| lines.iter().chain([&heads]).map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        let mut text = String::new();
        for [name, verdict, time, size] in [&heads].into_iter().chain(&lines) {
            let line = format!(
                "  {name:a$}  {verdict:b$}  {time:>c$}  {size:>d$}",
                a = widths[0],
                b = widths[1],
                c = widths[2],
                d = widths[3]
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn verdict(&self) -> String {
        let parts = [(self.failed, "failed"), (self.executed, "run"), (self.hits, "hit"), (self.other, "not tried")];
        let parts: Vec<_> = parts.into_iter().filter(|(number, _)| *number > 0).collect();
        match parts[..] {
            [(_, word)] => word.to_owned(),
            _ => parts.iter().map(|(number, word)| format!("{number} {word}")).collect::<Vec<_>>().join(", "),
        }
    }
}

impl<W: Write + Send> Listener for Summary<W> {
    fn hear(&mut self, event: &Event) {
        match event {
            Event::RunStarted { instances, .. } => self.order.clone_from(instances),
            Event::Finished { instance, outcome, bytes, .. } => {
                let row = self.row(instance);
                row.instances += 1;
                row.bytes += bytes;
                match outcome {
                    Outcome::Hit => row.hits += 1,
                    Outcome::Executed { seconds } => {
                        row.executed += 1;
                        row.seconds += seconds;
                    }
                    Outcome::Failed { message, help, .. } => {
                        row.failed += 1;
                        row.problems.push((instance.clone(), message.clone(), help.clone()));
                    }
                    Outcome::Skipped { .. } | Outcome::Interrupted => row.other += 1,
                }
            }
            Event::RunFinished { executed, hits, failed, skipped, interrupted, seconds, .. } => {
                let mut text = if *executed + failed + skipped > 0 { self.table() } else { String::new() };
                for (instance, message, help) in self.rows.iter().flat_map(|row| &row.problems) {
                    text.push_str(&format!("\nerror: `{instance}`: {message}\n"));
                    if let Some(help) = help {
                        text.push_str(&format!("hint: {help}\n"));
                    }
                }
                let total = executed + hits + failed + skipped;
                let time = words::duration(*seconds);
                if *executed == 0 && *failed == 0 && !*interrupted {
                    text.push_str(&format!("nothing to do: {}, all cached, {time}\n", words::count(total, "stage")));
                } else {
                    text.push_str(&format!("\n{executed} run, {hits} cached"));
                    for (number, word) in [(failed, "failed"), (skipped, "not tried")] {
                        if *number > 0 {
                            text.push_str(&format!(", {number} {word}"));
                        }
                    }
                    text.push_str(&format!(", {time}\n"));
                }
                if *interrupted {
                    text.push_str(
                        "interrupted: finished stages and checkpoints are kept; run the same command to continue\n",
                    );
                }
                // A closed standard error is no reason to fail.
                let _ = self.out.write_all(text.as_bytes());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closing(events: &[Event]) -> String {
        let mut summary = Summary::new(Vec::new());
        events.iter().for_each(|event| summary.hear(event));
        String::from_utf8(summary.out).unwrap()
    }

    fn finished(instance: &str, outcome: Outcome, bytes: u64) -> Event {
        Event::Finished { instance: instance.into(), kind: "kind".into(), outcome, bytes }
    }

    #[test]
    fn groups_are_one_row_and_failures_stand_below() {
        let names = ["field", "sweep[beta=0]", "sweep[beta=1]", "report"].map(str::to_owned).to_vec();
        let text = closing(&[
            Event::RunStarted { pipeline: "p".into(), instances: names, expected_hits: 1 },
            finished("sweep[beta=0]", Outcome::Executed { seconds: 70.0 }, 2048),
            finished("field", Outcome::Hit, 10),
            finished(
                "sweep[beta=1]",
                Outcome::Failed { message: "diverged".into(), help: Some("smaller steps".into()), exit_code: 1 },
                0,
            ),
            finished("report", Outcome::Skipped { because: "sweep[beta=1]".into() }, 0),
            Event::RunFinished {
                executed: 1,
                hits: 1,
                failed: 1,
                skipped: 1,
                interrupted: false,
                seconds: 71.0,
                report: None,
            },
        ]);
        insta::assert_snapshot!(text, @r"
          stage                         time     size
          field      hit                         10 B
          sweep × 2  1 failed, 1 run  70.0 s  2.0 KiB
          report     not tried

        error: `sweep[beta=1]`: diverged
        hint: smaller steps

        1 run, 1 cached, 1 failed, 1 not tried, 71.0 s
        ");
    }

    #[test]
    fn nothing_to_do_is_one_line() {
        let text = closing(&[
            finished("field", Outcome::Hit, 10),
            Event::RunFinished {
                executed: 0,
                hits: 1,
                failed: 0,
                skipped: 0,
                interrupted: false,
                seconds: 0.05,
                report: None,
            },
        ]);
        assert_eq!(text, "nothing to do: 1 stage, all cached, 0.05 s\n");
    }
}
