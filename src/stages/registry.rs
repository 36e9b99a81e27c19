//! All stage kinds.

use super::{
    command, compare, controls, correlate, coupling, embed, evaluate, features, import_cells, import_fields,
    latent_walk, normalize, outliers, pca_regression, perturbation, project, reconstruct, report, sample,
    segment_align, select, simulate, split, train, weights,
};
use crate::stage::{AnyStage, erased};

/// All stage kinds, in the order in which a pipeline uses them.
static REGISTRY: &[&dyn AnyStage] = &[
    erased::<import_fields::ImportFields>(),
    erased::<import_cells::ImportCells>(),
    erased::<segment_align::SegmentAlign>(),
    erased::<simulate::Simulate>(),
    erased::<evaluate::Evaluate>(),
    erased::<normalize::Normalize>(),
    erased::<project::Project>(),
    erased::<controls::Controls>(),
    erased::<select::Select>(),
    erased::<split::Split>(),
    erased::<train::TrainReference>(),
    erased::<train::TrainTarget>(),
    erased::<weights::Weights>(),
    erased::<embed::Embed>(),
    erased::<outliers::Outliers>(),
    erased::<reconstruct::Reconstruct>(),
    erased::<sample::Sample>(),
    erased::<latent_walk::LatentWalk>(),
    erased::<features::Features>(),
    erased::<compare::Compare>(),
    erased::<pca_regression::PcaRegression>(),
    erased::<correlate::Correlate>(),
    erased::<coupling::Coupling>(),
    erased::<perturbation::Perturbation>(),
    erased::<report::Report>(),
    erased::<command::Command>(),
];

/// All stage kinds, in the order in which a pipeline uses them.
#[must_use]
pub fn registry() -> &'static [&'static dyn AnyStage] {
    REGISTRY
}

/// The stage kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn AnyStage> {
    REGISTRY.iter().copied().find(|kind| kind.name() == name)
}
