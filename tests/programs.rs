//! Programs of `command` stages: what goes in, what comes out, and that nothing of them is left, however it ends.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use statcell::{
    artifact::{Artifact, ArtifactType, ArtifactWriter},
    stage::{Context, FileInput, Host, Inputs, Item, Numerics, Outputs, Progress, StageError},
    stages,
    store::{Blobs, Digest, MemoryBlobs, Tree},
};

/// A host with scratch folders, whose user may want to stop.
struct FolderHost {
    blobs: MemoryBlobs,
    folder: tempfile::TempDir,
    stop: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl FolderHost {
    fn new() -> Self {
        Self {
            blobs: MemoryBlobs::default(),
            folder: tempfile::tempdir().unwrap(),
            stop: AtomicBool::new(false),
            notes: Mutex::default(),
        }
    }

    fn run(&self, params: &Value, inputs: &Inputs) -> Result<Outputs, StageError> {
        stages::find("command").expect("a stage kind").run(params, inputs, &Context::new(self))
    }

    fn error(&self, script: &str) -> String {
        self.run(&shell(script), &Inputs::default()).unwrap_err().to_string()
    }
}

impl Host for FolderHost {
    fn blobs(&self) -> &dyn Blobs {
        &self.blobs
    }

    fn numerics(&self) -> Numerics {
        Numerics::CPU
    }

    fn progress(&self, _: Progress) {}

    fn note(&self, message: &str) {
        self.notes.lock().unwrap().push(message.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn recall(&self, _: &Item) -> Option<Tree> {
        None
    }

    fn remember(&self, _: &Item, _: &Tree) -> Result<(), StageError> {
        Ok(())
    }

    fn load_checkpoint(&self, _: u64) -> Result<Option<(u64, Vec<u8>)>, StageError> {
        Ok(None)
    }

    fn save_checkpoint(&self, _: u64, _: &[u8], _: bool) -> Result<(), StageError> {
        Ok(())
    }

    fn program(&self) -> Result<PathBuf, StageError> {
        Ok(PathBuf::from(env!("CARGO_BIN_EXE_statcell")))
    }

    fn scratch(&self) -> Result<PathBuf, StageError> {
        Ok(tempfile::tempdir_in(self.folder.path()).unwrap().keep())
    }
}

fn with(argv: &[&str], outputs: &Value) -> Value {
    json!({ "argv": argv, "version": "1", "environment": {}, "outputs": outputs })
}

fn shell(script: &str) -> Value {
    with(&["sh", "-c", script], &json!({ "result": "files" }))
}

fn artifact(host: &FolderHost, files: &[(&str, &str)]) -> Artifact {
    let mut writer = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
    for (name, text) in files {
        writer.put(*name, text.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

/// Whether a process has ended; one that stands as a zombie has.
fn gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_turns_inputs_into_outputs() {
    let host = FolderHost::new();
    let script = host.folder.path().join("count.sh");
    let text =
        "#!/bin/sh\nwc -l < \"$1\" | tr -d ' ' > \"$2/lines\"\nmkdir \"$2/more\"\necho \"$UNIT\" > \"$2/more/unit\"\n";
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let mut params =
        with(&["{files.script}", "{inputs.table}/cells.csv", "{outputs.result}"], &json!({ "result": "files" }));
    params["environment"] = json!({ "UNIT": "cells in {inputs.table}" });
    let table = artifact(&host, &[("cells.csv", "a\nb\nc\n")]);
    let file = FileInput { name: "count.sh".to_owned(), digest: Digest::of(text.as_bytes()), path: script };
    let inputs = Inputs {
        artifacts: BTreeMap::from([("inputs.table".to_owned(), vec![table])]),
        files: BTreeMap::from([("files.script".to_owned(), vec![file])]),
    };
    let first = host.run(&params, &inputs).unwrap();
    let result = &first["result"];
    assert_eq!(result.read(&host.blobs, "lines").unwrap(), b"3\n");
    assert_eq!(result.read(&host.blobs, "more/unit").unwrap(), b"cells in inputs/table\n");
    // Another scratch folder, the same bytes.
    assert_eq!(host.run(&params, &inputs).unwrap(), first);
}

#[test]
fn failures_say_what_the_program_said_and_nothing_that_a_terminal_obeys() {
    let host = FolderHost::new();
    let error = host.error("seq 100; echo trouble >&2; exit 3");
    assert!(error.contains("`sh` ended with exit code 3"), "{error}");
    assert!(error.ends_with("100\ntrouble") && !error.contains("\n50\n"), "{error}");
    assert_eq!(host.error("kill -9 $$"), "`sh` was ended by signal 9; it printed nothing");
    assert_eq!(host.error("true"), "`sh` wrote nothing to its output `result`");
    assert!(host.error("ln -s /etc/passwd outputs/result/x").contains("neither a file nor a folder"));
    let missing = with(&["no-such-program"], &json!({ "result": "files" }));
    let error = host.run(&missing, &Inputs::default()).unwrap_err().to_string();
    assert!(error.contains("cannot start `no-such-program`"), "{error}");
    let error = host.error(r"printf '\repoch 1\repoch 2'; printf '\033[2J\033[31mfailed\a\n'; exit 3");
    assert!(error.ends_with("last lines:\nepoch 2failed"), "{error:?}");
}

#[test]
fn an_output_that_is_not_what_it_promises_fails_where_it_is_made() {
    let host = FolderHost::new();
    for (kind, script) in [
        ("cells", "echo x > outputs/o/x"),
        ("fields", "echo x > outputs/o/x"),
        ("labels", "mkdir outputs/o/labels; echo x > outputs/o/labels/a.ome.tif"),
        ("labels", "echo x > outputs/o/x"),
        ("tables", "echo x > outputs/o/x.csv"),
        ("tables", "echo x > outputs/o/x.parquet"),
        ("model", "echo x > outputs/o/x"),
        ("figures", "echo x > outputs/o/figures.json"),
        ("report", "echo x > outputs/o/index.html"),
    ] {
        let error = host.run(&with(&["sh", "-c", script], &json!({ "o": kind })), &Inputs::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("output `o` is no {kind}: ")), "{kind}: {error}");
    }
    let fine = with(&["sh", "-c", "echo x > outputs/o/report.html"], &json!({ "o": "report" }));
    assert_eq!(host.run(&fine, &Inputs::default()).unwrap()["o"].kind, ArtifactType::Report);
}

#[test]
fn what_a_program_leaves_running_is_waited_for() {
    let host = FolderHost::new();
    let outputs = host
        .run(&shell("(sleep 0.5; echo late >> outputs/result/x) & echo early > outputs/result/x"), &Inputs::default());
    assert_eq!(outputs.unwrap()["result"].read(&host.blobs, "x").unwrap(), b"early\nlate\n");
    // One that leaves the group and the session too.
    let outputs = host.run(
        &shell("setsid sh -c 'sleep 0.5; echo late >> outputs/result/x' & echo early > outputs/result/x"),
        &Inputs::default(),
    );
    assert_eq!(outputs.unwrap()["result"].read(&host.blobs, "x").unwrap(), b"early\nlate\n");
    let notes = host.notes.lock().unwrap();
    assert!(notes.len() == 2 && notes[0].starts_with("`sh` has ended; waits for what it left running: "), "{notes:?}");
}

/// The numbers of a worker, and of one in a session of its own, are written to files; then the program does `then`.
fn with_workers(folder: &Path, then: &str) -> String {
    let at = folder.display();
    format!(
        "sleep 300 & echo $! > '{at}/one.new'; mv '{at}/one.new' '{at}/one'; \
         setsid sh -c \"echo \\$\\$ > '{at}/two.new'; mv '{at}/two.new' '{at}/two'; exec sleep 300\" & \
         while [ ! -e '{at}/two' ]; do sleep 0.01; done; {then}"
    )
}

fn workers(folder: &Path) -> [String; 2] {
    ["one", "two"].map(|name| {
        wait_for(name, || folder.join(name).exists());
        fs::read_to_string(folder.join(name)).unwrap()
    })
}

#[test]
fn a_failure_ends_what_the_program_had_started() {
    let host = FolderHost::new();
    let folder = tempfile::tempdir().unwrap();
    let error = host.error(&with_workers(folder.path(), "exit 3"));
    assert!(error.contains("ended with exit code 3"), "{error}");
    assert!(workers(folder.path()).iter().all(|pid| gone(pid)), "something of it still runs");
}

#[test]
fn stopping_ends_the_program_and_what_it_started() {
    let host = FolderHost::new();
    let folder = tempfile::tempdir().unwrap();
    let script = with_workers(folder.path(), "wait");
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            workers(folder.path());
            host.stop.store(true, Ordering::Relaxed);
        });
        host.run(&shell(&script), &Inputs::default())
    });
    assert!(matches!(outcome, Err(StageError::Cancelled)));
    assert!(workers(folder.path()).iter().all(|pid| gone(pid)), "something of it still runs");
}

#[test]
fn a_program_that_does_not_listen_is_ended_all_the_same() {
    let host = FolderHost::new();
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!("trap '' TERM HUP INT; touch '{}'; while true; do sleep 1; done", ready.display());
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the program", || ready.exists());
            host.stop.store(true, Ordering::Relaxed);
        });
        host.run(&shell(&script), &Inputs::default())
    });
    assert!(matches!(outcome, Err(StageError::Cancelled)));
}

/// A run of the whole program whose only stage starts workers and waits for them.
fn run_with_workers(folder: &Path) -> Child {
    let script = with_workers(folder, "wait; echo x > outputs/o/x").replace('"', "\\\"");
    let pipeline = format!(
        "[pipeline]\nname = \"t\"\n[stages.a]\nuses = \"command\"\nargv = [\"sh\", \"-c\", \"\"\"{}\"\"\"]\nversion = \"1\"\noutputs = {{ o = \"files\" }}\n",
        script.replace("\\$", "\\\\$")
    );
    fs::write(folder.join("p.toml"), pipeline).unwrap();
    Command::new(env!("CARGO_BIN_EXE_statcell"))
        .args(["run", "p.toml", "--store", "store", "--results", "results"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).unwrap())
        .process_group(0)
        .spawn()
        .unwrap()
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn nothing_is_left_whatever_signal_ends_statcell() {
    for (signals, code) in [
        (vec!["-INT"], Some(130)),
        (vec!["-TERM"], Some(130)),
        (vec!["-HUP"], Some(130)),
        (vec!["-INT", "-INT"], Some(130)),
        (vec!["-QUIT"], None),
        (vec!["-KILL"], None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = run_with_workers(folder.path());
        let workers = workers(folder.path());
        assert!(workers.iter().all(|pid| !gone(pid)));
        for signal in &signals {
            send(signal, &child);
        }
        let status = child.wait().unwrap();
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(status.code(), code, "{signals:?}: {log}");
        wait_for("the end of everything", || workers.iter().all(|pid| gone(pid)));
        let entries = fs::read_dir(folder.path().join("store/actions/command")).map_or(0, Iterator::count);
        assert_eq!(entries, 0, "{signals:?}: something was cached");
    }
}
