//! Tables: named columns of one length, as Parquet for programs and CSV for people.

use std::sync::Arc;

use super::{Artifact, ArtifactError, ArtifactType, ArtifactWriter};
use crate::store::Blobs;
use parquet::{
    basic::{Compression, LogicalType, Repetition, Type as Physical},
    column::{reader::ColumnReader, writer::ColumnWriter},
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    schema::types::Type,
};

/// The values of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Real numbers; a missing value is NaN, and an empty cell in the CSV.
    Float(Vec<f64>),
    /// Whole numbers.
    Integer(Vec<i64>),
    /// Text; a missing value is the empty text.
    Text(Vec<String>),
    /// True or false.
    Flag(Vec<bool>),
}

impl Column {
    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Integer(values) => values.len(),
            Self::Text(values) => values.len(),
            Self::Flag(values) => values.len(),
        }
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn cell(&self, row: usize) -> String {
        match self {
            Self::Float(values) if values[row].is_nan() => String::new(),
            Self::Float(values) => values[row].to_string(),
            Self::Integer(values) => values[row].to_string(),
            Self::Text(values) => values[row].clone(),
            Self::Flag(values) => values[row].to_string(),
        }
    }

    fn select(&self, rows: &[usize]) -> Self {
        fn pick<T: Clone>(values: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| values[row].clone()).collect()
        }
        match self {
            Self::Float(values) => Self::Float(pick(values, rows)),
            Self::Integer(values) => Self::Integer(pick(values, rows)),
            Self::Text(values) => Self::Text(pick(values, rows)),
            Self::Flag(values) => Self::Flag(pick(values, rows)),
        }
    }
}

impl From<Vec<f64>> for Column {
    fn from(values: Vec<f64>) -> Self {
        Self::Float(values)
    }
}

impl From<Vec<i64>> for Column {
    fn from(values: Vec<i64>) -> Self {
        Self::Integer(values)
    }
}

impl From<Vec<String>> for Column {
    fn from(values: Vec<String>) -> Self {
        Self::Text(values)
    }
}

impl From<Vec<bool>> for Column {
    fn from(values: Vec<bool>) -> Self {
        Self::Flag(values)
    }
}

/// Named columns of one length, in a stated order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

impl Table {
    /// A table without columns.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column behind the others, or puts it in the place of the one of the same name.
    ///
    /// # Panics
    /// When its length is not that of the other columns.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, column: impl Into<Column>) -> Self {
        let (name, column) = (name.into(), column.into());
        let alone = self.columns.iter().all(|(other, _)| *other == name);
        assert!(
            alone || column.len() == self.rows(),
            "column `{name}` has {} rows, the table {}",
            column.len(),
            self.rows()
        );
        match self.columns.iter_mut().find(|(other, _)| *other == name) {
            Some(slot) => slot.1 = column,
            None => self.columns.push((name, column)),
        }
        self
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// The columns in order.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &Column)> {
        self.columns.iter().map(|(name, column)| (name.as_str(), column))
    }

    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(other, _)| other == name).map(|(_, column)| column)
    }

    /// The real numbers of a column (whole numbers are converted).
    ///
    /// # Errors
    /// When there is no such column, or it holds no numbers.
    pub fn floats(&self, name: &str) -> Result<Vec<f64>, ArtifactError> {
        match self.column(name) {
            Some(Column::Float(values)) => Ok(values.clone()),
            Some(Column::Integer(values)) => Ok(values.iter().map(|&value| value as f64).collect()),
            _ => Err(self.wrong(name, "numbers")),
        }
    }

    /// The texts of a column.
    ///
    /// # Errors
    /// When there is no such column, or it holds no text.
    pub fn texts(&self, name: &str) -> Result<&[String], ArtifactError> {
        match self.column(name) {
            Some(Column::Text(values)) => Ok(values),
            _ => Err(self.wrong(name, "text")),
        }
    }

    /// The true/false values of a column.
    ///
    /// # Errors
    /// When there is no such column, or it holds something else.
    pub fn flags(&self, name: &str) -> Result<&[bool], ArtifactError> {
        match self.column(name) {
            Some(Column::Flag(values)) => Ok(values),
            _ => Err(self.wrong(name, "true/false values")),
        }
    }

    fn wrong(&self, name: &str, what: &str) -> ArtifactError {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let reason = format!("the table has no column `{name}` of {what}; its columns: {}", names.join(", "));
        ArtifactError::Malformed { kind: ArtifactType::Tables, reason }
    }

    /// The rows of these indices, in this order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        Self { columns: self.columns.iter().map(|(name, column)| (name.clone(), column.select(rows))).collect() }
    }

    /// The table as CSV with a header line.
    #[must_use]
    pub fn to_csv(&self) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let expect = "writing to memory";
        if self.columns.is_empty() {
            return Vec::new();
        }
        writer.write_record(self.columns.iter().map(|(name, _)| name)).expect(expect);
        for row in 0..self.rows() {
            writer.write_record(self.columns.iter().map(|(_, column)| column.cell(row))).expect(expect);
        }
        writer.into_inner().expect(expect)
    }

    /// The table as Parquet: required columns, one row group.
    ///
    /// # Errors
    /// When the Parquet library refuses it (a column name that it cannot hold).
    pub fn to_parquet(&self) -> Result<Vec<u8>, ArtifactError> {
        self.write_parquet().map_err(|error| malformed(&error))
    }

    fn write_parquet(&self) -> Result<Vec<u8>, ParquetError> {
        let fields = self.columns.iter().map(|(name, column)| {
            let (physical, logical) = match column {
                Column::Float(_) => (Physical::DOUBLE, None),
                Column::Integer(_) => (Physical::INT64, None),
                Column::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
                Column::Flag(_) => (Physical::BOOLEAN, None),
            };
            let field = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
            Ok(Arc::new(field.with_logical_type(logical).build()?))
        });
        let fields = fields.collect::<Result<Vec<_>, ParquetError>>()?;
        let schema = Arc::new(Type::group_type_builder("table").with_fields(fields).build()?);
        let properties = WriterProperties::builder()
            .set_created_by("statcell".to_owned())
            .set_compression(Compression::ZSTD(Default::default()))
            .build();
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        for (_, column) in &self.columns {
            let mut target = group.next_column()?.expect("the schema has this column");
            match (target.untyped(), column) {
                (ColumnWriter::DoubleColumnWriter(out), Column::Float(values)) => {
                    out.write_batch(values, None, None)?
                }
                (ColumnWriter::Int64ColumnWriter(out), Column::Integer(values)) => {
                    out.write_batch(values, None, None)?
                }
                (ColumnWriter::BoolColumnWriter(out), Column::Flag(values)) => out.write_batch(values, None, None)?,
                (ColumnWriter::ByteArrayColumnWriter(out), Column::Text(values)) => {
                    let bytes: Vec<_> = values.iter().map(|text| ByteArray::from(text.as_str())).collect();
                    out.write_batch(&bytes, None, None)?
                }
                _ => unreachable!("the schema was made from these columns"),
            };
            target.close()?;
        }
        group.close()?;
        writer.into_inner()
    }

    /// Reads what [`Table::to_parquet`] wrote.
    ///
    /// # Errors
    /// When the bytes are no Parquet, or hold a column of another type, or missing values.
    pub fn from_parquet(bytes: Vec<u8>) -> Result<Self, ArtifactError> {
        Self::parse_parquet(bytes).map_err(|error| malformed(&error))
    }

    fn parse_parquet(bytes: Vec<u8>) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let mut table = Self::new();
        for (index, description) in schema.columns().iter().enumerate() {
            let name = description.name();
            if description.max_def_level() > 0 {
                return Err(ParquetError::General(format!("column `{name}` may hold missing values")));
            }
            let mut column: Option<Column> = None;
            for group in 0..reader.num_row_groups() {
                let group = reader.get_row_group(group)?;
                let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
                let part = match group.get_column_reader(index)? {
                    ColumnReader::DoubleColumnReader(mut source) => {
                        let mut values = Vec::new();
                        source.read_records(rows, None, None, &mut values)?;
                        Column::Float(values)
                    }
                    ColumnReader::Int64ColumnReader(mut source) => {
                        let mut values = Vec::new();
                        source.read_records(rows, None, None, &mut values)?;
                        Column::Integer(values)
                    }
                    ColumnReader::BoolColumnReader(mut source) => {
                        let mut values = Vec::new();
                        source.read_records(rows, None, None, &mut values)?;
                        Column::Flag(values)
                    }
                    ColumnReader::ByteArrayColumnReader(mut source) => {
                        let mut values = Vec::new();
                        source.read_records(rows, None, None, &mut values)?;
                        let texts = values.iter().map(|value| value.as_utf8().map(str::to_owned));
                        Column::Text(texts.collect::<Result<_, _>>()?)
                    }
                    _ => {
                        return Err(ParquetError::General(format!(
                            "column `{name}` is of a type that is not used here"
                        )));
                    }
                };
                column = Some(match (column, part) {
                    (None, part) => part,
                    (Some(Column::Float(mut all)), Column::Float(part)) => {
                        all.extend(part);
                        Column::Float(all)
                    }
                    (Some(Column::Integer(mut all)), Column::Integer(part)) => {
                        all.extend(part);
                        Column::Integer(all)
                    }
                    (Some(Column::Flag(mut all)), Column::Flag(part)) => {
                        all.extend(part);
                        Column::Flag(all)
                    }
                    (Some(Column::Text(mut all)), Column::Text(part)) => {
                        all.extend(part);
                        Column::Text(all)
                    }
                    _ => return Err(ParquetError::General(format!("column `{name}` changes its type"))),
                });
            }
            let Some(column) = column else { continue };
            if !table.columns.is_empty() && column.len() != table.rows() {
                return Err(ParquetError::General(format!("column `{name}` has another length")));
            }
            table = table.with(name, column);
        }
        Ok(table)
    }

    /// Writes the table as `<name>.parquet` and `<name>.csv`.
    ///
    /// # Errors
    /// When it cannot be encoded or kept.
    pub fn write(&self, out: &mut ArtifactWriter, name: &str) -> Result<(), ArtifactError> {
        out.put(format!("{name}.parquet"), &self.to_parquet()?)?;
        out.put(format!("{name}.csv"), &self.to_csv())
    }

    /// Reads `<name>.parquet` of an artifact.
    ///
    /// # Errors
    /// When it is not there or no table.
    pub fn read(artifact: &Artifact, blobs: &dyn Blobs, name: &str) -> Result<Self, ArtifactError> {
        Self::from_parquet(artifact.read(blobs, &format!("{name}.parquet"))?)
    }
}

fn malformed(error: &ParquetError) -> ArtifactError {
    ArtifactError::Malformed { kind: ArtifactType::Tables, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        Table::new()
            .with("cell_id", vec!["a".to_owned(), "b, \"c\"".to_owned()])
            .with("volume", vec![1.5, f64::NAN])
            .with("slices", vec![3_i64, -4])
            .with("control", vec![true, false])
    }

    #[test]
    fn parquet_round_trip_and_stable_bytes() {
        let bytes = sample().to_parquet().unwrap();
        assert_eq!(bytes, sample().to_parquet().unwrap());
        let back = Table::from_parquet(bytes).unwrap();
        assert_eq!(back.to_csv(), sample().to_csv());
        assert_eq!(back.flags("control").unwrap(), [true, false]);
        assert!(back.floats("volume").unwrap()[1].is_nan());
        assert!(Table::from_parquet(b"not parquet".to_vec()).is_err());
    }

    #[test]
    fn csv_quotes_and_leaves_missing_cells_empty() {
        let text = String::from_utf8(sample().to_csv()).unwrap();
        assert_eq!(text, "cell_id,volume,slices,control\na,1.5,3,true\n\"b, \"\"c\"\"\",,-4,false\n");
    }

    #[test]
    fn a_missing_column_is_named() {
        let error = sample().floats("height").unwrap_err().to_string();
        assert!(error.contains("`height`") && error.contains("volume"), "{error}");
    }
}
