//! Runs an external program to its end.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command as Process, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{scratch::unwritable, supervise::Report};
use crate::stage::{Context, StageError, printable};

/// How often one looks whether the user wants to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How much of what a program printed stands in an error.
const TAIL_BYTES: u64 = 4000;
const TAIL_LINES: usize = 20;

/// Runs a program, and waits for everything that it starts. What it prints goes to `log`: nobody has to read along, and it cannot block.
///
/// # Errors
/// When it cannot be started or fails; [`StageError::Cancelled`]. Nothing of it runs then.
pub(super) fn run(
    argv: &[String],
    environment: BTreeMap<String, String>,
    folder: &Path,
    log: &Path,
    context: &Context,
) -> Result<(), StageError> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let output = File::create(log).map_err(|error| unwritable(log, error))?;
    let failed = |what: &str, error: &std::io::Error| StageError::failed(format!("cannot {what} `{program}`: {error}"));
    let mut supervisor = Process::new(context.program()?)
        .arg("supervise")
        .arg("--")
        .args(argv)
        .envs(environment)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(output)
        // The terminal's Ctrl-C is for statcell alone.
        .process_group(0)
        .spawn()
        .map_err(|error| failed("supervise", &error))?;
    let reports = supervisor.stdout.take().expect("it is piped");
    let mut leash = supervisor.stdin.take();
    let (mut started, mut ended, mut cancelled) = (None, None, None);
    std::thread::scope(|scope| {
        let (sender, receiver) = channel();
        scope.spawn(move || {
            for line in BufReader::new(reports).lines().map_while(Result::ok) {
                let Ok(report) = serde_json::from_str::<Report>(&line) else { break };
                if sender.send(report).is_err() {
                    break;
                }
            }
        });
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(Report::Started(group)) => started = Some(group),
                Ok(Report::Left(processes)) => {
                    context.note(format!(
                        "`{program}` has ended; waits for what it left running: {}",
                        processes.join(", ")
                    ));
                }
                Ok(report @ (Report::NotStarted(_) | Report::Ended { .. })) => ended = Some(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if cancelled.is_none() {
                cancelled = context.check().err();
                if cancelled.is_some() {
                    // The supervisor ends the program and everything of it, and then itself.
                    leash = None;
                }
            }
        }
    });
    let status = supervisor.wait().map_err(|error| failed("wait for", &error))?;
    drop(leash);
    match (cancelled, ended) {
        (Some(cancelled), _) => Err(cancelled),
        (None, Some(Report::Ended { code: Some(0), .. })) => Ok(()),
        (None, Some(Report::Ended { code, signal })) => {
            let outcome = match (code, signal) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "failed".to_owned(),
            };
            let tail = tail(log).unwrap_or_default();
            let said =
                if tail.is_empty() { "it printed nothing".to_owned() } else { format!("its last lines:\n{tail}") };
            Err(StageError::failed(format!("`{program}` {outcome}; {said}")))
        }
        (None, Some(Report::NotStarted(reason))) => {
            Err(StageError::failed(format!("cannot start `{program}`: {reason}")).with_help(
                "install the program, or give its path; a script of your own belongs into `files`, as `{files.NAME}`",
            ))
        }
        (None, _) => {
            // Nobody watches over the program any more.
            if let Some(group) = started.and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            Err(StageError::failed(format!("the process that watches over `{program}` ended: {status}")))
        }
    }
}

/// The last lines that the program printed, fit for a terminal.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = printable(&String::from_utf8_lossy(&bytes));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}
