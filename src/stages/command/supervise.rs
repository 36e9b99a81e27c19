//! The process between statcell and a program: it sees to it that nothing of the program is left when statcell goes on, or ends.
//!
//! `statcell supervise PROGRAM ARGUMENT…` starts the program in a process group of its own and is the reaper of everything that the
//! program starts: also of what leaves the group or makes itself a daemon. Its standard input is a leash: when statcell lets go of it, or
//! ends, be it by SIGKILL, the kernel closes it and the supervisor ends all of it. Its standard output tells statcell what happens; its
//! standard error is where the program's output goes.
//!
//! Two ends cannot be caught: a supervisor that is itself killed by SIGKILL (statcell then ends the program's group), and a program
//! that has another user's rights.

use std::{
    ffi::OsString,
    fs,
    io::{self, ErrorKind, PipeReader, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command as Process, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, kill_process, kill_process_group, wait},
};
use serde::{Deserialize, Serialize};

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a supervisor tells, a line of JSON each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// The program runs; the number of its process and group.
    Started(i32),
    /// The program could not be started.
    NotStarted(String),
    /// The program ended well, and left these running: they are waited for.
    Left(Vec<String>),
    /// The program ended, and with it everything that it had started.
    Ended {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// How a program ended: exit code, or signal.
type Status = (Option<i32>, Option<i32>);

/// Runs a program as the module says. The process must be one of its own for it, with nothing else to do and no other child.
///
/// # Errors
/// When the system refuses what it needs; the program does not run then.
pub fn supervise(argv: &[OsString]) -> io::Result<()> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "there is no program to run"));
    };
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let ended = ended_children()?;
    // The terminal's wishes are statcell's to hear. (A handler, not "ignore", which the program would inherit.)
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, std::sync::Arc::default())?;
    }
    let group = match start(program, arguments) {
        Ok(pid) => pid,
        Err(error) => return tell(&Report::NotStarted(error.to_string())),
    };
    tell(&Report::Started(group.as_raw_nonzero().get()))?;
    let mut watch = Watch { group, ended, status: None };
    while !watch.all_ended() {
        if watch.status.is_none() && watch.leash_is_held(None)? {
            continue;
        }
        match watch.status {
            // It ended well, and something of it goes on: that may write to the outputs still.
            Some((Some(0), _)) => {
                let _ = tell(&Report::Left(names(&children())));
                while !watch.all_ended() {
                    if !watch.leash_is_held(None)? {
                        watch.end_all()?;
                    }
                }
            }
            _ => watch.end_all()?,
        }
    }
    let (code, signal) = watch.status.unwrap_or_default();
    tell(&Report::Ended { code, signal })
}

/// A pipe that can be read whenever a child has ended.
fn ended_children() -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGCHLD, writer)?;
    Ok(reader)
}

fn start(program: &OsString, arguments: &[OsString]) -> io::Result<Pid> {
    let output = io::stderr();
    let mut process = Process::new(program);
    process
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.as_fd().try_clone_to_owned()?)
        .stderr(output.as_fd().try_clone_to_owned()?)
        // A group of its own, so that what it has started can be reached.
        .process_group(0);
    let mut tries = 0;
    loop {
        match process.spawn() {
            Ok(child) => return Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("no process")),
            // A script that was just written looks busy while another new process still has its descriptor.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Tells statcell. That it went away shows at the leash.
fn tell(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    match out.write_all(&line).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

struct Watch {
    /// The program's process, and its group.
    group: Pid,
    ended: PipeReader,
    /// How the program ended, once it has.
    status: Option<Status>,
}

impl Watch {
    /// Takes notice of everything that has ended; whether nothing is left.
    fn all_ended(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.group => {
                    self.status = Some((status.exit_status(), status.terminating_signal()));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Waits until something ends, the leash is let go, or the time is over; whether the leash is still held.
    fn leash_is_held(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        let input = io::stdin();
        let mut watched = [PollFd::new(&input, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        let limit = at_most.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (leash, ended) = (watched[0].revents(), watched[1].revents());
        if ended.contains(PollFlags::IN) {
            let _ = self.ended.read(&mut [0; 64])?;
        }
        // Nothing is ever written to it: if it can be read, it has ended.
        Ok(leash.is_empty())
    }

    /// Asks everything to end, and after a while ends it.
    fn end_all(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while !self.all_ended() {
            match PATIENCE.checked_sub(asked.elapsed()) {
                Some(left) => drop(self.wait_for_an_end(left)?),
                None => {
                    // What a process leaves behind when it is killed becomes a child of this one, and its turn comes.
                    self.signal(Signal::KILL);
                    self.wait_for_an_end(Duration::from_millis(20))?;
                }
            }
        }
        Ok(())
    }

    fn wait_for_an_end(&mut self, at_most: Duration) -> io::Result<usize> {
        let mut watched = [PollFd::new(&self.ended, PollFlags::IN)];
        let limit = Timespec::try_from(at_most).ok();
        match poll(&mut watched, limit.as_ref()) {
            Ok(0) => Ok(0),
            Ok(_) => self.ended.read(&mut [0; 64]),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal to the program's group, and to what has left it.
    fn signal(&self, signal: Signal) {
        // That there is nobody any more is what is wanted.
        let _ = kill_process_group(self.group, signal);
        for child in children() {
            let _ = kill_process(child, signal);
        }
    }
}

/// The children of this process: of the program's, those that lost their parent.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let numbers = lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>());
    numbers.filter_map(Pid::from_raw).collect()
}

/// What people call these processes.
fn names(processes: &[Pid]) -> Vec<String> {
    let name = |pid: &Pid| {
        let number = pid.as_raw_nonzero();
        let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
        format!("{} ({number})", name.trim())
    };
    processes.iter().map(name).collect()
}
