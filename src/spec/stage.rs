//! One stage's table: its kind, its matrix, what it takes, its parameters.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, de::IntoDeserializer};
use serde_json::Value;
use toml::de::DeValue;

use super::{
    document::{Key, Node, Table, in_order, key, not_a_table, type_name},
    error::{ADVISED, SpecError, did_you_mean, listed, nearest},
    files,
    matrix::{self, Axis},
    params::{self, Declared},
    reference::{Reference, is_name},
    source::{Sources, Span},
};
use crate::stage::{AnyStage, Arity, Input};

/// What stands beside a stage's parameters and ports.
pub(super) const COMMON_KEYS: [&str; 2] = ["uses", "matrix"];

/// A stage of the pipeline.
#[derive(Clone)]
pub struct Stage {
    /// The name.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// The kind; `None`: there is no such kind.
    pub kind: Option<&'static dyn AnyStage>,
    /// The matrix's axes in the order of the text: the name and where it stands, the values and what they are called.
    pub axes: Vec<StageAxis>,
    /// What it takes, in the order of the text.
    pub connections: Vec<Connection>,
    /// The parameters, once for every combination of the axes (the last axis changes fastest). Empty: they have mistakes.
    pub variants: Vec<Variant>,
    /// Parameters of a stage with mistakes, as far as they were understood, and the keys that were not.
    pub(crate) partial: Option<(Value, Vec<String>)>,
    /// Where the value of each key stands.
    pub(crate) spans: BTreeMap<String, Span>,
}

/// One axis of a stage's matrix.
#[derive(Clone, Debug)]
pub struct StageAxis {
    /// The parameter.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// Its values, as the stage's kind understood them, and what each is called in names.
    pub values: Vec<(Value, String)>,
}

/// The parameters for one combination of axis values.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// The position on each axis.
    pub at: Vec<usize>,
    /// Normalised parameters.
    pub params: Value,
}

/// What stands at an input port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The port of the instance: the input's name, or `inputs.NAME` where the input is a table of names.
    pub port: String,
    /// The input as its kind declares it.
    pub input: Input,
    /// Where the value stands.
    pub span: Span,
    /// What it takes, in order.
    pub feeds: Vec<Feed>,
    /// Whether a part of it could not be understood (reported already).
    pub(crate) broken: bool,
}

/// One thing that a port takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Another stage's output.
    Reference(Reference),
    /// A file outside the store.
    File {
        /// Its name without folders.
        name: String,
        /// Where it lies.
        path: PathBuf,
    },
}

/// What reading a stage's table needs to know of the rest.
pub(super) struct Surroundings<'a> {
    pub(super) kinds: &'static [&'static dyn AnyStage],
    pub(super) sources: &'a Sources,
    pub(super) folder: PathBuf,
    /// The names of all stages.
    pub(super) stages: BTreeSet<String>,
    pub(super) seed: Node<'a>,
}

impl Surroundings<'_> {
    /// Reads one stage's table; what is wrong goes to `errors`.
    pub(super) fn stage(&self, stage_key: (&str, Span), node: &Node, errors: &mut Vec<SpecError>) -> Stage {
        let (name, span) = stage_key;
        let mut stage = Stage {
            name: name.to_owned(),
            span: span.clone(),
            kind: None,
            axes: Vec::new(),
            connections: Vec::new(),
            variants: Vec::new(),
            partial: None,
            spans: BTreeMap::new(),
        };
        if !is_name(name) {
            errors.push(
                SpecError::new("bad-name", format!("`{}` is no stage name", name.escape_debug()))
                    .label(&span, "this name")
                    .help("a name has letters, digits, `-` and `_`: it becomes a folder, and a part of references"),
            );
        }
        let Some(table) = node.get_ref().as_table() else {
            errors.push(not_a_table(name, node).help(format!("a stage is a table: `[stages.{name}]`")));
            return stage;
        };
        let mut table = table.clone();
        stage.spans = table.iter().map(|(key, value)| (key.get_ref().to_string(), value.span())).collect();
        let Some(kind) = self.kind(name, &span, table.remove_entry("uses"), errors) else { return stage };
        stage.kind = Some(kind);
        let matrix = table.remove("matrix");

        let mut ports = Vec::new();
        for input in kind.inputs(None) {
            if let Some((key, value)) = table.remove_entry(input.name.as_str()) {
                ports.push((key.span().start, input, value));
            }
        }
        ports.sort_by_key(|(start, _, _)| *start);
        for (_, input, value) in ports {
            self.connect(&input, &value, &mut stage.connections, errors);
        }

        let declared = Declared::of(kind);
        let mut axes = matrix.map(|matrix| matrix::axes(&matrix, errors)).unwrap_or_default();
        axes.retain(|axis| match self.axis_mistake(kind, &declared, axis, &table) {
            Some(error) => {
                errors.push(error);
                false
            }
            None => true,
        });
        let (suggested, missing) = self.keys(&stage, kind, &declared, &mut table, &axes, errors);
        let before = errors.len();
        for (key, value) in in_order(&table) {
            params::odd_numbers(key.get_ref(), value, errors);
        }
        for axis in &axes {
            for value in axis.values() {
                params::odd_numbers(&axis.name, &value, errors);
            }
        }
        if errors.len() == before {
            self.variants(&mut stage, kind, &declared, table, &axes, missing, errors);
        }
        self.missing_ports(&stage, kind, &suggested, errors);
        stage
    }

    fn kind(
        &self,
        name: &str,
        span: &Span,
        uses: Option<(Key, Node)>,
        errors: &mut Vec<SpecError>,
    ) -> Option<&'static dyn AnyStage> {
        let kinds = || self.kinds.iter().map(|kind| kind.name());
        let Some((_, uses)) = uses else {
            errors.push(
                SpecError::new("missing-kind", format!("stage `{name}` needs `uses`"))
                    .label(span, "of what kind is it?")
                    .help(format!("add `uses = \"KIND\"`; the kinds are {}", listed(kinds()))),
            );
            return None;
        };
        let Some(wanted) = uses.get_ref().as_str() else {
            errors.push(
                SpecError::new("wrong-type", "`uses` must be text")
                    .label(&uses.span(), format!("{} stands here", type_name(uses.get_ref()))),
            );
            return None;
        };
        let found = self.kinds.iter().copied().find(|kind| kind.name() == wanted);
        if found.is_none() {
            errors.push(
                SpecError::new("unknown-kind", format!("there is no stage kind `{wanted}`"))
                    .label(&uses.span(), "not a kind of stage")
                    .help(format!("the kinds are {}", listed(kinds())))
                    .help_maybe(did_you_mean(wanted, kinds())),
            );
        }
        found
    }

    /// Reports unknown and missing keys; gives the names that unknown keys seem to mean, and whether parameters are missing.
    fn keys<'a>(
        &self,
        stage: &Stage,
        kind: &'static dyn AnyStage,
        declared: &'a Declared,
        table: &mut Table,
        axes: &[Axis],
        errors: &mut Vec<SpecError>,
    ) -> (Vec<String>, bool) {
        let inputs = kind.inputs(None);
        let known: Vec<&str> =
            declared.names().chain(inputs.iter().map(|input| input.name.as_str())).chain(COMMON_KEYS).collect();
        let unknown: Vec<(String, Span)> = in_order(table)
            .into_iter()
            .filter(|(key, _)| !declared.properties.contains_key(key.get_ref().as_ref()))
            .map(|(key, _)| (key.get_ref().to_string(), key.span()))
            .collect();
        let mut suggested = Vec::new();
        for (name, span) in unknown {
            table.remove(name.as_str());
            suggested.extend(nearest(&name, known.iter().copied()).map(str::to_owned));
            let mut error = SpecError::new("unknown-key", format!("unknown key `{name}` in stage `{}`", stage.name))
                .label(&span, format!("`{}` has no such parameter or port", kind.name()));
            if errors.len() < ADVISED {
                error = error
                    .help(format!("`{}` has {}", kind.name(), listed(known.iter().copied())))
                    .help_maybe(did_you_mean(&name, known.iter().copied()));
            }
            errors.push(error);
        }
        let mut missing = false;
        for name in &declared.required {
            let given = table.contains_key(name.as_str()) || axes.iter().any(|axis| axis.name == *name);
            if given || name == "seed" {
                continue;
            }
            missing = true;
            if !suggested.contains(name) {
                errors.push(
                    SpecError::new("missing-parameter", format!("stage `{}` needs `{name}`", stage.name))
                        .label(&stage.span, format!("`{}` has no default for it", kind.name()))
                        .help_maybe(about(declared, name).map(|about| format!("`{name}`: {about}"))),
                );
            }
        }
        (suggested, missing)
    }

    fn axis_mistake(
        &self,
        kind: &'static dyn AnyStage,
        declared: &Declared,
        axis: &Axis,
        table: &Table,
    ) -> Option<SpecError> {
        if let Some((key, value)) = table.get_key_value(axis.name.as_str()) {
            return Some(
                SpecError::new("matrix", format!("`{}` has both a value and a matrix", axis.name))
                    .label(&axis.span, "several values here")
                    .label(&(key.span().start..key.span().end.max(value.span().end)), "one value here")
                    .help("keep one of the two"),
            );
        }
        if declared.properties.contains_key(&axis.name) {
            return None;
        }
        let error = SpecError::new("matrix", format!("axis `{}` is no parameter of `{}`", axis.name, kind.name()))
            .label(&axis.span, "not a parameter");
        Some(if kind.inputs(None).iter().any(|input| input.name == axis.name) {
            error.help("only parameters have a matrix; a port that is given a group makes its stage a group too")
        } else {
            error
                .help(format!("the parameters are {}", listed(declared.names())))
                .help_maybe(did_you_mean(&axis.name, declared.names()))
        })
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different part of one stage")]
    fn variants<'s>(
        &'s self,
        stage: &mut Stage,
        kind: &'static dyn AnyStage,
        declared: &Declared,
        mut table: Table<'s>,
        axes: &'s [Axis<'s>],
        missing: bool,
        errors: &mut Vec<SpecError>,
    ) {
        if declared.properties.contains_key("seed")
            && !table.contains_key("seed")
            && axes.iter().all(|axis| axis.name != "seed")
        {
            table.insert(key("seed", &self.seed.span()), self.seed.clone());
        }
        let mut variants = Vec::new();
        let mut sound = true;
        for at in combinations(&axes.iter().map(|axis| axis.len()).collect::<Vec<_>>()) {
            let mut table = table.clone();
            for (axis, &at) in axes.iter().zip(&at) {
                table.insert(key(&axis.name, &axis.span), axis.value(at));
            }
            let found = params::parse(kind, (&stage.name, &stage.span), table, missing, errors);
            match found {
                Some(params::Parsed { params, without }) if without.is_empty() => {
                    let beyond = params::beyond_limits(declared, &params);
                    sound &= beyond.is_empty();
                    for (name, message) in beyond.into_iter().take(ADVISED.saturating_sub(errors.len())) {
                        let axis = axes.iter().find(|axis| axis.name == name).map(|axis| &axis.span);
                        let span = axis.or_else(|| stage.spans.get(&name)).unwrap_or(&stage.span);
                        let message = format!("stage `{}`: {message}", stage.name);
                        errors.push(SpecError::new("limit", message).label(span, "beyond the limit"));
                    }
                    variants.push(Variant { at, params });
                }
                found => {
                    sound = false;
                    // What could be understood is still held to what the kind says of it.
                    stage.partial = stage.partial.take().or(found.map(|found| (found.params, found.without)));
                }
            }
            // The mistakes of many members are those of the first few.
            if !sound && variants.is_empty() && errors.len() > 20 {
                break;
            }
        }
        for (number, axis) in axes.iter().enumerate() {
            let mut values: Vec<Option<&Value>> = vec![None; axis.len()];
            for variant in &variants {
                values[variant.at[number]] = variant.params.get(&axis.name);
            }
            let values = values.into_iter().enumerate();
            let values: Vec<Value> =
                values.map(|(at, value)| value.cloned().unwrap_or_else(|| as_json(axis.value(at)))).collect();
            let labels = matrix::labels(&values, axis);
            if let Some(error) = matrix::repeated(axis, &labels) {
                errors.push(error);
                sound = false;
            }
            let values = values.into_iter().zip(labels).collect();
            stage.axes.push(StageAxis { name: axis.name.clone(), span: axis.span.clone(), values });
            stage.spans.insert(axis.name.clone(), axis.span.clone());
        }
        if sound {
            stage.variants = variants;
        }
    }

    /// Reports ports that need something and have nothing, and ports that these parameters do not have.
    fn missing_ports(
        &self,
        stage: &Stage,
        kind: &'static dyn AnyStage,
        suggested: &[String],
        errors: &mut Vec<SpecError>,
    ) {
        let params = stage.variants.first().map(|variant| &variant.params);
        let inputs = kind.inputs(params);
        for input in &inputs {
            let connected = stage.connections.iter().any(|connection| connection.input.name == input.name);
            let needed = matches!(input.arity, Arity::One | Arity::Many | Arity::ManyOrNamed);
            if needed && !connected && !suggested.contains(&input.name) && !stage.spans.contains_key(&input.name) {
                let example = if input.takes_files() { "path/to/file" } else { "stage.port" };
                errors.push(
                    SpecError::new("missing-port", format!("stage `{}` needs `{}`", stage.name, input.name))
                        .label(&stage.span, format!("not given: {}", input.about))
                        .help(format!("add `{} = \"{example}\"`", input.name)),
                );
            }
        }
        for connection in &stage.connections {
            if inputs.iter().all(|input| input.name != connection.input.name) {
                errors.push(
                    SpecError::new("unused-port", format!("`{}` is of no use with these parameters", connection.port))
                        .label(&connection.span, format!("`{}` does not take it here", kind.name())),
                );
            }
        }
    }

    fn connect(&self, input: &Input, value: &Node, into: &mut Vec<Connection>, errors: &mut Vec<SpecError>) {
        let table = matches!(value.get_ref(), DeValue::Table(_));
        if input.arity != Arity::Named && !(input.arity == Arity::ManyOrNamed && table) {
            into.push(self.connection(input.name.clone(), input, value, errors));
            return;
        }
        let Some(table) = value.get_ref().as_table() else {
            errors.push(
                not_a_table(&input.name, value).help(format!("for example `{} = {{ NAME = \"…\" }}`", input.name)),
            );
            return;
        };
        for (key, value) in in_order(table) {
            if is_name(key.get_ref()) {
                let port = format!("{}.{}", input.name, key.get_ref());
                into.push(self.connection(port, input, value, errors));
            } else {
                errors.push(
                    SpecError::new("bad-name", format!("`{}` cannot name an input", key.get_ref().escape_debug()))
                        .label(&key.span(), "this name")
                        .help("a name has letters, digits, `-` and `_`"),
                );
            }
        }
    }

    fn connection(&self, port: String, input: &Input, value: &Node, errors: &mut Vec<SpecError>) -> Connection {
        let mut connection =
            Connection { port, input: input.clone(), span: value.span(), feeds: Vec::new(), broken: false };
        let mut seen = BTreeSet::new();
        let before = errors.len();
        // A table of names takes lists only of files.
        let takes_list = match input.arity {
            Arity::Many | Arity::Any | Arity::ManyOrNamed => true,
            Arity::Named => input.takes_files(),
            Arity::One | Arity::Optional => false,
        };
        match value.get_ref() {
            DeValue::String(_) => self.feed(&mut connection, value, &mut seen, errors),
            DeValue::Array(list) if takes_list => {
                for item in list.iter() {
                    self.feed(&mut connection, item, &mut seen, errors);
                }
            }
            DeValue::Array(_) => errors.push(
                SpecError::new("wrong-type", format!("`{}` takes one thing, not a list", connection.port))
                    .label(&value.span(), "a list stands here"),
            ),
            other => errors.push(wrong_feed(&connection.port, input, &value.span(), other)),
        }
        connection.broken = errors.len() > before;
        if matches!(input.arity, Arity::Many | Arity::ManyOrNamed) && connection.feeds.is_empty() && !connection.broken
        {
            errors.push(
                SpecError::new("missing-port", format!("`{}` needs one thing or more", connection.port))
                    .label(&value.span(), "an empty list"),
            );
        }
        let one = matches!(input.arity, Arity::One | Arity::Optional);
        if input.takes_files() && one && connection.feeds.len() > 1 {
            let count = connection.feeds.len();
            errors.push(
                SpecError::new("wrong-type", format!("`{}` takes one file", connection.port))
                    .label(&value.span(), format!("{count} files match")),
            );
        }
        connection
    }

    /// Takes one thing in. `seen`: the files that the port has already.
    fn feed(
        &self,
        connection: &mut Connection,
        item: &Node,
        seen: &mut BTreeSet<PathBuf>,
        errors: &mut Vec<SpecError>,
    ) {
        let Some(text) = item.get_ref().as_str() else {
            errors.push(wrong_feed(&connection.port, &connection.input, &item.span(), item.get_ref()));
            return;
        };
        if connection.input.takes_files() && !self.is_reference(&connection.input, text) {
            match files::find(&self.folder, text) {
                Ok(found) => {
                    for (name, path) in found {
                        if seen.insert(path.clone()) {
                            connection.feeds.push(Feed::File { name, path });
                        }
                    }
                }
                Err((message, help)) => {
                    errors.push(SpecError::new("missing-file", message).label(&item.span(), "this").help_maybe(help))
                }
            }
            return;
        }
        match Reference::parse(text, &item.span(), self.sources) {
            Ok(reference) => connection.feeds.push(Feed::Reference(reference)),
            Err(message) => errors.push(
                SpecError::new("bad-reference", format!("`{}`: {message}", text.escape_debug()))
                    .label(&item.span(), "not a reference")
                    .help("a reference is `stage`, `stage.port`, `stage[axis=value]` or `stage[axis=value].port`"),
            ),
        }
    }
}

impl Surroundings<'_> {
    /// Whether a text at a port that takes both files and artifacts speaks of a stage: it names one, and there is no such file.
    fn is_reference(&self, input: &Input, text: &str) -> bool {
        let name = text.split(['.', '[']).next().unwrap_or_default();
        !input.kinds.is_empty() && self.stages.contains(name) && !self.folder.join(text).exists()
    }
}

fn wrong_feed(port: &str, input: &Input, span: &Span, found: &DeValue) -> SpecError {
    let wanted = if input.takes_files() { "a path or pattern" } else { "a reference such as `\"stage.port\"`" };
    let list =
        if matches!(input.arity, Arity::Many | Arity::Any | Arity::ManyOrNamed) { ", or a list of them" } else { "" };
    SpecError::new("wrong-type", format!("`{port}` must be {wanted}{list}"))
        .label(span, format!("{} stands here", type_name(found)))
}

fn about(declared: &Declared, name: &str) -> Option<String> {
    let text = declared.properties.get(name)?.get("description")?.as_str()?;
    Some(text.split("\n\n").next().unwrap_or(text).replace('\n', " "))
}

fn as_json(node: Node) -> Value {
    Value::deserialize(node.into_deserializer()).unwrap_or(Value::Null)
}

/// Every combination of a position on each axis; the last axis changes fastest.
pub(crate) fn combinations(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut combinations = vec![Vec::new()];
    for &length in lengths {
        combinations = combinations
            .into_iter()
            .flat_map(|prefix| {
                (0..length).map(move |at| prefix.iter().copied().chain(std::iter::once(at)).collect::<Vec<_>>())
            })
            .collect();
    }
    combinations
}

/// The stages of the table, in the order of the text.
pub(super) fn stages(surroundings: &Surroundings, table: &Table, errors: &mut Vec<SpecError>) -> Vec<Stage> {
    in_order(table)
        .into_iter()
        .map(|(key, node)| surroundings.stage((key.get_ref(), key.span()), node, errors))
        .collect()
}
