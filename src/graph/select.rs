//! Selectors: parts of a graph by name, `sweep`, `sweep[beta=0.5]`, `*-embedding`.

use miette::Diagnostic;

use super::{Graph, Instance};
use crate::spec::{did_you_mean, label, listed, means, split};

/// A selector that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[error("{message}")]
#[diagnostic(code(pipeline::selector))]
pub struct SelectorError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    #[help]
    pub help: Option<String>,
}

impl Graph {
    /// The instances that any of the selectors means, ascending; without selectors: all of them.
    ///
    /// A selector is a stage (all its instances), `stage[axis=value]`, or either with `*` for any part of the stage's name.
    ///
    /// # Errors
    /// When a selector is malformed or means no instance.
    pub fn select(&self, selectors: &[String]) -> Result<Vec<usize>, SelectorError> {
        if selectors.is_empty() {
            return Ok((0..self.instances.len()).collect());
        }
        let mut wanted = vec![false; self.instances.len()];
        for selector in selectors {
            let (found, port) = self.matching(selector)?;
            if port.is_some() {
                return Err(SelectorError {
                    message: format!("`{selector}` names an output; a stage runs as a whole"),
                    help: Some(format!(
                        "leave out what follows the `.`: `{}`",
                        selector.rsplit_once('.').map_or("", |(stage, _)| stage)
                    )),
                });
            }
            for instance in found {
                wanted[instance] = true;
            }
        }
        Ok((0..wanted.len()).filter(|&index| wanted[index]).collect())
    }

    /// The one instance that the selector means, and its output port (without `.port`: the first).
    ///
    /// # Errors
    /// When it is malformed, or means no instance or several, or there is no such port.
    pub fn output(&self, selector: &str) -> Result<(usize, String), SelectorError> {
        let (found, port) = self.matching(selector)?;
        let &[index] = found.as_slice() else {
            let names = found.iter().take(10).map(|&index| self.instances[index].name.as_str());
            return Err(SelectorError {
                message: format!("`{selector}` means {} instances; one is needed", found.len()),
                help: Some(format!("for example one of {}", listed(names))),
            });
        };
        let instance = &self.instances[index];
        let outputs = || instance.outputs.iter().map(|output| output.name.as_str());
        let wanted = port.or_else(|| outputs().next().map(str::to_owned)).unwrap_or_default();
        if outputs().any(|output| output == wanted) {
            return Ok((index, wanted));
        }
        Err(SelectorError {
            message: format!("`{}` has no output `{wanted}`", instance.name),
            help: did_you_mean(&wanted, outputs()).or_else(|| Some(format!("it gives {}", listed(outputs())))),
        })
    }

    /// The instances that a selector means, at least one, and the port that it names.
    fn matching(&self, selector: &str) -> Result<(Vec<usize>, Option<String>), SelectorError> {
        let parts = split(selector, true).map_err(|message| SelectorError {
            message: format!("`{selector}` is no selector: {message}"),
            help: Some("a selector is `stage`, `stage[axis=value]`, or with `*`: `sweep*`".to_owned()),
        })?;
        let stage = &selector[parts.stage];
        let fixed: Vec<(&str, &str)> =
            parts.fixed.iter().map(|(axis, value)| (&selector[axis.clone()], &selector[value.clone()])).collect();
        let of_stage: Vec<usize> = (0..self.instances.len())
            .filter(|&index| wildcard(stage.as_bytes(), self.instances[index].stage.as_bytes()))
            .collect();
        if of_stage.is_empty() {
            let mut stages: Vec<&str> = self.instances.iter().map(|instance| instance.stage.as_str()).collect();
            stages.dedup();
            let known = listed(stages.iter().copied());
            return Err(SelectorError {
                message: format!("`{selector}` matches no stage"),
                help: did_you_mean(stage, stages).or_else(|| Some(format!("the stages are {known}"))),
            });
        }
        let found: Vec<usize> = of_stage
            .iter()
            .copied()
            .filter(|&index| fixed.iter().all(|&(axis, value)| has(&self.instances[index], axis, value)))
            .collect();
        if found.is_empty() {
            let names = of_stage.iter().take(10).map(|&index| self.instances[index].name.as_str());
            return Err(SelectorError {
                message: format!("`{selector}` matches no instance"),
                help: Some(format!("there is {}", listed(names))),
            });
        }
        Ok((found, parts.port.map(|port| selector[port].to_owned())))
    }
}

fn has(instance: &Instance, axis: &str, value: &str) -> bool {
    // What a value is called in the instance's name may be rounded.
    let named = split(&instance.name, false).ok().and_then(|parts| {
        let (_, value) = parts.fixed.into_iter().find(|(name, _)| &instance.name[name.clone()] == axis)?;
        Some(instance.name[value].to_owned())
    });
    instance.axes.iter().any(|(name, found)| {
        name == axis
            && (means(value, found, &label(found)) || named.as_ref().is_some_and(|label| means(value, found, label)))
    })
}

/// Whether `pattern`, in which `*` stands for anything, means `name`.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| wildcard(rest, &name[skipped..])),
        Some((letter, rest)) => name.split_first().is_some_and(|(first, name)| first == letter && wildcard(rest, name)),
    }
}
