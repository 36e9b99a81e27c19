//! Cuts one cell out of its files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::manifest::{Form, Holds, Positions};
use crate::{
    artifact::{CellImage, CellsDescription},
    image::{
        Frame, ImageError, Pixels, Pose, Stack, Unclear, Volume, align_linear, align_mask,
        io::{self, Asked, PageOrder},
        regions,
    },
    stage::{ItemContext, ItemFiles, ItemWork, StageError},
    stages::{
        import_fields::{self, Axes, Channels},
        voxel_size::VoxelSize,
    },
};

pub(super) const IMAGE: &str = "image.ome.tif";
pub(super) const REASON: &str = "reason.txt";

/// Cuts one cell out of its files.
#[derive(Serialize, Deserialize)]
pub(super) struct CutCell {
    pub(super) form: Form,
    pub(super) columns: BTreeMap<String, String>,
    pub(super) channels: Option<Channels>,
    pub(super) axes: Option<Axes>,
    pub(super) mask_channels: Vec<String>,
    pub(super) mask_axes: Option<Axes>,
    pub(super) aligned: bool,
    pub(super) file_voxel_size: Option<VoxelSize>,
    /// What the cells' images are like.
    pub(super) description: CellsDescription,
}

/// What the manifest says of a cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CellToCut {
    pub(super) holds: Vec<Holds>,
    pub(super) positions: Positions,
    pub(super) label: Option<u32>,
    pub(super) scale: Option<[f64; 3]>,
}

impl ItemWork for CutCell {
    type Item = CellToCut;
    type Shared = ();
    const UNIT: &'static str = "cells";

    fn open(&self, _: &ItemContext) -> Result<(), StageError> {
        Ok(())
    }

    fn run(&self, (): &(), cell: CellToCut, inputs: &ItemContext) -> Result<ItemFiles, StageError> {
        let parts = if self.form == Form::Own { self.own(&cell, inputs)? } else { self.published(&cell, inputs)? };
        Ok(match self.cut(&cell, parts)? {
            Ok(image) => vec![(IMAGE.to_owned(), image.encode(&self.description)?)],
            Err(reason) => vec![(REASON.to_owned(), reason.into_bytes())],
        })
    }
}

/// A cell before it is aligned.
struct Parts {
    /// In the order of the description's channels.
    channels: Vec<Volume<f32>>,
    /// 1 inside, else 0.
    cell: Volume<u32>,
    nucleus: Volume<u32>,
    voxel_um: Option<[f64; 3]>,
}

/// Gives planes without channel names the `count` channels that the manifest speaks of: CZYX.
fn with_channels(bytes: &[u8], count: usize) -> Result<Stack, ImageError> {
    let stack = match io::read(bytes) {
        Err(ImageError::Unclear(Unclear::Order, _)) => {
            let asked = Asked { channels: Some(count), axes: Some(PageOrder::Czyx), ..Asked::default() };
            io::read_one(bytes, &asked)?.stack
        }
        other => other?,
    };
    let mut stack = stack;
    if stack.channels.len() == 1 && count > 1 {
        if !stack.size[0].is_multiple_of(count) {
            return Err(ImageError::Shape(format!("{} planes for {count} channels", stack.size[0])));
        }
        stack.size[0] /= count;
        stack.channels = (0..count).map(|channel| channel.to_string()).collect();
    }
    if stack.channels.len() < count {
        return Err(ImageError::Shape(format!(
            "{} channels, and the manifest speaks of {count}",
            stack.channels.len()
        )));
    }
    Ok(stack)
}

fn finite(stack: &Stack) -> Result<(), ImageError> {
    match stack.non_finite() {
        Some(told) => Err(ImageError::Shape(told)),
        None => Ok(()),
    }
}

fn inside(labels: &Volume<u32>, label: Option<u32>) -> Volume<u32> {
    labels.map(|&value| u32::from(label.map_or(value != 0, |label| value == label)))
}

impl CutCell {
    /// A cell of the Institute's sets.
    fn published(&self, cell: &CellToCut, inputs: &ItemContext) -> Result<Parts, StageError> {
        let read = |(input, &count): (usize, &usize)| Ok::<_, StageError>(with_channels(&inputs.bytes(input)?, count)?);
        let stacks = cell.positions.counts.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let (raw, masks) = (&stacks[0], &stacks[stacks.len() - 1]);
        if raw.size != masks.size {
            let message = format!("the crop is {:?}, its segmentation {:?}", raw.size, masks.size);
            return Err(ImageError::Shape(message).into());
        }
        finite(raw)?;
        let full_scale = match (self.form, &raw.pixels) {
            (Form::Crops, _) => 1.0,
            (_, Pixels::U8(_)) => 255.0,
            (_, Pixels::U16(_)) => 65_535.0,
            _ => {
                let message = "aligned images must be 8 or 16 bit, with intensities over the whole range";
                return Err(ImageError::Shape(message.to_owned()).into());
            }
        };
        let structure = cell.positions.structure.filter(|_| self.description.channels.len() == 3);
        let positions = [Some(cell.positions.membrane), Some(cell.positions.dna), structure];
        let channel = |position| raw.channel_f32(position).map(|&value| value / full_scale);
        Ok(Parts {
            channels: positions.into_iter().flatten().map(channel).collect(),
            cell: inside(&masks.channel_u32(cell.positions.cell_mask)?, None),
            nucleus: inside(&masks.channel_u32(cell.positions.nucleus_mask)?, None),
            voxel_um: raw.voxel_um,
        })
    }

    /// A cell of a manifest of one's own.
    fn own(&self, cell: &CellToCut, inputs: &ItemContext) -> Result<Parts, StageError> {
        let (mut masks, mut image) = ([None, None], None);
        for (input, holds) in cell.holds.iter().enumerate() {
            let bytes = inputs.bytes(input)?;
            if *holds == Holds::Image {
                image = Some(import_fields::image(&bytes, self.channels.as_ref(), self.axes)?);
                continue;
            }
            let size = image.as_ref().map(|image: &Stack| image.size).expect("the image stands first");
            let names: Vec<String> = match holds {
                Holds::Cell => vec!["cell".to_owned()],
                Holds::Nucleus => vec!["nucleus".to_owned()],
                _ => self.mask_channels.clone(),
            };
            let (nucleus, body) = import_fields::masks(&bytes, &names, self.mask_axes, size)?;
            masks = [nucleus.or(masks[0].take()), body.or(masks[1].take())];
        }
        let image = image.expect("every row names an image");
        finite(&image)?;
        let of_image = |name: &str| image.position(name).ok().map(|at| image.channel_u32(at)).transpose();
        if cell.holds == [Holds::Image] {
            masks = [of_image("nucleus-mask")?, of_image("cell-mask")?];
        }
        let [Some(nucleus), Some(body)] = masks else {
            return Err(StageError::bad_input("it has no masks of both cell and nucleus").with_help(
                "name their files in the columns `mask`, or `cell_mask` and `nucleus_mask`; or, where the image holds them, by `channels = \
                 { cell-mask = 3, nucleus-mask = 4 }`",
            ));
        };
        if cell.label.is_none() {
            let mut values: Vec<u32> = body.data.iter().copied().filter(|&value| value != 0).collect();
            values.sort_unstable();
            values.dedup();
            if values.len() > 1 {
                let message = format!("its mask holds {} cells, and no column `label` says which it is", values.len());
                return Err(StageError::bad_input(message));
            }
        }
        let cell_mask = inside(&body, cell.label);
        // Nuclei may be numbered in their own way: then all that lies in the cell is its nucleus.
        let same = cell
            .label
            .is_some_and(|label| nucleus.data.iter().zip(&cell_mask.data).any(|(&n, &c)| n == label && c != 0));
        let nucleus = inside(&nucleus, cell.label.filter(|_| same));
        let nucleus = nucleus.data.iter().zip(&cell_mask.data).map(|(&nucleus, &cell)| nucleus & cell).collect();
        let channels = self.description.channels.iter().map(|name| Ok(image.channel_f32(image.position(name)?)));
        Ok(Parts {
            channels: channels.collect::<Result<_, ImageError>>()?,
            nucleus: Volume::new(cell_mask.size, nucleus),
            cell: cell_mask,
            voxel_um: image.voxel_um,
        })
    }

    /// The aligned image of a cell; `Ok(Err(reason))`: the cell must be left out.
    fn cut(&self, row: &CellToCut, parts: Parts) -> Result<Result<CellImage, String>, StageError> {
        let Parts { channels, cell, nucleus, voxel_um } = parts;
        let aligned = self.form == Form::Aligned || self.aligned;
        let own = self.file_voxel_size.map(|size| size.0).or(row.scale).or(voxel_um);
        let voxel_um = match own {
            Some(own) => own,
            None if aligned => self.description.voxel_um,
            None => {
                let message = "neither the manifest nor the file says the size of a voxel";
                return Err(
                    StageError::bad_input(message).with_help("give `file-voxel-size`, in µm: a number, or [z, y, x]")
                );
            }
        };
        let region = |mask: &Volume<u32>| regions(mask, 1).swap_remove(0);
        let (Some(body), Some(core)) = (region(&cell), region(&nucleus)) else {
            return Ok(Err("its mask of the cell or of the nucleus is empty".to_owned()));
        };
        let pose = if aligned {
            let middle = [0, 1, 2].map(|axis| (cell.size[axis] as f64 - 1.0) / 2.0 * voxel_um[axis]);
            Pose { centre_um: middle, angle: 0.0, flip: [false; 2] }
        } else {
            Pose::of(&cell, 1, &body, &core, voxel_um)
        };
        let frame = Frame { size: self.description.size, voxel_um: self.description.voxel_um };
        let extent = pose.extent(&cell, 1, &body, voxel_um, &frame);
        if (0..3).any(|axis| extent[axis] > frame.size[axis] + 1) {
            return Ok(Err(format!("it needs {extent:?} voxels (z, y, x), and `size` is {:?}", frame.size)));
        }
        let channels =
            channels.iter().map(|channel| align_linear(channel, voxel_um, pose, &frame)).collect::<Result<_, _>>()?;
        Ok(Ok(CellImage {
            channels,
            cell: align_mask(&cell, 1, voxel_um, pose, &frame),
            nucleus: align_mask(&nucleus, 1, voxel_um, pose, &frame),
        }))
    }
}
