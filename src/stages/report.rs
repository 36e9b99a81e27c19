//! The report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactType, ArtifactWriter, FigureSet},
    figures::report::render,
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Puts figures together in one HTML file.
pub(super) struct Report;

/// What stands above the figures.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct ReportParams {
    /// The title.
    #[serde(default = "default_title")]
    pub(super) title: String,
    /// A few sentences on what is shown; a blank line begins a new paragraph.
    #[serde(default)]
    pub(super) introduction: String,
}

fn default_title() -> String {
    "Cells".to_owned()
}

impl StageKind for Report {
    type Params = ReportParams;
    const NAME: &'static str = "report";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "puts figures together in one HTML file that needs nothing else";

    fn inputs(_: Option<&ReportParams>) -> Vec<Input> {
        vec![Input::many("figures", ArtifactType::Figures, "figures, in the order in which a section shows them")]
    }

    fn outputs(_: Option<&ReportParams>) -> Vec<Output> {
        vec![Output::for_people("report", ArtifactType::Report, "`report.html`")]
    }

    fn check(params: &ReportParams, _: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        if params.title.trim().is_empty() {
            checked
                .problems
                .push(Problem::with("title", "a report needs a title").help("leave it out to get the default"));
        }
        checked
    }

    fn run(params: &ReportParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let mut figures = Vec::new();
        for artifact in inputs.many("figures") {
            context.check()?;
            figures.extend(FigureSet::read(artifact, context.blobs())?.0);
        }
        let html = render(&params.title, &params.introduction, &figures);
        let mut out = ArtifactWriter::new(ArtifactType::Report, context.blobs());
        out.put("report.html", html.as_bytes())?;
        Ok(Outputs::from([("report".to_owned(), out.finish()?)]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{MemoryHost, params};
    use super::*;
    use crate::artifact::Figure;

    #[test]
    fn figures_of_all_stages_stand_in_it() {
        let host = MemoryHost::default();
        let figure = |title: &str| Figure {
            name: "same".to_owned(),
            section: "Cells".to_owned(),
            title: title.to_owned(),
            caption: String::new(),
            pictures: Vec::new(),
            table: None,
        };
        let sets = ["first", "second"].map(|title| FigureSet(vec![figure(title)]).write(&host.blobs).unwrap());
        let inputs = Inputs { artifacts: [("figures".to_owned(), sets.to_vec())].into(), ..Inputs::default() };
        let params = params::<Report>(serde_json::json!({ "title": "Two figures" }));
        let outputs = Report::run(&params, &inputs, &Context::new(&host)).unwrap();
        let html = String::from_utf8(outputs["report"].read(&host.blobs, "report.html").unwrap()).unwrap();
        assert!(html.find("first").unwrap() < html.find("second").unwrap());
        assert!(html.contains("<h1>Two figures</h1>"));
        assert_eq!(
            Report::check(&ReportParams { title: " ".to_owned(), ..params }, &InputFacts::new()).problems.len(),
            1
        );
    }
}
