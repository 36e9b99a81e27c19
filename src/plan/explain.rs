//! Explanations: from an instance back to what changed first.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Decision, Plan, PlanError, Reason, planner::source_name, reason::differences};
use crate::{
    graph::{Graph, Source},
    plan::keys::Ingredients,
    store::{Digest, Store},
};

/// What changed first, and how it reaches the instance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RootCause {
    /// Names of instances: from the one where the change is to the explained one.
    pub path: Vec<String>,
    /// The change.
    pub reasons: Vec<Reason>,
}

/// Why an instance runs, or may run; for one that is cached, nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The instance.
    pub instance: String,
    /// Its stage kind.
    pub kind: String,
    /// What the plan says.
    pub decision: Decision,
    /// What its key consists of, as far as its inputs are known.
    pub ingredients: Option<Ingredients>,
    /// What changed first; none for an instance that is cached.
    pub roots: Vec<RootCause>,
}

/// How many earlier actions are looked through to find who gave an input that changed.
const RECENT: usize = 64;

/// Explains what a plan says of one of its instances. `None`: the instance takes no part in the plan.
///
/// # Errors
/// [`PlanError::Store`] when the store cannot be read.
pub fn explain(graph: &Graph, plan: &Plan, store: &Store, index: usize) -> Result<Option<Explanation>, PlanError> {
    let Some(step) = plan.step(index) else { return Ok(None) };
    let mut roots = Vec::new();
    let mut seen = BTreeSet::from([index]);
    // Breadth first: each root with its shortest way.
    let mut open = vec![(index, vec![step.instance.clone()])];
    while !open.is_empty() {
        let mut next = Vec::new();
        for (at, path) in open {
            let Some(step) = plan.step(at) else { continue };
            match &step.decision {
                Decision::Hit { .. } => {}
                Decision::Unknown { because } => {
                    for name in because {
                        if let Some(other) = graph.find(name)
                            && seen.insert(other)
                        {
                            next.push((other, [vec![name.clone()], path.clone()].concat()));
                        }
                    }
                }
                Decision::Run { reasons, .. } => roots.extend(trace(graph, plan, store, at, reasons, &path, 0)?),
            }
        }
        open = next;
    }
    let ingredients = known_ingredients(graph, plan, index);
    Ok(Some(Explanation {
        instance: step.instance.clone(),
        kind: step.kind.clone(),
        decision: step.decision.clone(),
        ingredients,
        roots,
    }))
}

/// An input that changed is no root: the producer that gave it changed in an earlier run. Goes back as far as the store remembers.
fn trace(
    graph: &Graph,
    plan: &Plan,
    store: &Store,
    index: usize,
    reasons: &[Reason],
    path: &[String],
    depth: usize,
) -> Result<Vec<RootCause>, PlanError> {
    let (mut own, mut roots) = (Vec::new(), Vec::new());
    for reason in reasons {
        let earlier = match reason {
            Reason::InputChanged { source, old, .. } if depth < graph.instances.len() => {
                producer_change(graph, plan, store, index, source, *old)?
            }
            _ => None,
        };
        match earlier {
            Some((producer, reasons)) => {
                let path = [vec![graph.instances[producer].name.clone()], path.to_vec()].concat();
                roots.extend(trace(graph, plan, store, producer, &reasons, &path, depth + 1)?);
            }
            None => own.push(reason.clone()),
        }
    }
    if !own.is_empty() {
        roots.insert(0, RootCause { path: path.to_vec(), reasons: own });
    }
    Ok(roots)
}

/// How the producer of a changed input differs from when it gave the old contents; `None`: the store does not know.
fn producer_change(
    graph: &Graph,
    plan: &Plan,
    store: &Store,
    index: usize,
    source: &str,
    old: Digest,
) -> Result<Option<(usize, Vec<Reason>)>, PlanError> {
    let inputs = graph.instances[index].inputs.iter();
    let producer = inputs.flat_map(|(_, sources)| sources).find_map(|from| match from {
        Source::Output { instance, port } if format!("{}.{port}", graph.instances[*instance].name) == source => {
            Some((*instance, port))
        }
        _ => None,
    });
    let Some((producer, port)) = producer else { return Ok(None) };
    let Some(now) = known_ingredients(graph, plan, producer) else { return Ok(None) };
    let instance = &graph.instances[producer];
    let gave = |outputs: &crate::store::ActionOutputs| outputs.get(port).is_some_and(|output| output.tree == old);
    let recent = store.recent_actions(instance.kind.name(), RECENT)?;
    let source = |port: &str, position: usize| source_name(graph, instance, port, position);
    let changes = recent.iter().filter(|entry| gave(&entry.outputs));
    let changes = changes.map(|entry| differences(&entry.ingredients, &now, &source));
    Ok(changes.filter(|reasons| !reasons.is_empty()).min_by_key(Vec::len).map(|reasons| (producer, reasons)))
}

/// The ingredients of an instance all of whose inputs are cached.
fn known_ingredients(graph: &Graph, plan: &Plan, index: usize) -> Option<Ingredients> {
    Ingredients::of_instance(graph, index, &plan.files, plan.numerics, |other, port| {
        match &plan.step(other)?.decision {
            Decision::Hit { outputs, .. } => outputs.get(port),
            _ => None,
        }
    })
    .ok()
}
