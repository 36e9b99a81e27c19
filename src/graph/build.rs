//! From a spec to instances: references resolved, groups multiplied, facts carried from stage to stage.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
};

use petgraph::{algo::tarjan_scc, graph::DiGraph};
use serde_json::Value;

use super::{Graph, Instance, Source};
use crate::{
    spec::{
        ADVISED, Connection, Feed, LARGEST_GROUP, Overrides, Reference, Sources, Span, Spec, SpecError, SpecErrors,
        Stage, combinations, did_you_mean, listed, means,
    },
    stage::{AnyStage, Arity, Facts, InputFacts, Output, OutputFacts, Problem},
};

/// Reads the pipeline at `path`, whose stages are of these kinds, and makes its graph.
///
/// # Errors
/// When the file cannot be read, and everything that is wrong with the pipeline, at once.
pub fn load(path: &Path, overrides: &Overrides, kinds: &'static [&'static dyn AnyStage]) -> Result<Graph, SpecErrors> {
    Ok(build(crate::spec::load(path, overrides, kinds)?)?.of_file(path).of_variant(overrides.variant()))
}

/// Makes the graph of a spec: every instance of every stage, checked against what it takes.
///
/// # Errors
/// Everything that is wrong: what the spec found, and what only the whole graph shows (unknown stages and ports, wrong types
/// of artifact, cycles, sizes and channels that do not fit).
pub fn build(spec: Spec) -> Result<Graph, SpecErrors> {
    let mut builder = Builder {
        names: spec.stages.iter().enumerate().map(|(at, stage)| (stage.name.as_str(), at)).collect(),
        stages: &spec.stages,
        sources: &spec.sources,
        errors: spec.errors.clone(),
        groups: spec.stages.iter().map(|_| None).collect(),
        instances: Vec::new(),
        facts: Vec::new(),
    };
    for stage in builder.order() {
        builder.groups[stage] = builder.group(stage);
    }
    let Builder { errors, instances, .. } = builder;
    if errors.is_empty() { Ok(Graph::new(spec.name, instances)) } else { Err(SpecErrors::new(errors, &spec.sources)) }
}

/// An axis of a group: its name, its values and what they are called.
#[derive(Clone)]
struct Axis {
    name: String,
    values: Vec<(Value, String)>,
}

/// A stage that was understood: its instances, one for every combination of its axes (the last axis changes fastest).
struct Group {
    axes: Vec<Axis>,
    first: usize,
    outputs: Vec<Output>,
}

/// What a reference stands for: a part of a group.
struct Resolved<'a> {
    reference: &'a Reference,
    /// The axes that are left.
    axes: Vec<Axis>,
    /// Positions in the graph's instances, one for every combination of the axes that are left.
    members: Vec<usize>,
    port: String,
}

struct Builder<'a> {
    stages: &'a [Stage],
    sources: &'a Sources,
    names: BTreeMap<&'a str, usize>,
    errors: Vec<SpecError>,
    groups: Vec<Option<Group>>,
    instances: Vec<Instance>,
    /// What is known of each instance's outputs.
    facts: Vec<OutputFacts>,
}

fn references(stage: &Stage) -> impl Iterator<Item = &Reference> {
    stage.connections.iter().flat_map(|connection| &connection.feeds).filter_map(|feed| match feed {
        Feed::Reference(reference) => Some(reference),
        Feed::File { .. } => None,
    })
}

impl<'a> Builder<'a> {
    /// The stages that are in no cycle and behind none, each behind those that it takes from; ties in the order of the text.
    fn order(&mut self) -> Vec<usize> {
        let mut graph = DiGraph::<usize, ()>::new();
        let nodes: Vec<_> = (0..self.stages.len()).map(|stage| graph.add_node(stage)).collect();
        for (at, stage) in self.stages.iter().enumerate() {
            for reference in references(stage) {
                let (name, span) = &reference.stage;
                if let Some(&from) = self.names.get(name.as_str()) {
                    graph.update_edge(nodes[from], nodes[at], ());
                } else {
                    let known = || self.stages.iter().map(|stage| stage.name.as_str());
                    let mut error = SpecError::new("unknown-stage", format!("there is no stage `{name}`"))
                        .label(span, "not a stage of this pipeline");
                    if self.errors.len() < ADVISED {
                        error = error
                            .help(format!("the stages are {}", listed(known())))
                            .help_maybe(did_you_mean(name, known()));
                    }
                    self.errors.push(error);
                }
            }
        }
        let mut cycles: Vec<Vec<usize>> = tarjan_scc(&graph)
            .into_iter()
            .filter(|component| component.len() > 1 || graph.contains_edge(component[0], component[0]))
            .map(|component| component.into_iter().map(|node| graph[node]).collect())
            .collect();
        cycles.sort();
        for component in &cycles {
            self.errors.push(self.cycle(component));
        }

        let mut waiting: Vec<usize> =
            nodes.iter().map(|&node| graph.neighbors_directed(node, petgraph::Direction::Incoming).count()).collect();
        let mut ready: BTreeSet<usize> = (0..self.stages.len()).filter(|&stage| waiting[stage] == 0).collect();
        let mut order = Vec::new();
        while let Some(stage) = ready.pop_first() {
            order.push(stage);
            for next in graph.neighbors(nodes[stage]) {
                let next = graph[next];
                waiting[next] -= 1;
                if waiting[next] == 0 {
                    ready.insert(next);
                }
            }
        }
        order
    }

    /// The error for stages that take from each other in a circle: a shortest circle through the first of them.
    fn cycle(&self, component: &[usize]) -> SpecError {
        let start = component.iter().copied().min().expect("a component has a member");
        // Backwards from the start: each stage with the one that takes from it, and where.
        let mut taker: BTreeMap<usize, (usize, &Span)> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(stage) = queue.pop_front() {
            for reference in references(&self.stages[stage]) {
                if let Some(&from) = self.names.get(reference.stage.0.as_str())
                    && component.contains(&from)
                    && !taker.contains_key(&from)
                {
                    taker.insert(from, (stage, &reference.span));
                    queue.push_back(from);
                }
            }
        }
        let mut path = vec![start];
        let mut edges = Vec::new();
        loop {
            let at = path[path.len() - 1];
            let Some(&(next, span)) = taker.get(&at) else { break };
            edges.push((at, next, span));
            path.push(next);
            if next == start {
                break;
            }
        }
        let name = |stage: usize| self.stages[stage].name.as_str();
        let circle: Vec<String> = path.iter().map(|&stage| format!("`{}`", name(stage))).collect();
        let mut error = SpecError::new("cycle", format!("the stages go round in a circle: {}", circle.join(" → ")))
            .help("each stage must take from stages that do not need its own outputs");
        for (from, to, span) in edges {
            error = error.label(span, format!("`{}` takes from `{}`", name(to), name(from)));
        }
        error
    }

    /// Makes the instances of a stage; `None`: it has mistakes, or takes from a stage that has.
    fn group(&mut self, at: usize) -> Option<Group> {
        let stage = &self.stages[at];
        let kind = stage.kind?;
        let mut sound = !stage.variants.is_empty();
        let mut taken: Vec<(&Connection, Vec<Option<Resolved>>)> = Vec::new();
        for connection in &stage.connections {
            sound &= !connection.broken;
            let mut resolved = Vec::new();
            for feed in &connection.feeds {
                if let Feed::Reference(reference) = feed {
                    let found = self.resolve(reference, connection);
                    sound &= found.is_some();
                    resolved.push(found);
                }
            }
            taken.push((connection, resolved));
        }

        let axes = self.axes(stage, &taken)?;
        if axes
            .iter()
            .try_fold(1usize, |product, axis| product.checked_mul(axis.values.len()))
            .is_none_or(|n| n > LARGEST_GROUP)
        {
            self.errors.push(
                SpecError::new("matrix", format!("stage `{}` becomes more than {LARGEST_GROUP} instances", stage.name))
                    .label(
                        &stage.span,
                        format!("with the axes {}", listed(axes.iter().map(|axis| axis.name.as_str()))),
                    ),
            );
            return None;
        }
        let outputs = stage.variants.first().map(|variant| kind.outputs(Some(&variant.params)));
        let first = self.instances.len();
        let mut told = Vec::new();
        for at in combinations(&axes.iter().map(|axis| axis.values.len()).collect::<Vec<_>>()) {
            let own = |name: &str| axes.iter().position(|axis| axis.name == name).map(|axis| at[axis]);
            let place: Vec<usize> = stage.axes.iter().filter_map(|axis| own(&axis.name)).collect();
            // The last axis changes fastest.
            let number = stage.axes.iter().zip(&place).fold(0, |number, (axis, at)| number * axis.values.len() + at);
            let variant = stage.variants.get(number);
            let (inputs, facts, fine) = self.inputs(&axes, &at, &taken);
            sound &= fine;
            let Some(variant) = variant else { continue };
            let checked = kind.check(&variant.params, &facts);
            sound &= checked.problems.is_empty();
            for problem in checked.problems {
                // The members of a group have much the same problems.
                if told.len() < ADVISED && !told.contains(&problem) {
                    self.errors.push(explain(self.sources, stage, kind, &problem));
                    told.push(problem);
                }
            }
            let labels: Vec<String> =
                axes.iter().zip(&at).map(|(axis, &at)| format!("{}={}", axis.name, axis.values[at].1)).collect();
            let name =
                if labels.is_empty() { stage.name.clone() } else { format!("{}[{}]", stage.name, labels.join(",")) };
            self.instances.push(Instance {
                name,
                stage: stage.name.clone(),
                axes: axes.iter().zip(&at).map(|(axis, &at)| (axis.name.clone(), axis.values[at].0.clone())).collect(),
                kind,
                params: variant.params.clone(),
                inputs,
                outputs: kind.outputs(Some(&variant.params)),
            });
            self.facts.push(checked.outputs);
        }
        if let Some((params, without)) = &stage.partial {
            let given = |field: &Option<String>| field.as_ref().is_some_and(|field| stage.spans.contains_key(field));
            // A complaint that has to do with what was not understood may be none.
            let apart = |problem: &Problem| {
                let text = format!("{} {}", problem.message, problem.help.as_deref().unwrap_or_default());
                given(&problem.field)
                    && without.iter().all(|key| problem.field.as_ref() != Some(key) && !text.contains(key.as_str()))
            };
            let facts = taken.iter().map(|(connection, _)| (connection.port.clone(), Vec::new())).collect();
            let problems = kind.check(params, &facts).problems;
            self.errors.extend(
                problems
                    .iter()
                    .filter(|problem| apart(problem))
                    .map(|problem| explain(self.sources, stage, kind, problem)),
            );
        }
        if !sound {
            self.instances.truncate(first);
            self.facts.truncate(first);
            return None;
        }
        Some(Group { axes, first, outputs: outputs.unwrap_or_default() })
    }

    /// What a reference stands for; `None`: there is no such thing (reported), or the stage has mistakes of its own.
    fn resolve(&mut self, reference: &'a Reference, connection: &Connection) -> Option<Resolved<'a>> {
        let target = *self.names.get(reference.stage.0.as_str())?;
        let stage = &self.stages[target];
        let Some(group) = &self.groups[target] else {
            // The stage's outputs may be known all the same: then a wrong port is worth a word.
            let outputs = stage.kind.map(|kind| kind.outputs(None)).unwrap_or_default();
            if !outputs.is_empty()
                && let Err(error) = port(stage, &outputs, reference, connection)
                && error.code == "unknown-port"
            {
                self.errors.push(error);
            }
            return None;
        };
        let port = match port(stage, &group.outputs, reference, connection) {
            Ok(port) => port,
            Err(error) => {
                self.errors.push(error);
                return None;
            }
        };
        let mut fixed: Vec<Option<usize>> = vec![None; group.axes.len()];
        for ((axis, axis_span), (value, value_span)) in &reference.fixed {
            let known = || group.axes.iter().map(|axis| axis.name.as_str());
            let Some(at) = group.axes.iter().position(|candidate| candidate.name == *axis) else {
                let help = if group.axes.is_empty() {
                    format!("`{}` is one thing: it has no matrix", stage.name)
                } else {
                    format!("`{}` has {}", stage.name, listed(known()))
                };
                self.errors.push(
                    SpecError::new("unknown-axis", format!("`{}` has no axis `{axis}`", stage.name))
                        .label(axis_span, "not an axis of this stage")
                        .help(help)
                        .help_maybe(did_you_mean(axis, known())),
                );
                return None;
            };
            let values = &group.axes[at].values;
            fixed[at] = values.iter().position(|(candidate, label)| means(value, candidate, label));
            if fixed[at].is_none() {
                self.errors.push(
                    SpecError::new("unknown-member", format!("`{}` has no member with {axis}={value}", stage.name))
                        .label(value_span, "not a value of this axis")
                        .help(format!("the values are {}", listed(values.iter().map(|(_, label)| label.as_str())))),
                );
                return None;
            }
        }
        let members = combinations(&group.axes.iter().map(|axis| axis.values.len()).collect::<Vec<_>>())
            .into_iter()
            .enumerate()
            .filter(|(_, at)| at.iter().zip(&fixed).all(|(at, fixed)| fixed.is_none_or(|fixed| *at == fixed)))
            .map(|(member, _)| group.first + member)
            .collect();
        let axes = group.axes.iter().zip(&fixed).filter(|(_, fixed)| fixed.is_none()).map(|(axis, _)| axis.clone());
        Some(Resolved { reference, axes: axes.collect(), members, port })
    }

    /// The axes of a stage: those of the groups at ports that take one thing, then its own.
    fn axes(&mut self, stage: &Stage, taken: &[(&Connection, Vec<Option<Resolved>>)]) -> Option<Vec<Axis>> {
        let own = stage.axes.iter().map(|axis| Axis { name: axis.name.clone(), values: axis.values.clone() });
        let own: Vec<Axis> = own.collect();
        let mut axes: Vec<Axis> = Vec::new();
        let mut origin: Vec<&Span> = Vec::new();
        let mut sound = true;
        for resolved in taken
            .iter()
            .filter(|(connection, _)| takes_one(connection))
            .flat_map(|(_, resolved)| resolved.iter().flatten())
        {
            for axis in &resolved.axes {
                let other = axes.iter().zip(&origin).find(|(other, _)| other.name == axis.name);
                let own = own.iter().find(|own| own.name == axis.name);
                let fits = |wanted: &Axis| {
                    wanted.values.iter().enumerate().all(|(at, (value, _))| {
                        axis.values.get(at).is_some_and(|(candidate, _)| same(value, candidate))
                            || axis.values.iter().any(|(candidate, _)| same(value, candidate))
                    })
                };
                let mut clash = |wanted: &Axis, span: &Span| {
                    sound = false;
                    self.errors.push(
                        SpecError::new("axes-differ", format!("two groups differ in their values of `{}`", axis.name))
                            .label(
                                &resolved.reference.span,
                                format!("here {}", listed(axis.values.iter().map(|(_, label)| label.as_str()))),
                            )
                            .label(
                                span,
                                format!("here {}", listed(wanted.values.iter().map(|(_, label)| label.as_str()))),
                            )
                            .help("a stage that takes from two groups takes the members with equal values together"),
                    );
                };
                if let Some(own) = own {
                    if !fits(own) {
                        let span =
                            stage.axes.iter().find(|own| own.name == axis.name).map_or(&stage.span, |own| &own.span);
                        clash(own, span);
                    }
                } else if let Some((other, span)) = other {
                    if !fits(other) {
                        clash(other, span);
                    }
                } else {
                    axes.push(axis.clone());
                    origin.push(&resolved.reference.span);
                }
            }
        }
        axes.extend(own);
        sound.then_some(axes)
    }

    /// The inputs of the instance at this combination of axis values, with what is known of them.
    fn inputs(
        &self,
        axes: &[Axis],
        at: &[usize],
        taken: &[(&Connection, Vec<Option<Resolved>>)],
    ) -> (Vec<(String, Vec<Source>)>, InputFacts, bool) {
        let mut inputs = Vec::new();
        let mut facts = InputFacts::new();
        let mut fine = true;
        for (connection, resolved) in taken {
            let mut sources = Vec::new();
            let mut known = Vec::new();
            for found in resolved {
                let Some(found) = found else {
                    known.push(Facts::default());
                    continue;
                };
                let members = if takes_one(connection) {
                    let member = member(found, axes, at);
                    fine &= member.is_some();
                    member.into_iter().collect()
                } else {
                    found.members.clone()
                };
                for member in members {
                    sources.push(Source::Output { instance: member, port: found.port.clone() });
                    known.push(self.facts[member].get(&found.port).cloned().unwrap_or_default());
                }
            }
            for feed in &connection.feeds {
                if let Feed::File { name, path } = feed {
                    sources.push(Source::File { name: name.clone(), path: path.clone() });
                    known.push(Facts::default());
                }
            }
            facts.insert(connection.port.clone(), known);
            inputs.push((connection.port.clone(), sources));
        }
        inputs.sort_by(|a, b| a.0.cmp(&b.0));
        (inputs, facts, fine)
    }
}

/// Whether each thing at the port stands alone, so that a group there makes the stage a group.
fn takes_one(connection: &Connection) -> bool {
    matches!(connection.input.arity, Arity::One | Arity::Optional | Arity::Named)
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b)
}

/// The member of a group that has the axis values of this instance.
fn member(found: &Resolved, axes: &[Axis], at: &[usize]) -> Option<usize> {
    let mut index = 0;
    for axis in &found.axes {
        let mine = axes.iter().position(|mine| mine.name == axis.name)?;
        let (value, _) = &axes[mine].values[at[mine]];
        // As a rule the two axes are one and the same.
        let position = match axis.values.get(at[mine]) {
            Some((candidate, _)) if same(candidate, value) => at[mine],
            _ => axis.values.iter().position(|(candidate, _)| same(candidate, value))?,
        };
        index = index * axis.values.len() + position;
    }
    found.members.get(index).copied()
}

/// The output port that a reference means, if it fits what the connection takes.
fn port(
    stage: &Stage,
    outputs: &[Output],
    reference: &Reference,
    connection: &Connection,
) -> Result<String, SpecError> {
    let wanted = &connection.input.kinds;
    let fitting = || {
        outputs
            .iter()
            .filter(|output| wanted.contains(&output.kind))
            .map(|output| format!("`{}.{}`", stage.name, output.name))
    };
    let suggestion = || {
        let fitting: Vec<String> = fitting().collect();
        (!fitting.is_empty()).then(|| format!("of the right type: {}", fitting.join(", ")))
    };
    let output = match &reference.port {
        None => outputs.first().ok_or_else(|| {
            SpecError::new("unknown-port", format!("`{}` gives nothing", stage.name))
                .label(&reference.span, "a stage without outputs")
        })?,
        Some((name, span)) => outputs.iter().find(|output| output.name == *name).ok_or_else(|| {
            let known = || outputs.iter().map(|output| output.name.as_str());
            SpecError::new("unknown-port", format!("`{}` has no output `{name}`", stage.name))
                .label(span, "not an output of this stage")
                .help(format!("`{}` gives {}", stage.name, listed(known())))
                .help_maybe(did_you_mean(name, known()))
        })?,
    };
    if wanted.contains(&output.kind) {
        return Ok(output.name.clone());
    }
    let types = wanted.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(" or ");
    Err(SpecError::new(
        "wrong-artifact",
        format!("`{}` takes {types}, but `{}` gives {}", connection.port, reference.text, output.kind.name()),
    )
    .label(&reference.span, format!("{types} wanted here"))
    .label(&stage.span, format!("its `{}` is {}", output.name, output.kind.name()))
    .help_maybe(suggestion()))
}

/// Where `part` stands in the value at `span`; all of it, where it is not found as it stands (it may be written with escapes).
fn within(sources: &Sources, span: &Span, part: Option<&str>) -> Span {
    let found = part.and_then(|part| Some((sources.text(span)?.find(part)?, part.len())));
    found.map_or_else(|| span.clone(), |(at, length)| span.start + at..span.start + at + length)
}

/// A kind's own complaint, at the key that it is about.
fn explain(sources: &Sources, stage: &Stage, kind: &dyn AnyStage, problem: &Problem) -> SpecError {
    let error = SpecError::new("check", format!("stage `{}`: {}", stage.name, problem.message));
    let error = match problem.field.as_deref() {
        None => error.label(&stage.span, "this stage"),
        Some(field) => {
            let port = stage.connections.iter().find(|connection| connection.port == field);
            let span = port.map(|connection| &connection.span).or_else(|| stage.spans.get(field));
            let span = span.or_else(|| stage.spans.get(field.split('.').next()?));
            match span {
                Some(span) => error.label(&within(sources, span, problem.part.as_deref()), "this"),
                None => error.label(&stage.span, format!("`{field}` has its default in `{}`", kind.name())),
            }
        }
    };
    error.help_maybe(problem.help.clone())
}
