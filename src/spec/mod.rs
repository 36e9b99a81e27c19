//! The pipeline language: TOML with spans, matrix, overrides, validation.
//!
//! A pipeline is a TOML file. [`load`] reads it, applies a profile and `--set`s, and understands every stage's table: its
//! kind, its matrix, what it takes, its parameters. Mistakes are collected, not thrown: a [`Spec`] holds what could be
//! understood and what is wrong, so that [`crate::graph::build`] can look at the rest and report all of it at once.
//!
//! ```toml
//! [pipeline]
//! name = "quickstart"
//! seed = 615
//!
//! [stages.sweep]
//! uses = "train-reference"
//! train = "images.train"                                 # an input port takes a reference,
//! validation = "images.validation"
//! epochs = 12                                            # everything else is a parameter;
//! matrix.beta = { from = 0.0, to = 1.0, count = 5 }      # five instances: one group
//!
//! [profiles.smoke.stages.sweep]                          # `--profile smoke`
//! epochs = 1
//! ```

mod describe;
mod document;
mod error;
mod files;
mod matrix;
mod params;
mod reference;
mod schema;
mod source;
mod stage;
#[cfg(test)]
pub(crate) mod test_kinds;

use std::{path::Path, sync::Arc};

use toml::de::DeValue;

use crate::stage::AnyStage;
use document::{Node, Table, in_order, not_a_table, type_name};

pub use describe::{KindDescription, ParameterDescription, PortDescription, describe, describe_text};
pub use document::Overrides;
pub use error::{SpecError, SpecErrors, did_you_mean};
pub use reference::Reference;
pub use schema::{schema, schema_text};
pub use source::{Sources, Span};
pub use stage::{Connection, Feed, Stage, StageAxis, Variant};

pub(crate) use error::{ADVISED, listed};
pub(crate) use matrix::LARGEST_GROUP;
pub(crate) use reference::{label, means, split};
pub(crate) use stage::combinations;

/// A pipeline's text, understood as far as it can be.
pub struct Spec {
    /// The name in `[pipeline]`.
    pub name: String,
    /// What it is, for people.
    pub description: Option<String>,
    /// The stages, in the order of the text.
    pub stages: Vec<Stage>,
    /// The texts that spans point into.
    pub sources: Arc<Sources>,
    /// What is wrong so far.
    pub errors: Vec<SpecError>,
}

/// Reads the pipeline at `path` with these overrides; its stages are of these kinds.
///
/// # Errors
/// Only when the file cannot be read. What is wrong in it stands in [`Spec::errors`].
pub fn load(path: &Path, overrides: &Overrides, kinds: &'static [&'static dyn AnyStage]) -> Result<Spec, SpecErrors> {
    let text = document::read_text(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(read(&path.display().to_string(), folder, &text, overrides, kinds))
}

/// Understands `text`, which is called `name` in messages and whose files are relative to `folder`.
pub(crate) fn read(
    name: &str,
    folder: &Path,
    text: &str,
    overrides: &Overrides,
    kinds: &'static [&'static dyn AnyStage],
) -> Spec {
    let sources = document::sources(name, text, overrides);
    let mut errors = Vec::new();
    let Some(table) = document::read(&sources, overrides.profile.as_deref(), &mut errors) else {
        let stages = Vec::new();
        return Spec { name: String::new(), description: None, stages, sources: Arc::new(sources), errors };
    };
    let empty = Table::new();
    let top = 0..text.len().min(1);
    let part = |name: &str, errors: &mut Vec<SpecError>| match table.get_key_value(name) {
        Some((key, node)) => match node.get_ref() {
            DeValue::Table(found) => (found, key.span()),
            _ => {
                errors.push(not_a_table(name, node));
                (&empty, key.span())
            }
        },
        None => (&empty, top.clone()),
    };
    let (pipeline, pipeline_span) = part("pipeline", &mut errors);
    let header = Header::read(pipeline, &pipeline_span, &mut errors);
    let (tables, span) = part("stages", &mut errors);
    if tables.is_empty() && errors.is_empty() {
        errors.push(
            SpecError::new("no-stages", "the pipeline has no stages")
                .label(&span, "here they would stand")
                .help("a stage is a table: `[stages.NAME]` with `uses = \"KIND\"`; `statcell stages` lists the kinds"),
        );
    }
    let surroundings = stage::Surroundings {
        kinds,
        sources: &sources,
        folder: folder.to_owned(),
        stages: tables.keys().map(|key| key.get_ref().to_string()).collect(),
        seed: header.seed,
    };
    let stages = stage::stages(&surroundings, tables, &mut errors);
    let (name, description) = (header.name, header.description);
    drop(surroundings);
    drop(table);
    Spec { name, description, stages, sources: Arc::new(sources), errors }
}

struct Header<'t> {
    name: String,
    description: Option<String>,
    seed: Node<'t>,
}

impl<'t> Header<'t> {
    fn read(table: &Table<'t>, span: &Span, errors: &mut Vec<SpecError>) -> Self {
        let mut header = Self { name: String::new(), description: None, seed: matrix::literal("0", span) };
        let known = ["name", "description", "seed"];
        let text = |name: &str, errors: &mut Vec<SpecError>| {
            let node = table.get(name)?;
            let found = node.get_ref().as_str().map(str::to_owned);
            if found.is_none() {
                errors.push(
                    SpecError::new("wrong-type", format!("`{name}` must be text"))
                        .label(&node.span(), format!("{} stands here", type_name(node.get_ref()))),
                );
            }
            found
        };
        header.description = text("description", errors);
        match text("name", errors) {
            Some(name) if reference::is_name(&name) => header.name = name,
            Some(name) => errors.push(
                SpecError::new("bad-name", format!("`{}` is no name for a pipeline", name.escape_debug()))
                    .label(&table["name"].span(), "this name")
                    .help("a name has letters, digits, `-` and `_`: it becomes a folder"),
            ),
            None if table.contains_key("name") => {}
            None => errors.push(
                SpecError::new("missing-name", "the pipeline needs a name")
                    .label(span, "it would stand here")
                    .help("begin with `[pipeline]` and `name = \"…\"`; results go to a folder of this name"),
            ),
        }
        if let Some(seed) = table.get("seed") {
            let fine = matches!(seed.get_ref(), DeValue::Integer(integer)
                if i64::from_str_radix(integer.as_str(), integer.radix()).is_ok_and(|seed| seed >= 0));
            if fine {
                header.seed = seed.clone();
            } else {
                errors.push(
                    SpecError::new("wrong-type", "`seed` must be a whole number, 0 or more")
                        .label(&seed.span(), "not such a number")
                        .help("for example `seed = 615`"),
                );
            }
        }
        for (key, _) in in_order(table) {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                errors.push(
                    SpecError::new("unknown-key", format!("unknown key `{name}` in `[pipeline]`"))
                        .label(&key.span(), "not one of its keys")
                        .help(format!("`[pipeline]` has {}", listed(known)))
                        .help_maybe(did_you_mean(name, known)),
                );
            }
        }
        header
    }
}
