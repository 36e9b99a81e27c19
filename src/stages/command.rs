//! `command`: an external program as a stage.
//!
//! The program gets its inputs as folders and files below its working folder, an empty scratch folder of its own, and fills
//! a folder for every declared output. All paths that it sees are relative to that folder, so that nothing of where the
//! store or the pipeline lies can slip into what it writes.
//!
//! | what | in the key | why |
//! |---|---|---|
//! | the arguments, with placeholders | yes | they say what is done |
//! | the declared version, the declared environment | yes | likewise; they stand for what cannot be seen from outside |
//! | names and contents of inputs and files | yes | as in every stage |
//! | names and types of outputs | yes | they are what it gives |
//! | the program's own file, the rest of the environment | no | they differ from machine to machine: that is what `version` is for |

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command as Process, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind};
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter},
    store::{StoreError, Tree},
};

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of what a program printed stands in an error.
const TAIL_BYTES: u64 = 4000;
const TAIL_LINES: usize = 20;

/// The stage kind `command`.
pub(super) struct Command;

/// The parameters of [`Command`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct CommandParams {
    /// The program and its arguments, without a shell. `{inputs.NAME}` stands for a folder with the artifact's files,
    /// `{files.NAME}` for a file (alone in its argument, for all files of a pattern), `{outputs.NAME}` for an empty folder
    /// that the program fills. All are relative to the folder that it runs in.
    argv: Vec<String>,
    /// Your name for the program's version. Change it when the program changes: then the stage runs again.
    version: String,
    /// Environment variables, beside those that statcell itself was started with.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// What it gives: a type of artifact for each name; `files` for files of any sort.
    outputs: BTreeMap<String, ArtifactType>,
}

/// A piece of an argument.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// `{group.name}`.
    Placeholder(&'a str, &'a str),
}

/// Splits an argument at its placeholders. Other braces mean nothing.
fn pieces(argument: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = argument;
    let mut searched = 0;
    while let Some(open) = rest[searched..].find('{').map(|at| at + searched) {
        let inside = rest[open + 1..].split_once('}').and_then(|(inside, _)| inside.split_once('.'));
        match inside {
            Some((group @ ("inputs" | "files" | "outputs"), name)) => {
                if open > 0 {
                    pieces.push(Piece::Text(&rest[..open]));
                }
                pieces.push(Piece::Placeholder(group, name));
                rest = &rest[open + group.len() + name.len() + 3..];
                searched = 0;
            }
            _ => searched = open + 1,
        }
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{{{name}}}`")).collect();
    if names.is_empty() { "there are none".to_owned() } else { format!("there is {}", names.join(", ")) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

impl StageKind for Command {
    type Params = CommandParams;

    const NAME: &'static str = "command";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "an external program";

    fn inputs(_: Option<&CommandParams>) -> Vec<Input> {
        vec![
            Input::named("inputs", &ArtifactType::ALL, "artifacts for the program, each a folder of files"),
            Input::named("files", &[], "files for the program: scripts, tables, …"),
        ]
    }

    fn outputs(params: Option<&CommandParams>) -> Vec<Output> {
        let outputs = params.into_iter().flat_map(|params| &params.outputs);
        outputs.map(|(name, kind)| Output::for_people(name, *kind, "what the program wrote")).collect()
    }

    fn check(params: &CommandParams, inputs: &InputFacts) -> Checked {
        let mut problems = Vec::new();
        if params.argv.first().is_none_or(|program| program.trim().is_empty()) {
            let problem = Problem::with("argv", "there is no program to run");
            problems
                .push(problem.help("the first of `argv` is the program: `argv = [\"python3\", \"{files.script}\"]`"));
        }
        if params.outputs.is_empty() {
            let problem = Problem::with("outputs", "a command must give something");
            problems.push(problem.help("for example `outputs = { tables = \"files\" }`"));
        }
        for name in params.outputs.keys().filter(|name| !is_name(name)) {
            let problem = Problem::with("outputs", format!("`{}` cannot name an output", name.escape_debug()));
            problems.push(problem.help("a name has letters, digits, `-` and `_`"));
        }
        for (name, value) in &params.environment {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                problems.push(Problem::with(
                    "environment",
                    format!("`{}` cannot be an environment variable", name.escape_debug()),
                ));
            }
        }
        let outputs: Vec<String> = params.outputs.keys().map(|name| format!("outputs.{name}")).collect();
        let known = || outputs.iter().chain(inputs.keys()).map(String::as_str);
        for argument in &params.argv {
            if argument.contains('\0') {
                problems.push(Problem::with("argv", "an argument holds a NUL character"));
            }
            let pieces = pieces(argument);
            for piece in &pieces {
                let Piece::Placeholder(group, name) = piece else { continue };
                let port = format!("{group}.{name}");
                if !known().any(|known| known == port) {
                    let problem = Problem::with("argv", format!("`{{{port}}}` stands for nothing"));
                    problems.push(problem.help(listed(known())));
                }
                let files = inputs.get(&port).map_or(0, Vec::len);
                if *group == "files" && files > 1 && pieces.len() > 1 {
                    let problem = Problem::with("argv", format!("`{{{port}}}` stands for {files} files"));
                    problems
                        .push(problem.help("several files need an argument of their own, with nothing beside them"));
                }
            }
        }
        Checked { problems, ..Checked::default() }
    }

    fn run(params: &CommandParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let scratch = Scratch::new(context.scratch()?)?;
        let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (port, artifacts) in &inputs.artifacts {
            let folder = port.replace('.', "/");
            for artifact in artifacts {
                context.check()?;
                for entry in artifact.tree.entries() {
                    scratch.fill(&format!("{folder}/{}", entry.name), |file| {
                        artifact.copy_to(context.blobs(), &entry.name, file)
                    })?;
                }
            }
            places.insert(port.clone(), vec![folder]);
        }
        for (port, files) in &inputs.files {
            let folder = port.replace('.', "/");
            let mut seen = BTreeSet::new();
            for file in files {
                context.check()?;
                if !seen.insert(&file.name) {
                    return Err(StageError::bad_input(format!("`{port}` has two files named `{}`", file.name))
                        .with_help("rename one of them, or give each its own name in `files`"));
                }
                let bytes = file.read()?;
                let path = scratch.fill(&format!("{folder}/{}", file.name), |to| Ok(to.write_all(&bytes)))?;
                // A script may be meant to be executed.
                if let Ok(metadata) = fs::metadata(&file.path) {
                    fs::set_permissions(&path, metadata.permissions()).map_err(|error| unwritable(&path, error))?;
                }
            }
            places.insert(port.clone(), files.iter().map(|file| format!("{folder}/{}", file.name)).collect());
        }
        for name in params.outputs.keys() {
            let folder = format!("outputs/{name}");
            scratch.folder(&folder)?;
            places.insert(format!("outputs.{name}"), vec![folder]);
        }

        let argv = expand(&params.argv, &places);
        execute(&argv, params, &scratch, context)?;

        let mut outputs = Outputs::new();
        for (name, kind) in &params.outputs {
            let mut writer = ArtifactWriter::new(*kind, context.blobs());
            let folder = scratch.0.join("outputs").join(name);
            let mut files = Vec::new();
            collect(&folder, "", name, &mut files)?;
            if files.is_empty() {
                return Err(StageError::failed(format!("`{}` wrote nothing to its output `{name}`", argv[0]))
                    .with_help(format!("it must write files into the folder `{{outputs.{name}}}`")));
            }
            files.sort_unstable();
            for file in files {
                context.check()?;
                let path = folder.join(&file);
                let mut from = File::open(&path).map_err(|error| unreadable(&path, &error))?;
                writer.put_from(file, &mut from)?.map_err(|error| unreadable(&path, &error))?;
            }
            outputs.insert(name.clone(), writer.finish()?);
        }
        Ok(outputs)
    }
}

/// The arguments with paths in the places of the placeholders.
fn expand(argv: &[String], places: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut expanded = Vec::new();
    for argument in argv {
        let pieces = pieces(argument);
        if let [Piece::Placeholder(group, name)] = pieces.as_slice() {
            expanded.extend(places.get(&format!("{group}.{name}")).into_iter().flatten().cloned());
            continue;
        }
        let text = |piece: &Piece| match piece {
            Piece::Text(text) => (*text).to_owned(),
            Piece::Placeholder(group, name) => {
                places.get(&format!("{group}.{name}")).map(|paths| paths.join(" ")).unwrap_or_default()
            }
        };
        expanded.push(pieces.iter().map(text).collect());
    }
    expanded
}

/// The folder of a program is the store's: where it cannot be written, the store cannot.
fn unwritable(path: &Path, source: io::Error) -> StageError {
    StoreError::Io { action: "write", path: path.to_owned(), source }.into()
}

fn unreadable(path: &Path, error: &std::io::Error) -> StageError {
    StageError::failed(format!("cannot read `{}`, which the program wrote: {error}", path.display()))
}

/// The folder that the program runs in.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: PathBuf) -> Result<Self, StageError> {
        let scratch = Self(folder);
        scratch.folder("outputs")?;
        Ok(scratch)
    }

    fn folder(&self, name: &str) -> Result<PathBuf, StageError> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(|error| unwritable(&path, error))?;
        Ok(path)
    }

    /// Makes a file and lets `write` fill it; the inner error of that is the file's.
    fn fill(
        &self,
        name: &str,
        write: impl FnOnce(&mut File) -> Result<io::Result<()>, ArtifactError>,
    ) -> Result<PathBuf, StageError> {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| unwritable(parent, error))?;
        }
        let mut file = File::create(&path).map_err(|error| unwritable(&path, error))?;
        write(&mut file)?.map_err(|error| unwritable(&path, error))?;
        Ok(path)
    }
}

/// The files below `folder`, by their path relative to it.
fn collect(folder: &Path, prefix: &str, output: &str, files: &mut Vec<String>) -> Result<(), StageError> {
    let bad = |name: &str, what: &str| StageError::failed(format!("output `{output}` holds `{name}`, {what}"));
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            return Err(bad(&name.to_string_lossy(), "whose name is not Unicode"));
        };
        let relative = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(|error| unreadable(&entry.path(), &error))?;
        if kind.is_dir() {
            collect(&entry.path(), &format!("{relative}/"), output, files)?;
        } else if kind.is_file() {
            Tree::check_name(&relative).map_err(|error| {
                StageError::failed(format!("output `{output}`: {error}")).with_help("let the program use another name")
            })?;
            files.push(relative);
        } else {
            return Err(bad(&relative, "which is neither a file nor a folder"));
        }
    }
    Ok(())
}

/// Runs the program to its end. What it prints goes to a file: nobody has to read along, and it cannot block.
fn execute(argv: &[String], params: &CommandParams, scratch: &Scratch, context: &Context) -> Result<(), StageError> {
    let log_path = scratch.0.join("output.log");
    let log = File::create(&log_path).map_err(|error| unwritable(&log_path, error))?;
    let errors = log.try_clone().map_err(|error| unwritable(&log_path, error))?;
    let program = argv.first().map(String::as_str).unwrap_or_default();
    let mut process = Process::new(program);
    process
        .args(argv.iter().skip(1))
        .envs(&params.environment)
        .current_dir(&scratch.0)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // A group of its own: with it, what the program itself has started can be ended too.
        .process_group(0);
    let mut tries = 0;
    let mut child = loop {
        match process.spawn() {
            Ok(child) => break child,
            // A script that was just written looks busy while another thread's new process still has its descriptor.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries < 100 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                return Err(StageError::failed(format!("cannot start `{program}`: {error}")).with_help(
                    "install the program, or give its path; a script of your own belongs into `files`, as `{files.NAME}`",
                ));
            }
        }
    };

    let started = Instant::now();
    let status = loop {
        let ended =
            child.try_wait().map_err(|error| StageError::failed(format!("cannot wait for `{program}`: {error}")))?;
        if let Some(status) = ended {
            break status;
        }
        if let Err(cancelled) = context.check() {
            end(&mut child);
            return Err(cancelled);
        }
        // Short programs are not kept waiting, long ones cost nothing.
        let pause = started.elapsed().div_f64(10.0).clamp(Duration::from_millis(2), Duration::from_millis(100));
        std::thread::sleep(pause);
    };
    if status.success() {
        return Ok(());
    }
    let tail = tail(&log_path).unwrap_or_default();
    let said = if tail.is_empty() { "it printed nothing".to_owned() } else { format!("its last lines:\n{tail}") };
    Err(StageError::failed(format!("`{program}` {}; {said}", outcome(status))))
}

fn outcome(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// Asks the program's group to end, and after a while ends it.
fn end(child: &mut Child) {
    let Ok(group) = libc::pid_t::try_from(child.id()) else { return };
    let signal = |signal: libc::c_int| {
        // SAFETY: `kill` touches no memory. The group is the child's own, and the child is not waited for before the last signal
        // unless it ended; then the group can only hold what it started. That there is no such group any more is no failure.
        unsafe { libc::kill(-group, signal) };
    };
    signal(libc::SIGTERM);
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE && !matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal(libc::SIGKILL);
    // Once killed it ends; waiting leaves no zombie behind.
    let _ = child.wait();
}

/// The last lines that the program printed.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{
        artifact::Artifact,
        stages::{Facts, FileInput, Host, Item, Progress},
        store::{Blobs, Digest, MemoryBlobs},
    };

    /// A host with a scratch folder, whose user may want to stop.
    struct FolderHost {
        blobs: MemoryBlobs,
        folder: tempfile::TempDir,
        stop: AtomicBool,
    }

    impl FolderHost {
        fn new() -> Self {
            Self { blobs: MemoryBlobs::default(), folder: tempfile::tempdir().unwrap(), stop: AtomicBool::new(false) }
        }

        fn run(&self, params: &CommandParams, inputs: &Inputs) -> Result<Outputs, StageError> {
            Command::run(params, inputs, &Context::new(self))
        }
    }

    impl Host for FolderHost {
        fn blobs(&self) -> &dyn Blobs {
            &self.blobs
        }
        fn progress(&self, _: Progress) {}
        fn note(&self, _: &str) {}
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
        fn scratch(&self) -> Result<PathBuf, StageError> {
            Ok(tempfile::tempdir_in(self.folder.path()).unwrap().keep())
        }
    }

    fn shell(script: &str) -> CommandParams {
        CommandParams {
            argv: ["sh", "-c", script].map(str::to_owned).into(),
            version: "1".to_owned(),
            environment: BTreeMap::new(),
            outputs: BTreeMap::from([("result".to_owned(), ArtifactType::Files)]),
        }
    }

    fn artifact(host: &FolderHost, files: &[(&str, &str)]) -> Artifact {
        let mut writer = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        for (name, text) in files {
            writer.put(*name, text.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn placeholders_are_found_and_other_braces_are_not() {
        assert_eq!(pieces("{inputs.a}"), [Piece::Placeholder("inputs", "a")]);
        assert_eq!(
            pieces("x={files.b}/y {print $1} {outputs.c}"),
            [
                Piece::Text("x="),
                Piece::Placeholder("files", "b"),
                Piece::Text("/y {print $1} "),
                Piece::Placeholder("outputs", "c")
            ]
        );
        for plain in ["", "{", "{}", "{a.b}", "{{inputs}", "{inputs.", "ä{ö}"] {
            assert_eq!(pieces(plain), [Piece::Text(plain)], "{plain}");
        }
    }

    #[test]
    fn a_program_turns_inputs_into_outputs() {
        let host = FolderHost::new();
        let script = host.folder.path().join("count.sh");
        fs::write(&script, "#!/bin/sh\nwc -l < \"$1\" | tr -d ' ' > \"$2/lines\"\nmkdir \"$2/more\"\necho \"$UNIT\" > \"$2/more/unit\"\npwd > \"$2/../../where\"\n").unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let params = CommandParams {
            argv: ["{files.script}", "{inputs.table}/cells.csv", "{outputs.result}"].map(str::to_owned).into(),
            environment: BTreeMap::from([("UNIT".to_owned(), "cells".to_owned())]),
            ..shell("")
        };
        let inputs = Inputs {
            artifacts: BTreeMap::from([(
                "inputs.table".to_owned(),
                vec![artifact(&host, &[("cells.csv", "a\nb\nc\n")])],
            )]),
            files: BTreeMap::from([(
                "files.script".to_owned(),
                vec![FileInput {
                    name: "count.sh".to_owned(),
                    digest: Digest::of(&fs::read(&script).unwrap()),
                    path: script,
                }],
            )]),
        };
        let first = host.run(&params, &inputs).unwrap();
        let result = &first["result"];
        assert_eq!(result.read(&host.blobs, "lines").unwrap(), b"3\n");
        assert_eq!(result.read(&host.blobs, "more/unit").unwrap(), b"cells\n");
        // Another scratch folder, the same bytes.
        assert_eq!(host.run(&params, &inputs).unwrap(), first);
    }

    #[test]
    fn several_files_become_several_arguments() {
        let places = BTreeMap::from([
            ("files.all".to_owned(), vec!["files/all/a".to_owned(), "files/all/b".to_owned()]),
            ("outputs.o".to_owned(), vec!["outputs/o".to_owned()]),
        ]);
        let argv = ["cat", "{files.all}", "--to={outputs.o}"].map(str::to_owned);
        assert_eq!(expand(&argv, &places), ["cat", "files/all/a", "files/all/b", "--to=outputs/o"]);
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let host = FolderHost::new();
        let error = host.run(&shell("seq 100; echo trouble >&2; exit 3"), &Inputs::default()).unwrap_err().to_string();
        assert!(error.contains("`sh` ended with exit code 3"), "{error}");
        assert!(error.ends_with("100\ntrouble") && !error.contains("\n50\n"), "{error}");
        let error = host.run(&shell("kill -9 $$"), &Inputs::default()).unwrap_err().to_string();
        assert_eq!(error, "`sh` was ended by signal 9; it printed nothing");
        let error = host.run(&shell("true"), &Inputs::default()).unwrap_err().to_string();
        assert_eq!(error, "`sh` wrote nothing to its output `result`");
        let error = host.run(&shell("ln -s /etc/passwd outputs/result/x"), &Inputs::default()).unwrap_err().to_string();
        assert!(error.contains("neither a file nor a folder"), "{error}");
        let params = CommandParams { argv: vec!["no-such-program".to_owned()], ..shell("") };
        assert!(
            host.run(&params, &Inputs::default()).unwrap_err().to_string().contains("cannot start `no-such-program`")
        );
    }

    #[test]
    fn stopping_ends_the_program_and_what_it_started() {
        let host = FolderHost::new();
        let pids = host.folder.path().join("pids");
        let script = format!("sleep 300 & echo $! > '{0}.new'; mv '{0}.new' '{0}'; wait", pids.display());
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !pids.exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                host.stop.store(true, Ordering::Relaxed);
            });
            host.run(&shell(&script), &Inputs::default())
        });
        assert!(matches!(outcome, Err(StageError::Cancelled)));
        let sleeper: i32 = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
        let gone = || {
            // An orphan that ended may stand as a zombie until init has looked.
            let stat = fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let asked = Instant::now();
        while !gone() && asked.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "the program's own child still runs");
    }

    #[test]
    fn mistakes_are_found_before_it_runs() {
        let facts = InputFacts::from([
            ("inputs.table".to_owned(), vec![Facts::default()]),
            ("files.images".to_owned(), vec![Facts::default(), Facts::default()]),
        ]);
        let check = |argv: &[&str]| {
            let params = CommandParams { argv: argv.iter().map(|&part| part.to_owned()).collect(), ..shell("") };
            Command::check(&params, &facts).problems
        };
        assert!(check(&["cat", "{inputs.table}/x", "{files.images}", "{outputs.result}"]).is_empty());
        let unknown = check(&["cat", "{inputs.tabel}"]);
        assert_eq!(unknown[0].message, "`{inputs.tabel}` stands for nothing");
        assert_eq!(
            unknown[0].help.as_deref().unwrap(),
            "there is `{outputs.result}`, `{files.images}`, `{inputs.table}`"
        );
        assert_eq!(check(&["cat", "--in={files.images}"]).len(), 1);
        assert_eq!(check(&[]).len(), 1);
        let params = CommandParams { outputs: BTreeMap::new(), ..shell("true") };
        assert_eq!(Command::check(&params, &facts).problems.len(), 1);
    }
}
