//! What is wrong with a pipeline: every problem with its code, its places in the text and advice.

use std::{collections::BTreeSet, fmt, sync::Arc};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

use super::source::{Sources, Span};

/// The advice that goes with a misspelt name: the nearest of `candidates`, if one is near.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|nearest| format!("did you mean `{nearest}`?"))
}

pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, first), (b, second)| a.total_cmp(b).then_with(|| second.cmp(first)))
        .map(|(_, candidate)| candidate)
}

/// The most names in a list.
const LISTED: usize = 24;

/// Names in back-ticks with commas between them; of many, the first.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let first: Vec<String> = names.by_ref().take(LISTED).map(|name| format!("`{name}`")).collect();
    match names.count() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// So many mistakes are worth advice that takes a search; whoever has more reads the first.
pub(crate) const ADVISED: usize = 200;

/// So many problems are shown.
const SHOWN: usize = 30;

/// One thing that is wrong with a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// What sort of problem, for programs: `unknown-key`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The places that it is about, each with a few words.
    pub labels: Vec<(Span, String)>,
    /// What to do.
    pub help: Option<String>,
    sources: Arc<Sources>,
}

impl SpecError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: Vec::new(), help: None, sources: Arc::default() }
    }

    pub(crate) fn label(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.labels.push((span.clone(), text.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn help_maybe(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    fn identity(&self) -> Identity<'_> {
        let labels = self.labels.iter().map(|(span, text)| (span.start, span.end, text.as_str()));
        (self.code, &self.message, labels.collect(), self.help.as_deref())
    }

    /// The file (or `--set`) and the line in it that the problem is about.
    pub fn position(&self) -> Option<(&str, usize)> {
        self.sources.position(&self.labels.first()?.0)
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for SpecError {}

impl Diagnostic for SpecError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("pipeline::{}", self.code)))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.labels.is_empty()).then_some(&*self.sources as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.labels.is_empty()).then(|| {
            let label = |(span, text): &(Span, String)| {
                LabeledSpan::new((!text.is_empty()).then(|| text.clone()), span.start, span.len())
            };
            Box::new(self.labels.iter().map(label)) as Box<dyn Iterator<Item = LabeledSpan>>
        })
    }
}

/// Everything that is wrong with a pipeline, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors {
    errors: Vec<SpecError>,
}

/// What makes two problems the same one.
type Identity<'a> = (&'a str, &'a str, Vec<(usize, usize, &'a str)>, Option<&'a str>);

impl SpecErrors {
    /// Sorted by place, each problem once.
    pub(crate) fn new(mut errors: Vec<SpecError>, sources: &Arc<Sources>) -> Self {
        errors.sort_by_key(|error| error.labels.first().map(|(span, _)| (span.start, span.end)));
        // The members of a group have the same problem at the same place.
        let mut seen: BTreeSet<Identity> = BTreeSet::new();
        let new: Vec<bool> = errors.iter().map(|error| seen.insert(error.identity())).collect();
        drop(seen);
        let mut new = new.into_iter();
        errors.retain_mut(|error| {
            error.sources = Arc::clone(sources);
            new.next().unwrap_or_default()
        });
        Self { errors }
    }

    /// The problems, in the order of the text.
    pub fn errors(&self) -> &[SpecError] {
        &self.errors
    }

    /// All problems with their places in the text, ready to print. `width` in columns.
    pub fn render(&self, colour: bool, width: usize) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler =
            GraphicalReportHandler::new_themed(theme).with_links(false).with_width(width).with_context_lines(1);
        let mut text = String::new();
        for error in self.errors.iter().take(SHOWN) {
            handler.render_report(&mut text, error).expect("writing to a string");
            text.push('\n');
        }
        text.push_str(&self.to_string());
        text.push('\n');
        text
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errors.as_slice() {
            [one] => write!(formatter, "the pipeline has a problem: {one}"),
            many if many.len() > SHOWN => {
                write!(
                    formatter,
                    "the pipeline has {} problems, of which these are the first {SHOWN}; nothing was run",
                    many.len()
                )
            }
            many => write!(formatter, "the pipeline has {} problems; nothing was run", many.len()),
        }
    }
}

impl std::error::Error for SpecErrors {}

impl Diagnostic for SpecErrors {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new("pipeline"))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.errors.iter().map(|error| error as &dyn Diagnostic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = ["epochs", "latent", "learning-rate"];
        assert_eq!(nearest("epoch", names), Some("epochs"));
        assert_eq!(nearest("learnig_rate", names), Some("learning-rate"));
        assert_eq!(nearest("Latent", names), Some("latent"));
        assert_eq!(nearest("beta", names), None);
    }
}
