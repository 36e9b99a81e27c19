//! Reads one field.

use serde::{Deserialize, Serialize};

use super::{
    channels::named,
    params::{Axes, Channels, NonFinite, Params, Sides, Which},
};
use crate::{
    image::{
        ImageError, Stack, Unclear,
        io::{self, Asked, Found, Voxel},
    },
    stage::{ItemContext, ItemFiles, ItemWork, StageError},
};

/// The name of the image in the result of an item, and of what is told of it.
pub(super) const IMAGE: &str = "image.ome.tif";
pub(super) const ABOUT: &str = "about.json";

/// Reads the field, or the fields, of one file; or of one file per channel.
#[derive(Serialize, Deserialize)]
pub(super) struct ReadField {
    channels: Option<Channels>,
    axes: Option<Axes>,
    voxel_size: Option<Sides>,
    scene: Option<Which>,
    time: Option<Which>,
    non_finite: NonFinite,
    /// Where each file holds one channel: their names, in the order of the inputs.
    parts: Vec<String>,
}

/// What is told of a field besides its pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct About {
    /// Its channels.
    pub(super) channels: Vec<String>,
    /// Which of the file's images it is, when there are several.
    pub(super) scene: Option<usize>,
    /// Which time point, likewise.
    pub(super) time: Option<usize>,
    /// How many pixels were not finite, and were given another value.
    pub(super) masked: usize,
}

impl ReadField {
    pub(super) fn new(params: &Params, parts: Vec<String>) -> Self {
        Self {
            channels: params.channels.clone(),
            axes: params.axes,
            voxel_size: params.voxel_size,
            scene: params.scene.clone(),
            time: params.time.clone(),
            non_finite: params.non_finite,
            parts,
        }
    }

    /// All images that are asked for in one file.
    fn read(&self, bytes: &[u8]) -> Result<Vec<Found>, StageError> {
        let (order, only) = self.axes.map(Axes::order).unzip();
        let count = match &self.channels {
            _ if !self.parts.is_empty() => Some(1),
            Some(Channels::List(names)) => Some(names.len()),
            _ => None,
        };
        let asked = Asked {
            channels: only.flatten().or(count),
            axes: order,
            scene: Which::pick(self.scene.as_ref()),
            time: Which::pick(self.time.as_ref()),
            labels: false,
        };
        io::read_all(bytes, &asked).map_err(with_help)
    }

    /// Voxels as asked, else as the file says; pixels that are finite.
    fn finish(&self, mut stack: Stack, mut voxel: Voxel, found: About) -> Result<(Vec<u8>, About), StageError> {
        let given = self.voxel_size.unwrap_or_default().all();
        for (side, given) in voxel.um.iter_mut().zip(given) {
            *side = given.or(*side);
        }
        if let Some(missing) = voxel.missing() {
            let unknown: Vec<&str> = ["z", "y", "x"]
                .into_iter()
                .zip(voxel.um)
                .filter(|(_, side)| side.is_none())
                .map(|(axis, _)| axis)
                .collect();
            let example = if unknown.len() == 3 {
                "voxel-size = [0.29, 0.1, 0.1]".to_owned()
            } else {
                let sides: Vec<String> = unknown.iter().map(|axis| format!("{axis} = 0.29")).collect();
                format!("voxel-size = {{ {} }}", sides.join(", "))
            };
            return Err(StageError::bad_input(format!("{missing}: give `voxel-size`"))
                .with_help(format!("in µm, for example `{example}`")));
        }
        stack.voxel_um = voxel.whole();
        let masked = match (stack.non_finite(), self.non_finite) {
            (None, _) => 0,
            (Some(_), NonFinite::Mask) => stack.mask_non_finite()?,
            (Some(told), NonFinite::Refuse) => {
                return Err(StageError::bad_input(told).with_help(
                    "`non-finite = \"mask\"` gives such pixels (the rim of stitched or deskewed images, say) the smallest finite \
                     value of their channel",
                ));
            }
        };
        let about = About { channels: stack.channels.clone(), masked, ..found };
        Ok((io::write(&stack)?, about))
    }
}

/// What to say in the pipeline where a file leaves something open.
fn with_help(error: ImageError) -> StageError {
    let help = match &error {
        ImageError::Unclear(Unclear::Order, _) => {
            "say it: `channels = [\"membrane\", \"dna\"]` with `axes = \"czyx\"` (all planes of the first channel, then of the next) \
             or `axes = \"zcyx\"` (all channels of the first plane, then of the next)"
        }
        ImageError::Unclear(Unclear::Times, _) => {
            "take one, `time = 0`, or each as a field of its own, `time = \"each\"`; where planes were saved as time points, give \
             `channels` and `axes`"
        }
        ImageError::Unclear(Unclear::Scenes, _) => {
            "take one, `scene = 0` or `scene = \"its name\"`, or each as a field of its own, `scene = \"each\"`"
        }
        _ => return error.into(),
    };
    StageError::from(error).with_help(help)
}

/// One image with its channels named as asked; its voxels as it says.
pub(in crate::stages) fn image(
    bytes: &[u8],
    channels: Option<&Channels>,
    axes: Option<Axes>,
) -> Result<Stack, StageError> {
    let (order, only) = axes.map(Axes::order).unzip();
    let count = match channels {
        Some(Channels::List(names)) => Some(names.len()),
        _ => None,
    };
    let asked = Asked { channels: only.flatten().or(count), axes: order, ..Asked::default() };
    Ok(named(io::read_one(bytes, &asked).map_err(with_help)?, channels)?)
}

impl ItemWork for ReadField {
    type Item = ();
    type Shared = ();
    const UNIT: &'static str = "files";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), (): (), inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let mut files = ItemFiles::new();
        let mut keep = |(image, about): (Vec<u8>, About)| {
            let at = files.len() / 2;
            files.push((format!("{at:06}/{ABOUT}"), serde_json::to_vec(&about).expect("plain data")));
            files.push((format!("{at:06}/{IMAGE}"), image));
        };
        if self.parts.is_empty() {
            for found in self.read(&inputs.bytes(0)?)? {
                inputs.check()?;
                let about = About { channels: Vec::new(), scene: found.scene, time: found.time, masked: 0 };
                let voxel = found.voxel.clone();
                keep(self.finish(named(found, self.channels.as_ref())?, voxel, about)?);
            }
            return Ok(files);
        }
        let mut parts: Vec<Vec<Found>> = Vec::new();
        for (input, name) in self.parts.iter().enumerate() {
            inputs.check()?;
            let mut found = self.read(&inputs.bytes(input)?)?;
            for one in &mut found {
                let count = one.stack.channels.len();
                if count != 1 {
                    let message = format!("the file of channel `{name}` holds {count} channels");
                    return Err(StageError::bad_input(message)
                        .with_help("where one file holds all channels, give `files` as a list"));
                }
                one.stack.channels[0].clone_from(name);
            }
            if let Some(first) = parts.first()
                && first.len() != found.len()
            {
                let (first, own) = (first.len(), found.len());
                return Err(StageError::bad_input(format!(
                    "channel `{name}` holds {own} fields, the first channel {first}"
                )));
            }
            parts.push(found);
        }
        for at in 0..parts[0].len() {
            let of_field: Vec<&Found> = parts.iter().map(|part| &part[at]).collect();
            let mut voxel = of_field[0].voxel.clone();
            for (other, name) in of_field.iter().zip(&self.parts) {
                for axis in 0..3 {
                    let given = self.voxel_size.is_some_and(|sides| sides.all()[axis].is_some());
                    match (voxel.um[axis], other.voxel.um[axis]) {
                        (None, Some(um)) => voxel.um[axis] = Some(um),
                        (Some(first), Some(um)) if !given && (first - um).abs() > 1e-6 * first => {
                            let axis = ["z", "y", "x"][axis];
                            let message = format!(
                                "the files of one field say different sizes of a voxel in {axis}: {first} µm, and {um} µm for `{name}`"
                            );
                            return Err(StageError::bad_input(message).with_help("give `voxel-size`"));
                        }
                        _ => {}
                    }
                }
            }
            let about = About { channels: Vec::new(), scene: of_field[0].scene, time: of_field[0].time, masked: 0 };
            let stack = Stack::joined(of_field.into_iter().map(|found| found.stack.clone()).collect())?;
            keep(self.finish(stack, voxel, about)?);
        }
        Ok(files)
    }
}
