//! `statcell schema`: the language's JSON Schema.

use std::io::Write;

use clap::Args;

use super::Failure;
use crate::{spec, stages::registry};

/// Print the JSON Schema of pipelines, for editors
///
/// Editors that know TOML schemas (with the plugins Even Better TOML or Tombi) then complete and check pipelines while you
/// type: begin the file with `#:schema PATH/pipeline.schema.json`.
#[derive(Args, Debug)]
pub(super) struct SchemaArgs {}

/// Prints the schema to `out`.
pub(super) fn schema(_: &SchemaArgs, out: &mut dyn Write) -> Result<(), Failure> {
    out.write_all(spec::schema_text(registry()).as_bytes()).map_err(Failure::output)
}
