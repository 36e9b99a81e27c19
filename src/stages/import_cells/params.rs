//! Parameters of `import-cells`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::stages::{
    import_fields::{Axes, Channels},
    voxel_size::VoxelSize,
};

/// How single cells are imported. `docs/manifest.md` describes manifests.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(in crate::stages) struct ImportCellsParams {
    /// Size of each cell's image in voxels: Z, Y, X.
    #[serde(default = "default_size")]
    #[schemars(inner(range(max = 4096)))]
    pub(super) size: [usize; 3],
    /// Side of a voxel of the cells' images in µm.
    #[serde(default = "default_voxel")]
    #[schemars(range(max = 1000.0))]
    pub(super) voxel_size: f64,
    /// Side of a voxel of the files in µm, or its sides: Z, Y, X. By default what the manifest or the files say; aligned
    /// images that say nothing have voxels of `voxel-size`.
    #[serde(default)]
    pub(super) file_voxel_size: Option<VoxelSize>,
    /// Columns of a manifest of your own by our names, where its headers are others: `{ cell_id = "Object", image = "Path" }`. Ours are
    /// `cell_id`, `image`, `mask` (or `cell_mask` and `nucleus_mask`), `label`, `structure`, `stage`, `drug`, `well`, `plate`, `field`,
    /// `voxel_z`, `voxel_y`, `voxel_x`.
    #[serde(default)]
    pub(super) columns: BTreeMap<String, String>,
    /// The channels of the images of a manifest of your own, as `import-fields` takes them; masks in the image are called `cell-mask` and
    /// `nucleus-mask`. Absent: as the images name them.
    #[serde(default)]
    pub(super) channels: Option<Channels>,
    /// The order of the planes of these images, where they do not say it: `czyx`, `zcyx`, `cyx` or `zyx`.
    #[serde(default)]
    pub(super) axes: Option<Axes>,
    /// What the files in the column `mask` hold: `nucleus` and `cell` in their order. Absent: as they name their channels, else in this order.
    #[serde(default)]
    pub(super) mask_channels: Vec<String>,
    /// The order of the planes of the masks, where they do not say it.
    #[serde(default)]
    pub(super) mask_axes: Option<Axes>,
    /// Whether the images of a manifest of your own are aligned already: the cell upright in the middle.
    #[serde(default)]
    pub(super) aligned: bool,
    /// What becomes of rows whose files are missing: `error`, or `skip`, which leaves them out and lists them.
    #[serde(default)]
    pub(super) missing: Missing,
    /// The name of the data set.
    #[serde(default)]
    pub(super) dataset: String,
}

/// What becomes of rows whose files are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::stages) enum Missing {
    /// All are named, and nothing is imported.
    #[default]
    Error,
    /// They are left out, and listed.
    Skip,
}

fn default_size() -> [usize; 3] {
    [64, 160, 96]
}

fn default_voxel() -> f64 {
    0.317
}
