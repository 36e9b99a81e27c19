//! `command`: an external program as a stage.
//!
//! The program gets its inputs as folders and files below its working folder, an empty scratch folder of its own, and fills
//! a folder for every declared output. All paths that it sees are relative to that folder, so that nothing of where the
//! store or the pipeline lies can slip into what it writes.
//!
//! A program is done when it and everything that it started have ended; nothing is kept before. When it fails, or the user stops
//! the run, or statcell itself ends in whatever way, all of it is ended: see [`supervise`].
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
    io::Write,
};

mod placeholder;
mod program;
mod promise;
mod scratch;
mod supervise;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::scratch::{Scratch, collect, unreadable, unwritable};
pub use supervise::supervise;

use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter},
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

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
    /// Environment variables, beside those that statcell itself was started with. Placeholders are those of `argv`.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    /// What it gives: a type of artifact for each name; `files` for files of any sort.
    outputs: BTreeMap<String, ArtifactType>,
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
        let outputs = params.outputs.keys().map(|name| (format!("outputs.{name}"), 1));
        let known: BTreeMap<String, usize> =
            outputs.chain(inputs.iter().map(|(port, facts)| (port.clone(), facts.len()))).collect();
        for argument in &params.argv {
            if argument.contains('\0') {
                problems.push(Problem::with("argv", "an argument holds a NUL character"));
            }
            problems.extend(placeholder::problems("argv", argument, &known));
        }
        for value in params.environment.values() {
            problems.extend(placeholder::problems("environment", value, &known));
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

        let argv = placeholder::expand(&params.argv, &places);
        let environment = params.environment.iter();
        let environment = environment.map(|(name, value)| (name.clone(), placeholder::expand_text(value, &places)));
        let log = scratch.0.join("output.log");
        program::run(&argv, environment.collect(), &scratch.0, &log, context)?;

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
            let artifact = writer.finish()?;
            promise::check(&artifact, context).map_err(|error| broken_promise(name, *kind, error))?;
            outputs.insert(name.clone(), artifact);
        }
        Ok(outputs)
    }
}

/// The program gave something else than it says.
fn broken_promise(output: &str, kind: ArtifactType, error: StageError) -> StageError {
    match error {
        StageError::Cancelled | StageError::Artifact(ArtifactError::Store(_)) => error,
        error => StageError::failed(format!("output `{output}` is no {}: {error}", kind.name())).with_help(format!(
            "`outputs.{output}` says `{}`; write files of that form, or say `files`, which may be anything",
            kind.name()
        )),
    }
}
