//! The size of a voxel as people write it: one number, or one for each axis.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Visitor},
};

/// Sides of a voxel in µm: Z, Y, X. One number stands for all three, so `0.317` and `[0.317, 0.317, 0.317]` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct VoxelSize(pub(super) [f64; 3]);

impl<'de> Deserialize<'de> for VoxelSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sides;
        impl<'de> Visitor<'de> for Sides {
            type Value = VoxelSize;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("the side of a voxel in µm, or its three sides [z, y, x]")
            }

            fn visit_f64<E: Error>(self, side: f64) -> Result<VoxelSize, E> {
                Ok(VoxelSize([side; 3]))
            }

            fn visit_i64<E: Error>(self, side: i64) -> Result<VoxelSize, E> {
                Ok(VoxelSize([side as f64; 3]))
            }

            fn visit_u64<E: Error>(self, side: u64) -> Result<VoxelSize, E> {
                Ok(VoxelSize([side as f64; 3]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sides: A) -> Result<VoxelSize, A::Error> {
                let mut three = [0.0; 3];
                for (index, side) in three.iter_mut().enumerate() {
                    *side = sides.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self))?;
                }
                match sides.next_element::<f64>()? {
                    None => Ok(VoxelSize(three)),
                    Some(_) => Err(A::Error::invalid_length(4, &self)),
                }
            }
        }
        deserializer.deserialize_any(Sides)
    }
}

impl JsonSchema for VoxelSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VoxelSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "side of a voxel in µm, or its sides: z, y, x",
            "anyOf": [
                { "type": "number", "maximum": 1e6 },
                { "type": "array", "items": { "type": "number", "maximum": 1e6 }, "minItems": 3, "maxItems": 3 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_or_three() {
        let read = |text: &str| serde_json::from_str::<VoxelSize>(text);
        assert_eq!(read("0.5").unwrap(), read("[0.5, 0.5, 0.5]").unwrap());
        assert_eq!(read("1").unwrap().0, [1.0; 3]);
        assert!(read("[1, 2]").is_err() && read("[1, 2, 3, 4]").is_err() && read("\"x\"").is_err());
        let again = serde_json::to_string(&read("0.5").unwrap()).unwrap();
        assert_eq!(read(&again).unwrap().0, [0.5; 3]);
    }
}
