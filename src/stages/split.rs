//! Training, validation and test cells, by a hash of the cell's id.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id_hash::id_hash;
use crate::{
    artifact::{ArtifactError, ArtifactType, ArtifactWriter, Cells, CellsWriter, Table},
    stage::{Checked, Context, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind},
};

/// Splits cells into those to train on, to validate with and to test on.
pub(super) struct Split;

/// How cells are split.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct SplitParams {
    /// The share of cells kept for choosing among models.
    #[serde(default = "a_tenth")]
    #[schemars(range(max = 1.0))]
    pub(super) validation: f64,
    /// The share of cells kept for the end.
    #[serde(default = "a_tenth")]
    #[schemars(range(max = 1.0))]
    pub(super) test: f64,
    /// Another seed, another split. The pipeline's by default.
    #[serde(default)]
    pub(super) seed: u64,
}

fn a_tenth() -> f64 {
    0.1
}

const SIDES: [&str; 3] = ["train", "validation", "test"];

impl StageKind for Split {
    type Params = SplitParams;
    const NAME: &'static str = "split";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "training, validation and test cells; a cell keeps its side when others are added";

    fn inputs(_: Option<&SplitParams>) -> Vec<Input> {
        vec![Input::one("cells", ArtifactType::Cells, "all cells")]
    }

    fn outputs(_: Option<&SplitParams>) -> Vec<Output> {
        vec![
            Output::data("train", ArtifactType::Cells, "cells to train on"),
            Output::data("validation", ArtifactType::Cells, "cells to choose the best model with"),
            Output::data("test", ArtifactType::Cells, "cells that no choice has seen"),
            Output::for_people("table", ArtifactType::Tables, "the side of every cell"),
        ]
    }

    fn check(params: &SplitParams, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        for (field, share) in [("validation", params.validation), ("test", params.test)] {
            if !(0.0..1.0).contains(&share) {
                let message = format!("{share} is no share of the cells");
                checked.problems.push(Problem::with(field, message).help("give a number from 0 to below 1"));
            }
        }
        if checked.problems.is_empty() && params.validation + params.test >= 1.0 {
            let problem = Problem::with("validation", "`validation` and `test` leave no cell to train on");
            checked.problems.push(problem.help("let them add up to less than 1"));
        }
        if let Some(facts) = inputs.get("cells").and_then(|facts| facts.first()) {
            checked.outputs.extend(SIDES.map(|side| (side.to_owned(), facts.clone())));
        }
        checked
    }

    fn run(params: &SplitParams, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let cells = Cells::open(inputs.one("cells"), context.blobs())?;
        let hashes: Vec<f64> = cells.table.texts("source_id")?.iter().map(|id| id_hash(params.seed, id)).collect();
        let sides: Vec<&str> = hashes.iter().map(|&hash| params.side(hash)).collect();
        let mut outputs = Outputs::new();
        let train = 1.0 - params.validation - params.test;
        for (name, share) in SIDES.into_iter().zip([train, params.validation, params.test]) {
            let rows: Vec<usize> = (0..cells.len()).filter(|&row| sides[row] == name).collect();
            if rows.is_empty() && share > 0.0 {
                return Err(empty(name, share, cells.len()));
            }
            let mut writer = CellsWriter::new(cells.description.clone(), context.blobs());
            for &row in &rows {
                writer.link(&cells.ids()[row], cells.entry(row)?);
            }
            outputs.insert(name.to_owned(), writer.finish(&cells.table.select(&rows))?);
        }
        let column = |name: &str| Ok::<_, ArtifactError>(cells.table.texts(name)?.to_vec());
        let table = Table::new()
            .with("cell_id", column("cell_id")?)
            .with("source_id", column("source_id")?)
            .with("structure", column("structure")?)
            .with("control", cells.table.flags("control")?.to_vec())
            .with("split", sides.iter().map(|side| (*side).to_owned()).collect::<Vec<_>>())
            .with("hash", hashes);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, context.blobs());
        table.write(&mut out, "split")?;
        outputs.insert("table".to_owned(), out.finish()?);
        Ok(outputs)
    }
}

impl SplitParams {
    /// The side on which a hash in [0, 1) falls.
    fn side(&self, hash: f64) -> &'static str {
        if self.test > 0.0 && hash <= self.test {
            "test"
        } else if self.validation > 0.0 && hash <= self.test + self.validation {
            "validation"
        } else {
            "train"
        }
    }
}

/// The error of a side that no cell fell on.
fn empty(name: &str, share: f64, cells: usize) -> StageError {
    // With n cells, each on this side with this probability, none is with probability (1 - share)^n.
    let enough = (libm::log(0.01_f64) / libm::log(1.0 - share)).ceil();
    let help = if cells == 0 {
        "there are no cells at all: look at the stage that gives them".to_owned()
    } else {
        format!(
            "the side hangs on a hash of each cell's id, so small sets can miss one; {enough} cells or more are \
             enough in 99 of 100 cases, else try another `seed` or larger shares"
        )
    };
    StageError::bad_input(format!("of {cells} cells, none falls on the side `{name}`")).with_help(help)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;

    fn sides(host: &MemoryHost, ids: &[&str], seed: u64) -> Result<Vec<(String, String)>, StageError> {
        let cells = noisy_cells(host, ids, &vec!["golgi"; ids.len()]);
        let shares = json!({"validation": 0.0, "test": 0.3, "seed": seed});
        let outputs = host.run::<Split>(&params::<Split>(shares), &[("cells", &cells)])?;
        let mut found = Vec::new();
        for side in SIDES {
            let part = Cells::open(&outputs[side], &host.blobs)?;
            for (row, id) in part.ids().iter().enumerate() {
                let all = Cells::open(&cells, &host.blobs)?;
                let index = all.ids().iter().position(|other| other == id).unwrap();
                assert_eq!(part.entry(row)?.digest, all.entry(index)?.digest, "images are linked");
                found.push((id.clone(), side.to_owned()));
            }
        }
        found.sort();
        Ok(found)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn added_cells_change_no_other_cells_side(
            ids in proptest::collection::btree_set("[a-z]{1,4}", 12..24), seed: u64
        ) {
            let host = MemoryHost::default();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let few = ids.iter().copied().step_by(2).collect::<Vec<_>>();
            if let (Ok(few), Ok(all)) = (sides(&host, &few, seed), sides(&host, &ids, seed)) {
                prop_assert_eq!(all.len(), ids.len());
                prop_assert!(few.iter().all(|side| all.contains(side)));
            }
        }
    }

    #[test]
    fn thresholds() {
        let split = params::<Split>(json!({}));
        assert_eq!(
            [0.0, 0.1, 0.10001, 0.2, 0.20001, 0.99999].map(|hash| split.side(hash)),
            ["test", "test", "validation", "validation", "train", "train"]
        );
        let none = params::<Split>(json!({"validation": 0.0, "test": 0.0}));
        assert_eq!(none.side(0.0), "train");
    }

    #[test]
    fn an_empty_side_is_an_error_with_advice() {
        let host = MemoryHost::default();
        let cells = noisy_cells(&host, &["a"], &["golgi"]);
        let error = host.run::<Split>(&params::<Split>(json!({})), &[("cells", &cells)]).unwrap_err();
        let StageError::BadInput { message, help } = error else { panic!("{error:?}") };
        assert!(message.contains("of 1 cells, none falls on the side"), "{message}");
        assert!(help.unwrap().contains("cells or more"));
    }

    #[test]
    fn shares_are_checked() {
        let check = |value| Split::check(&params::<Split>(value), &InputFacts::new()).problems;
        assert!(check(json!({})).is_empty());
        assert_eq!(check(json!({"test": 1.5}))[0].field.as_deref(), Some("test"));
        assert_eq!(check(json!({"test": 0.5, "validation": 0.5})).len(), 1);
    }
}
