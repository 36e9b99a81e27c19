//! What a stage kind is.

use std::marker::PhantomData;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use toml::{Spanned, de::DeValue};

use super::{Context, Input, InputFacts, Inputs, Output, OutputFacts, Outputs, StageError};

/// Something wrong with a stage instance, found before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The parameter or port that it is about, as it stands in the TOML; `None`: the stage as a whole.
    pub field: Option<String>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The part of the field's value that is wrong, as it stands there; `None`: all of it.
    pub part: Option<String>,
}

impl Problem {
    /// A problem with the parameter or port `field`.
    pub fn with(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), message: message.into(), help: None, part: None }
    }

    /// The same problem, in this part of the field's value.
    #[must_use]
    pub fn at(mut self, part: &str) -> Self {
        self.part = Some(part.to_owned());
        self
    }

    /// The same problem with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// What a check found: the problems, and what is known of the outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Problems; empty: fine.
    pub problems: Vec<Problem>,
    /// What is known of the outputs.
    pub outputs: OutputFacts,
}

/// A kind of stage.
///
/// `Params` derives `Serialize`, `Deserialize`, `JsonSchema` with `#[serde(deny_unknown_fields, rename_all = "kebab-case")]`, and
/// `#[serde(default = …)]` on every field that has a default; doc comments are what `statcell stages` and editors show.
/// A field named `seed` (`u64`) takes the pipeline's seed where the stage's table has none.
pub trait StageKind: Sync + 'static {
    /// The parameters.
    type Params: Serialize + DeserializeOwned + JsonSchema;

    /// The name in `uses = "…"`.
    const NAME: &'static str;
    /// The version of what it computes: bump it by hand when the same inputs and parameters give other bytes.
    const VERSION: u32;
    /// One line for people.
    const ABOUT: &'static str;
    /// Parameters that say how far the work goes, not what it is (`epochs`): checkpoints are shared among their values.
    const EXTENT: &'static [&'static str] = &[];
    /// Parameters whose change leaves the results of items as they are, each with the reason. Every other parameter is in the key of
    /// every item, and a test says so.
    const NOT_IN_ITEMS: &'static [(&'static str, &'static str)] = &[];

    /// The input ports. `params`: `None` when listing the kind (then every port that there can be).
    fn inputs(params: Option<&Self::Params>) -> Vec<Input>;

    /// The output ports; likewise.
    fn outputs(params: Option<&Self::Params>) -> Vec<Output>;

    /// Checks parameters against each other and against what is known of the inputs, before anything runs.
    fn check(params: &Self::Params, inputs: &InputFacts) -> Checked;

    /// Does the work. The same parameters and inputs must give the same bytes, whatever the number of threads.
    ///
    /// # Errors
    /// See [`StageError`].
    fn run(params: &Self::Params, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError>;
}

/// A [`StageKind`] whose parameters are plain data: what spec, plan and executor work with.
///
/// "Normalised parameters" are the JSON of the parsed parameters: every default filled in.
pub trait AnyStage: Sync {
    /// See [`StageKind::NAME`].
    fn name(&self) -> &'static str;
    /// See [`StageKind::VERSION`].
    fn version(&self) -> u32;
    /// See [`StageKind::ABOUT`].
    fn about(&self) -> &'static str;
    /// See [`StageKind::EXTENT`].
    fn extent(&self) -> &'static [&'static str];
    /// See [`StageKind::NOT_IN_ITEMS`].
    fn not_in_items(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }
    /// The JSON Schema of the parameters.
    fn schema(&self) -> Schema;
    /// Parses the stage's table (ports and common keys already taken out) into normalised parameters.
    ///
    /// # Errors
    /// With the span of the offending key or value, where TOML's reader knows it.
    fn parse(&self, table: Spanned<DeValue<'_>>) -> Result<Value, Box<toml::de::Error>>;
    /// The input ports.
    fn inputs(&self, params: Option<&Value>) -> Vec<Input>;
    /// The output ports.
    fn outputs(&self, params: Option<&Value>) -> Vec<Output>;
    /// See [`StageKind::check`].
    fn check(&self, params: &Value, inputs: &InputFacts) -> Checked;
    /// See [`StageKind::run`].
    ///
    /// # Errors
    /// As there.
    fn run(&self, params: &Value, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError>;
}

/// Makes a [`StageKind`] an [`AnyStage`].
struct Erased<K>(PhantomData<fn() -> K>);

/// A stage kind as plain data.
#[must_use]
pub const fn erased<K: StageKind>() -> &'static dyn AnyStage {
    &Erased::<K>(PhantomData)
}

fn params<K: StageKind>(value: &Value) -> K::Params {
    serde_json::from_value(value.clone()).expect("normalised parameters come from the same type")
}

impl<K: StageKind> AnyStage for Erased<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn version(&self) -> u32 {
        K::VERSION
    }

    fn about(&self) -> &'static str {
        K::ABOUT
    }

    fn extent(&self) -> &'static [&'static str] {
        K::EXTENT
    }

    fn not_in_items(&self) -> &'static [(&'static str, &'static str)] {
        K::NOT_IN_ITEMS
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(K::Params)
    }

    fn parse(&self, table: Spanned<DeValue<'_>>) -> Result<Value, Box<toml::de::Error>> {
        use serde::de::IntoDeserializer;
        let params = K::Params::deserialize(table.into_deserializer()).map_err(Box::new)?;
        let value = serde_json::to_value(params).expect("parameters are plain data");
        // JSON has no infinite numbers: what does not come back is refused here, so that `params` below cannot fail.
        serde_json::from_value::<K::Params>(value.clone())
            .map_err(|error| Box::new(serde::de::Error::custom(format!("a number is out of range: {error}"))))?;
        Ok(value)
    }

    fn inputs(&self, value: Option<&Value>) -> Vec<Input> {
        K::inputs(value.map(params::<K>).as_ref())
    }

    fn outputs(&self, value: Option<&Value>) -> Vec<Output> {
        K::outputs(value.map(params::<K>).as_ref())
    }

    fn check(&self, value: &Value, inputs: &InputFacts) -> Checked {
        K::check(&params::<K>(value), inputs)
    }

    fn run(&self, value: &Value, inputs: &Inputs, context: &Context) -> Result<Outputs, StageError> {
        K::run(&params::<K>(value), inputs, context)
    }
}
