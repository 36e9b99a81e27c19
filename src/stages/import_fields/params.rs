//! What can be said of fields that files do not say, or say wrongly.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use crate::image::io::{PageOrder, Pick};

/// Parameters of `import-fields`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::stages) struct Params {
    /// The channels' names. A list names all channels in the order of the files; a table maps ours to the files' own names or
    /// positions (from 0): `{ membrane = "CellMask", dna = 0 }`. Absent: as the files name them. `membrane` and `dna` are needed to
    /// find cells, `structure` is the tagged structure; others are kept.
    #[serde(default)]
    pub channels: Option<Channels>,
    /// The order of the planes, for files that do not say it or say it wrongly: `czyx` (all planes of the first channel, then
    /// all of the next), `zcyx` (all channels of the first plane, then all of the next), `cyx` (one plane of each channel) or `zyx`
    /// (planes of one channel). Whatever the file says of its axes does not count then: time points become planes.
    #[serde(default)]
    pub axes: Option<Axes>,
    /// Size of a voxel in µm: one number, `[z, y, x]`, or only some of them: `{ z = 0.3 }`. Absent: as the files say.
    #[serde(default)]
    pub voxel_size: Option<Sides>,
    /// Which image of a file that holds several: its position (from 0), its name, or `"each"` for a field of each.
    #[serde(default)]
    pub scene: Option<Which>,
    /// Which time point of a series: its position (from 0), or `"each"` for a field of each.
    #[serde(default)]
    pub time: Option<Which>,
    /// What becomes of pixels that are not finite (NaN, infinite): `refuse`, or `mask`, which gives them the smallest finite value of
    /// their channel.
    #[serde(default)]
    pub non_finite: NonFinite,
    /// What the files of `labels` hold, in their order: `nucleus` and `cell`, or one of them. Absent: as the files name their channels,
    /// else `nucleus` and `cell`.
    #[serde(default)]
    pub label_channels: Option<Vec<String>>,
    /// The order of the planes of label files, as `axes` is that of the fields.
    #[serde(default)]
    pub label_axes: Option<Axes>,
    /// The name of the data set.
    #[serde(default)]
    pub dataset: String,
    /// The tagged structure in the channel `structure`.
    #[serde(default)]
    pub structure: String,
}

/// The order of the planes in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::stages) enum Axes {
    /// All planes of the first channel, then all of the next.
    Czyx,
    /// All channels of the first plane, then all of the next.
    Zcyx,
    /// One plane of each channel.
    Cyx,
    /// Planes of one channel.
    Zyx,
}

impl Axes {
    /// The order, and the number of channels where it says that.
    pub(in crate::stages) fn order(self) -> (PageOrder, Option<usize>) {
        match self {
            Self::Czyx | Self::Cyx => (PageOrder::Czyx, None),
            Self::Zcyx => (PageOrder::Zcyx, None),
            Self::Zyx => (PageOrder::Czyx, Some(1)),
        }
    }
}

/// What becomes of pixels that are not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::stages) enum NonFinite {
    /// The file is refused.
    #[default]
    Refuse,
    /// They get the smallest finite value of their channel.
    Mask,
}

/// A channel of a file: by its name or its position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::stages) enum FileChannel {
    Name(String),
    At(usize),
}

/// Names of channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::stages) enum Channels {
    /// All, in the order of the file.
    List(Vec<String>),
    /// Ours, and which of the file's each is.
    Table(BTreeMap<String, FileChannel>),
}

impl Channels {
    /// Our names.
    pub(in crate::stages) fn names(&self) -> Vec<&str> {
        match self {
            Self::List(names) => names.iter().map(String::as_str).collect(),
            Self::Table(table) => table.keys().map(String::as_str).collect(),
        }
    }
}

/// Sides of a voxel in µm, Z, Y, X; those that are not given are as the file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(in crate::stages) struct Sides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub z: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
}

impl Sides {
    pub(in crate::stages) fn all(self) -> [Option<f64>; 3] {
        [self.z, self.y, self.x]
    }
}

/// One of several: by position, by name, or each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(in crate::stages) enum Which {
    At(usize),
    Text(String),
}

impl Which {
    pub(in crate::stages) fn pick(which: Option<&Self>) -> Pick {
        match which {
            None => Pick::Only,
            Some(Self::At(at)) => Pick::At(*at),
            Some(Self::Text(text)) if text == "each" => Pick::Each,
            Some(Self::Text(name)) => Pick::Named(name.clone()),
        }
    }
}

/// Reads a position or a text.
fn position_or_text<'de, D: Deserializer<'de>>(deserializer: D, what: &'static str) -> Result<Which, D::Error> {
    struct Either(&'static str);
    impl Visitor<'_> for Either {
        type Value = Which;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_i64<E: Error>(self, at: i64) -> Result<Which, E> {
            usize::try_from(at).map(Which::At).map_err(|_| E::custom(format!("{at} is no position; they begin with 0")))
        }

        fn visit_u64<E: Error>(self, at: u64) -> Result<Which, E> {
            Ok(Which::At(at as usize))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Which, E> {
            Ok(Which::Text(text.to_owned()))
        }
    }
    deserializer.deserialize_any(Either(what))
}

impl<'de> Deserialize<'de> for Which {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        position_or_text(deserializer, "a position from 0, a name or \"each\"")
    }
}

impl<'de> Deserialize<'de> for FileChannel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match position_or_text(deserializer, "a channel's name in the file or its position from 0")? {
            Which::At(at) => Self::At(at),
            Which::Text(name) => Self::Name(name),
        })
    }
}

impl<'de> Deserialize<'de> for Channels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Channels;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a list of names, or a table such as { membrane = \"CellMask\" }")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Channels, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = list.next_element()? {
                    names.push(name);
                }
                Ok(Channels::List(names))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Channels, A::Error> {
                let mut names = BTreeMap::new();
                while let Some((ours, theirs)) = table.next_entry()? {
                    names.insert(ours, theirs);
                }
                Ok(Channels::Table(names))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Three;
        impl<'de> Visitor<'de> for Three {
            type Value = Sides;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter
                    .write_str("the side of a voxel in µm, its three sides [z, y, x], or some of them: { z = 0.3 }")
            }

            fn visit_f64<E: Error>(self, side: f64) -> Result<Sides, E> {
                Ok(Sides { z: Some(side), y: Some(side), x: Some(side) })
            }

            fn visit_i64<E: Error>(self, side: i64) -> Result<Sides, E> {
                self.visit_f64(side as f64)
            }

            fn visit_u64<E: Error>(self, side: u64) -> Result<Sides, E> {
                self.visit_f64(side as f64)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sides, A::Error> {
                let mut three = [0.0; 3];
                for (index, side) in three.iter_mut().enumerate() {
                    *side = list.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
                }
                if list.next_element::<f64>()?.is_some() {
                    return Err(A::Error::invalid_length(4, &self));
                }
                let [z, y, x] = three.map(Some);
                Ok(Sides { z, y, x })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Sides, A::Error> {
                let mut sides = Sides::default();
                while let Some((axis, side)) = table.next_entry::<String, f64>()? {
                    match axis.as_str() {
                        "z" => sides.z = Some(side),
                        "y" => sides.y = Some(side),
                        "x" => sides.x = Some(side),
                        "xy" | "yx" => (sides.y, sides.x) = (Some(side), Some(side)),
                        other => return Err(A::Error::unknown_field(other, &["z", "y", "x", "xy"])),
                    }
                }
                Ok(sides)
            }
        }
        deserializer.deserialize_any(Three)
    }
}

impl JsonSchema for Which {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Which".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] })
    }
}

impl JsonSchema for Channels {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Channels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "string" } },
                {
                    "type": "object",
                    "additionalProperties": { "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] },
                },
            ],
        })
    }
}

impl JsonSchema for Sides {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sides".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let side = json_schema!({ "type": "number", "exclusiveMinimum": 0 });
        json_schema!({
            "anyOf": [
                side,
                { "type": "array", "items": side, "minItems": 3, "maxItems": 3 },
                {
                    "type": "object",
                    "properties": { "z": side, "y": side, "x": side, "xy": side },
                    "additionalProperties": false,
                },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_in_every_form() {
        let read = |text: &str| toml::from_str::<Params>(text);
        let one = read("channels = ['a', 'b']\nvoxel-size = 0.5\nscene = 1\ntime = 'each'").unwrap();
        assert_eq!(one.channels, Some(Channels::List(vec!["a".into(), "b".into()])));
        assert_eq!(one.voxel_size.unwrap().all(), [Some(0.5); 3]);
        assert_eq!((Which::pick(one.scene.as_ref()), Which::pick(one.time.as_ref())), (Pick::At(1), Pick::Each));
        let two =
            read("channels = { membrane = 'CellMask', dna = 0 }\nvoxel-size = { z = 0.3 }\nscene = 'left'").unwrap();
        let Some(Channels::Table(table)) = &two.channels else { panic!("{:?}", two.channels) };
        assert_eq!((&table["membrane"], &table["dna"]), (&FileChannel::Name("CellMask".into()), &FileChannel::At(0)));
        assert_eq!(two.voxel_size.unwrap().all(), [Some(0.3), None, None]);
        for params in [one, two] {
            let json = serde_json::to_value(&params).unwrap();
            let again: Params = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(&again).unwrap(), json, "normalised parameters come back");
        }
        for wrong in ["scene = -1", "voxel-size = [1, 2]", "voxel-size = { t = 1 }", "channels = 3", "axes = 'yx'"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
