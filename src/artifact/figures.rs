//! Figures for people: pictures with captions, and the numbers behind them.

use serde::{Deserialize, Serialize};

use super::{Artifact, ArtifactError, ArtifactType, ArtifactWriter, Table};
use crate::store::Blobs;

/// One figure: the same picture in one or more formats, a caption, and the numbers behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// File name without suffix, unique in its set: lower case, digits, hyphens.
    pub name: String,
    /// The report's section that it belongs to, such as `Learning`.
    pub section: String,
    /// A short title.
    pub title: String,
    /// What is seen, in whole sentences, with units and where the paper shows the same.
    pub caption: String,
    /// (suffix, bytes): `svg`, `png`.
    pub pictures: Vec<(String, Vec<u8>)>,
    /// The numbers behind the picture.
    pub table: Option<Table>,
}

/// An ordered set of figures: what analysis stages give, and the report takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FigureSet(pub Vec<Figure>);

#[derive(Serialize, Deserialize)]
struct Listed {
    name: String,
    section: String,
    title: String,
    caption: String,
    pictures: Vec<String>,
    table: bool,
}

const INDEX: &str = "figures.json";

impl FigureSet {
    /// Writes `figures.json`, and for each figure its pictures and its table.
    ///
    /// # Errors
    /// When the store cannot keep them.
    pub fn write(&self, blobs: &dyn Blobs) -> Result<Artifact, ArtifactError> {
        let mut out = ArtifactWriter::new(ArtifactType::Figures, blobs);
        let mut index = Vec::new();
        for figure in &self.0 {
            for (suffix, bytes) in &figure.pictures {
                out.put(format!("{}.{suffix}", figure.name), bytes)?;
            }
            if let Some(table) = &figure.table {
                table.write(&mut out, &figure.name)?;
            }
            index.push(Listed {
                name: figure.name.clone(),
                section: figure.section.clone(),
                title: figure.title.clone(),
                caption: figure.caption.clone(),
                pictures: figure.pictures.iter().map(|(suffix, _)| suffix.clone()).collect(),
                table: figure.table.is_some(),
            });
        }
        out.put(INDEX, &serde_json::to_vec_pretty(&index).expect("plain data"))?;
        out.finish()
    }

    /// Reads what [`FigureSet::write`] wrote.
    ///
    /// # Errors
    /// When the artifact is no set of figures.
    pub fn read(artifact: &Artifact, blobs: &dyn Blobs) -> Result<Self, ArtifactError> {
        let index: Vec<Listed> = serde_json::from_slice(&artifact.read(blobs, INDEX)?)
            .map_err(|error| ArtifactError::Malformed { kind: artifact.kind, reason: error.to_string() })?;
        let figures = index.into_iter().map(|listed| {
            let pictures = listed.pictures.into_iter().map(|suffix| {
                let bytes = artifact.read(blobs, &format!("{}.{suffix}", listed.name))?;
                Ok((suffix, bytes))
            });
            Ok(Figure {
                pictures: pictures.collect::<Result<_, ArtifactError>>()?,
                table: if listed.table { Some(Table::read(artifact, blobs, &listed.name)?) } else { None },
                name: listed.name,
                section: listed.section,
                title: listed.title,
                caption: listed.caption,
            })
        });
        Ok(Self(figures.collect::<Result<_, ArtifactError>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryBlobs;

    #[test]
    fn round_trip() {
        let blobs = MemoryBlobs::default();
        let set = FigureSet(vec![Figure {
            name: "walk-0".to_owned(),
            section: "Walks".to_owned(),
            title: "Dimension 0".to_owned(),
            caption: "Nine steps.".to_owned(),
            pictures: vec![("png".to_owned(), vec![1, 2, 3])],
            table: Some(Table::new().with("step", vec![1_i64])),
        }]);
        let artifact = set.write(&blobs).unwrap();
        assert_eq!(FigureSet::read(&artifact, &blobs).unwrap(), set);
    }
}
