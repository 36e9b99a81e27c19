//! `select`: some cells of a set, by a condition, by a list, or both; and columns added from a list.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::{ArtifactError, ArtifactType, Cells, CellsWriter, Column, Table},
    stage::{
        Arity, Checked, Context, FileInput, Input, InputFacts, Inputs, Output, Outputs, Problem, StageError, StageKind,
    },
};

/// The stage kind.
pub(super) struct Select;

/// Parameters of `select`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Params {
    /// Conditions of which all must hold: a column of the cells or of the table, one of `<`, `<=`, `>`, `>=`, `=`, `!=`, and a value, as
    /// `cell_height_um < 14` or `stage = interphase`. A number that is missing fulfils no condition but `!=`.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// Whether the cells that meet all conditions (and stand in the list, where there is one) are dropped instead of kept.
    #[serde(default)]
    pub drop: bool,
    /// Whether the list only adds its columns, and cells that do not stand in it are neither kept nor dropped for that.
    #[serde(default)]
    pub annotate: bool,
    /// Columns of the list that are added to the cells: mitotic stages, wells, treatments. A cell that is not in the list keeps what it had,
    /// or has nothing there.
    #[serde(default)]
    pub add: Vec<String>,
    /// Which table of `table` counts.
    #[serde(default = "cells")]
    pub table_name: String,
}

fn cells() -> String {
    "cells".to_owned()
}

/// Columns that say which cell it is.
const IDENTITY: [&str; 4] = ["cell_id", "source_id", "field", "control"];

impl StageKind for Select {
    type Params = Params;

    const NAME: &'static str = "select";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "keeps or drops cells by conditions or a list, and adds columns of a list by cell id";

    fn inputs(_: Option<&Params>) -> Vec<Input> {
        vec![
            Input::one("cells", ArtifactType::Cells, "the cells"),
            Input::optional("table", ArtifactType::Tables, "a table with `cell_id` whose columns conditions can name"),
            Input::files("list", Arity::Optional, "a CSV file with a column `cell_id`: a curated list, or annotations"),
        ]
    }

    fn outputs(_: Option<&Params>) -> Vec<Output> {
        vec![Output::data("cells", ArtifactType::Cells, "the cells that are kept")]
    }

    fn check(params: &Params, inputs: &InputFacts) -> Checked {
        let mut checked = Checked::default();
        for text in &params.conditions {
            if let Err(message) = Condition::parse(text) {
                let help = "write a column, a sign and a value: `cell_height_um < 14`";
                checked.problems.push(Problem::with("conditions", message).help(help));
            }
        }
        if let Some(name) = params.add.iter().find(|name| IDENTITY.contains(&name.as_str())) {
            checked
                .problems
                .push(Problem::with("add", format!("`{name}` says which cell it is and cannot be replaced")));
        }
        if let Some(facts) = inputs.get("cells").and_then(|facts| facts.first()) {
            checked.outputs.insert("cells".to_owned(), facts.clone());
        }
        checked
    }

    fn run(params: &Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        let blobs = context.blobs();
        let cells = Cells::open(inputs.one("cells"), blobs)?;
        let list = inputs.files("list").first().map(read_list).transpose()?;
        if list.is_none() && (!params.add.is_empty() || params.annotate) {
            return Err(
                StageError::bad_input("there is no list whose columns could be added").with_help("connect `list`")
            );
        }
        let joined = match inputs.optional("table") {
            None => None,
            Some(artifact) => Some(Table::read(artifact, blobs, &params.table_name)?),
        };
        let joined_rows = joined.as_ref().map(index).transpose()?;
        let table = match &list {
            Some(list) if !params.add.is_empty() => added(&cells.table, list, &params.add)?,
            _ => cells.table.clone(),
        };
        let listed = list.as_ref().filter(|_| !params.annotate).map(index).transpose()?;
        if let Some(listed) = &listed {
            let strangers = listed.keys().filter(|id| !cells.ids().contains(id)).count();
            if strangers > 0 {
                context.note(format!("{strangers} cells of the list are not in the set"));
            }
        }
        let conditions = params.conditions.iter().map(|text| Condition::parse(text).map_err(StageError::bad_input));
        let conditions = conditions.collect::<Result<Vec<_>, _>>()?;
        let mut kept = Vec::new();
        for (row, id) in cells.ids().iter().enumerate() {
            let mut meets = listed.as_ref().is_none_or(|listed| listed.contains_key(id));
            for condition in &conditions {
                let elsewhere = || {
                    let table = joined.as_ref()?;
                    Some((table, joined_rows.as_ref()?.get(id).copied()))
                };
                meets &= condition.holds(&table, row, elsewhere())?;
            }
            if meets != params.drop {
                kept.push(row);
            }
        }
        if kept.is_empty() {
            return Err(StageError::bad_input(format!("none of the {} cells is kept", cells.len()))
                .with_help("loosen `conditions`, or look at the spelling of names in them"));
        }
        context.note(format!("{} of {} cells are kept", kept.len(), cells.len()));
        let mut writer = CellsWriter::new(cells.description.clone(), blobs);
        for &row in &kept {
            writer.link(&cells.ids()[row], cells.entry(row)?);
        }
        Ok(Outputs::from([("cells".to_owned(), writer.finish(&table.select(&kept))?)]))
    }
}

/// The row of each cell in a table.
fn index(table: &Table) -> Result<BTreeMap<String, usize>, ArtifactError> {
    Ok(table.texts("cell_id")?.iter().enumerate().map(|(row, id)| (id.clone(), row)).collect())
}

/// A CSV file as a table; a column of numbers alone is one of numbers, but the ids.
fn read_list(file: &FileInput) -> Result<Table, StageError> {
    let wrong = |message: String| StageError::bad_input(format!("`{}`: {message}", file.name));
    let bytes = file.read()?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes.as_slice());
    let names: Vec<String> = reader
        .headers()
        .map_err(|error| wrong(error.to_string()))?
        .iter()
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    let mut columns = vec![Vec::new(); names.len()];
    for record in reader.records() {
        let record = record.map_err(|error| wrong(error.to_string()))?;
        columns.iter_mut().zip(&record).for_each(|(column, text)| column.push(text.to_owned()));
    }
    let mut table = Table::new();
    for (name, texts) in names.iter().zip(columns) {
        if table.column(name).is_some() {
            return Err(wrong(format!("the column `{name}` stands twice")));
        }
        let number = |text: &String| if text.is_empty() { Some(f64::NAN) } else { text.parse::<f64>().ok() };
        let numbers: Option<Vec<f64>> = texts.iter().map(number).collect();
        table = match numbers {
            Some(numbers) if name != "cell_id" && numbers.iter().any(|v| !v.is_nan()) => table.with(name, numbers),
            _ => table.with(name, texts),
        };
    }
    if table.column("cell_id").is_none() {
        return Err(wrong(format!("there is no column `cell_id`; there are {}", names.join(", "))));
    }
    let ids = index(&table)?;
    if ids.len() < table.rows() {
        return Err(wrong("a `cell_id` stands twice".to_owned()));
    }
    Ok(table)
}

/// The cells' table with columns of a list.
fn added(cells: &Table, list: &Table, names: &[String]) -> Result<Table, StageError> {
    let places = index(list)?;
    let ids = cells.texts("cell_id")?;
    let mut table = cells.clone();
    for name in names {
        let Some(column) = list.column(name) else {
            let known: Vec<&str> = list.columns().map(|(name, _)| name).collect();
            return Err(StageError::bad_input(format!("the list has no column `{name}`"))
                .with_help(format!("it has {}", known.join(", "))));
        };
        let of = |row: usize| places.get(&ids[row]).copied();
        table = match (column, cells.column(name)) {
            (Column::Float(new), None | Some(Column::Float(_) | Column::Integer(_))) => {
                let old = cells.floats(name).unwrap_or_else(|_| vec![f64::NAN; ids.len()]);
                table.with(name, (0..ids.len()).map(|row| of(row).map_or(old[row], |at| new[at])).collect::<Vec<_>>())
            }
            (_, None | Some(Column::Text(_))) => {
                let old = cells.texts(name).map_or_else(|_| vec![String::new(); ids.len()], <[String]>::to_vec);
                let new = |at: usize| match column {
                    Column::Text(values) => values[at].clone(),
                    Column::Float(values) => values[at].to_string(),
                    _ => String::new(),
                };
                table.with(
                    name,
                    (0..ids.len()).map(|row| of(row).map_or_else(|| old[row].clone(), new)).collect::<Vec<_>>(),
                )
            }
            _ => {
                return Err(StageError::bad_input(format!(
                    "the column `{name}` of the list holds another type than the cells'"
                )));
            }
        };
    }
    Ok(table)
}

/// One condition.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    column: String,
    sign: Sign,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sign {
    Less,
    AtMost,
    More,
    AtLeast,
    Equal,
    Other,
}

/// Signs as they are written; those that begin with another one come first.
const SIGNS: [(&str, Sign); 7] = [
    ("<=", Sign::AtMost),
    (">=", Sign::AtLeast),
    ("!=", Sign::Other),
    ("==", Sign::Equal),
    ("<", Sign::Less),
    (">", Sign::More),
    ("=", Sign::Equal),
];

impl Condition {
    fn parse(text: &str) -> Result<Self, String> {
        let found = SIGNS.iter().filter_map(|(written, sign)| Some((text.find(written)?, *written, *sign)));
        // The first sign of the text; of two at one place, the longer.
        let first = found.min_by_key(|(at, written, _)| (*at, usize::MAX - written.len()));
        let (at, written, sign) = first.ok_or_else(|| format!("`{text}` has none of the signs <, <=, >, >=, =, !="))?;
        let (column, value) = (text[..at].trim().to_owned(), text[at + written.len()..].trim());
        let value = value.trim_matches(['"', '\'']).to_owned();
        if column.is_empty() {
            return Err(format!("`{text}` names no column"));
        }
        let ordered = !matches!(sign, Sign::Equal | Sign::Other);
        if ordered && value.parse::<f64>().is_err() {
            return Err(format!("`{value}` in `{text}` is no number"));
        }
        Ok(Self { column, sign, value })
    }

    /// Whether it holds for a row of the cells' table, or for the row of another table that belongs to it.
    fn holds(&self, cells: &Table, row: usize, elsewhere: Option<(&Table, Option<usize>)>) -> Result<bool, StageError> {
        let (column, row) = match (cells.column(&self.column), elsewhere) {
            (Some(column), _) => (column, Some(row)),
            (None, Some((table, row))) if table.column(&self.column).is_some() => {
                (table.column(&self.column).expect("it was just found"), row)
            }
            (None, other) => {
                let known = cells.columns().chain(other.into_iter().flat_map(|(table, _)| table.columns()));
                let known: Vec<&str> = known.map(|(name, _)| name).collect();
                return Err(StageError::bad_input(format!("there is no column `{}`", self.column))
                    .with_help(format!("there are {}", known.join(", "))));
            }
        };
        let Some(row) = row else { return Ok(self.sign == Sign::Other) };
        let number = match column {
            Column::Float(values) => Some(values[row]),
            Column::Integer(values) => Some(values[row] as f64),
            Column::Text(_) | Column::Flag(_) => None,
        };
        let text = match column {
            Column::Text(values) => values[row].clone(),
            Column::Flag(values) => values[row].to_string(),
            _ => String::new(),
        };
        let Some(number) = number else {
            return match self.sign {
                Sign::Equal => Ok(text == self.value),
                Sign::Other => Ok(text != self.value),
                _ => {
                    Err(StageError::bad_input(format!("the column `{}` holds text, which is not ordered", self.column))
                        .with_help("compare it by `=` or `!=`"))
                }
            };
        };
        let value: f64 = self.value.parse().map_err(|_| {
            StageError::bad_input(format!("the column `{}` holds numbers, and `{}` is none", self.column, self.value))
        })?;
        Ok(match self.sign {
            Sign::Less => number < value,
            Sign::AtMost => number <= value,
            Sign::More => number > value,
            Sign::AtLeast => number >= value,
            Sign::Equal => number == value,
            Sign::Other => number != value,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{MemoryHost, noisy_cells, params};
    use super::*;
    use crate::{
        artifact::{Artifact, ArtifactWriter},
        store::Digest,
    };

    fn cells(host: &MemoryHost) -> Artifact {
        let artifact = noisy_cells(host, &["a", "b", "c", "d"], &["golgi", "golgi", "nucleoli", ""]);
        let opened = Cells::open(&artifact, &host.blobs).unwrap();
        let mut writer = CellsWriter::new(opened.description.clone(), &host.blobs);
        (0..4).for_each(|row| writer.link(&opened.ids()[row], opened.entry(row).unwrap()));
        writer.finish(&opened.table.clone().with("cell_height_um", vec![5.0, 9.0, f64::NAN, 12.0])).unwrap()
    }

    fn run(
        host: &MemoryHost,
        json: serde_json::Value,
        ports: &[(&str, &Artifact)],
        list: &str,
    ) -> Result<Artifact, StageError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.csv");
        std::fs::write(&path, list).unwrap();
        let file = FileInput { name: "list.csv".to_owned(), path, digest: Digest::of(list.as_bytes()) };
        let inputs = Inputs {
            artifacts: ports.iter().map(|(port, artifact)| ((*port).to_owned(), vec![(*artifact).clone()])).collect(),
            files: if list.is_empty() { BTreeMap::new() } else { [("list".to_owned(), vec![file])].into() },
        };
        Select::run(&params::<Select>(json), &inputs, &Context::new(host))
            .map(|mut outputs| outputs.remove("cells").unwrap())
    }

    fn ids(host: &MemoryHost, artifact: &Artifact) -> String {
        Cells::open(artifact, &host.blobs).unwrap().ids().concat()
    }

    #[test]
    fn by_conditions() {
        let host = MemoryHost::default();
        let cells = cells(&host);
        let kept = |json| ids(&host, &run(&host, json, &[("cells", &cells)], "").unwrap());
        assert_eq!(kept(json!({ "conditions": ["cell_height_um >= 9"] })), "bd");
        assert_eq!(kept(json!({ "conditions": ["cell_height_um >= 9"], "drop": true })), "ac");
        assert_eq!(kept(json!({ "conditions": ["cell_height_um < 10", "structure = golgi"] })), "ab");
        assert_eq!(kept(json!({ "conditions": ["structure != \"golgi\"", "control=false"] })), "cd");
        let error = |json| run(&host, json, &[("cells", &cells)], "").unwrap_err().to_string();
        assert!(error(json!({ "conditions": ["hight < 3"] })).contains("no column `hight`"));
        assert!(error(json!({ "conditions": ["structure < 3"] })).contains("holds text"));
        assert!(error(json!({ "conditions": ["cell_height_um > 99"] })).contains("none of the 4 cells is kept"));
        for (bad, message) in
            [("height", "none of the signs"), ("< 3", "names no column"), ("height < tall", "no number")]
        {
            let problems =
                Select::check(&params::<Select>(json!({ "conditions": [bad] })), &InputFacts::new()).problems;
            assert!(problems[0].message.contains(message), "{problems:?}");
        }
    }

    #[test]
    fn by_a_list_and_by_another_table() {
        let host = MemoryHost::default();
        let cells = cells(&host);
        let ports = [("cells", &cells)];
        let kept = run(&host, json!({}), &ports, "cell_id,why\nb,dust\nx,gone\n").unwrap();
        assert_eq!(ids(&host, &kept), "b");
        assert!(host.notes().iter().any(|note| note.contains("1 cells of the list are not in the set")));
        let dropped = run(&host, json!({ "drop": true }), &ports, "cell_id\nb\n").unwrap();
        assert_eq!(ids(&host, &dropped), "acd");
        let table = Table::new().with("cell_id", ["d", "a"].map(str::to_owned).to_vec()).with("z", vec![-4.0, 0.5]);
        let mut out = ArtifactWriter::new(ArtifactType::Tables, &host.blobs);
        table.write(&mut out, "cells").unwrap();
        let table = out.finish().unwrap();
        let ports = [("cells", &cells), ("table", &table)];
        let kept = run(&host, json!({ "conditions": ["z < -3"], "drop": true }), &ports, "").unwrap();
        assert_eq!(ids(&host, &kept), "abc", "cells without a value meet no condition");
    }

    #[test]
    fn annotations_are_joined_by_id() {
        let host = MemoryHost::default();
        let cells = cells(&host);
        let list = "cell_id, stage, dose_um\na,prophase,5\nc,\"\",\nd,interphase,0.5\n";
        let settings = json!({ "annotate": true, "add": ["stage", "dose_um"] });
        let joined = run(&host, settings, &[("cells", &cells)], list).unwrap();
        let table = Cells::open(&joined, &host.blobs).unwrap().table;
        assert_eq!(table.texts("stage").unwrap(), ["prophase", "interphase", "", "interphase"]);
        let dose = table.floats("dose_um").unwrap();
        assert!(dose[0] == 5.0 && dose[1].is_nan() && dose[2].is_nan() && dose[3] == 0.5);
        let error = |settings, list: &str| run(&host, settings, &[("cells", &cells)], list).unwrap_err().to_string();
        assert!(error(json!({ "add": ["phase"] }), list).contains("no column `phase`"));
        assert!(error(json!({ "add": ["stage"] }), "id,stage\na,x\n").contains("no column `cell_id`"));
        assert!(error(json!({ "add": ["stage"] }), "cell_id,stage\na,x\na,y\n").contains("stands twice"));
        assert!(error(json!({ "add": ["stage"] }), "").contains("no list"));
        let problems = Select::check(&params::<Select>(json!({ "add": ["cell_id"] })), &InputFacts::new()).problems;
        assert_eq!(problems.len(), 1);
    }
}
