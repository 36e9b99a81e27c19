//! Organelles of the cytoplasm.

use super::{Painter, THIN_UM, sheet};
use crate::stages::simulate::{
    Drug,
    geometry::{Noise, Point, add, direction, dot, length, random_direction, scale, smooth_step, subtract},
};

pub(super) fn mitochondria(painter: &mut Painter) {
    painter.haze(0.03, 0.01);
    let mitotic = painter.chromosomes().is_some();
    // A dense network around the nucleus, sparser outwards; short pieces in mitosis.
    let volume = painter.specimen.traits.volume;
    let count = ((if mitotic { 170.0 } else { 85.0 }) * volume / 2000.0) as usize;
    for _ in 0..count {
        let near = move |_: Point, from_nucleus: f64| {
            if mitotic { smooth_step(0.5, 2.5, from_nucleus) } else { 0.15 + 0.85 * libm::exp(-from_nucleus / 3.0) }
        };
        let Some(start) = painter.in_cytoplasm(0.45, near) else { continue };
        let way = random_direction(painter.rng);
        let steps = if mitotic { 2 + painter.rng.below(3) } else { 6 + painter.rng.below(22) };
        let points = painter.path(start, [0.6 * way[0], way[1], way[2]], steps, 0.3, 0.45, 0.45);
        let bright = 0.9 * libm::exp(0.2 * painter.rng.normal());
        painter.canvas.line(&points, 0.19, bright);
    }
}

pub(super) fn golgi(painter: &mut Painter) {
    let effect = if painter.drug == Drug::Brefeldin { drug_effect(painter) } else { 0.0 };
    painter.haze(0.035 + 0.22 * effect, 0.015 + 0.01 * effect);
    if painter.chromosomes().is_some() || effect > 0.25 {
        // Scattered: dots all over the cytoplasm.
        let dots = if effect > 0.25 { 40.0 + 60.0 * painter.rng.uniform() } else { 70.0 };
        let bright = if effect > 0.25 { 1.1 - 0.6 * effect } else { 0.7 };
        painter.vesicles(dots as usize, 0.17, bright, |_, _| 1.0);
        return;
    }
    let Some(nucleus) = painter.nucleus() else { return };
    // A ribbon of stacks beside the centrosome, wrapped around part of the nucleus.
    let centre = painter.centrosomes()[0];
    let side = direction(subtract(centre, nucleus.centre));
    let spread = 0.45 + 0.35 * painter.rng.uniform();
    for _ in 0..26 + painter.rng.below(14) {
        let way = add(side, scale(random_direction(painter.rng), spread * painter.rng.uniform().sqrt()));
        let surface = nucleus.envelope(way, &painter.specimen.cell);
        let start = add(surface, scale(direction(way), 0.6 + 1.3 * painter.rng.uniform()));
        if painter.specimen.place(start).inside < 0.4 {
            continue;
        }
        // Cisternae run along the nucleus.
        let along = random_direction(painter.rng);
        let outwards = direction(way);
        let tangent = subtract(along, scale(outwards, dot(along, outwards)));
        let steps = 5 + painter.rng.below(7);
        let points = painter.path(start, tangent, steps, 0.25, 0.35, 0.4);
        let near: Vec<Point> = points.into_iter().filter(|point| length(subtract(*point, centre)) < 5.5).collect();
        let bright = 1.0 + 0.5 * painter.rng.uniform();
        painter.canvas.line(&near, 0.17, bright);
    }
    painter.vesicles(8, 0.14, 0.6, |_, from_nucleus| libm::exp(-from_nucleus / 1.5));
}

/// How strongly a drug acts in this cell, in [0, 1]: some cells escape it.
pub(super) fn drug_effect(painter: &mut Painter) -> f64 {
    let chance = painter.rng.uniform();
    if chance < 0.15 { 0.0 } else { 0.55 + 0.45 * painter.rng.uniform() }
}

pub(super) fn endoplasmic_reticulum(painter: &mut Painter) {
    let voxel = painter.frame.voxel_um.iter().copied().fold(0.0, f64::max);
    let mesh = Noise::new(painter.rng, 1.7);
    let patches = Noise::new(painter.rng, 5.0);
    let points = painter.frame.map(|point| point);
    let spindle = painter.chromosomes().map(|c| (c.centre, 0.5 * length(subtract(c.poles[1], c.poles[0])) + 0.8));
    let envelope = if spindle.is_some() { painter.telophase() } else { 1.0 };
    painter.fill(|index, here| {
        let point = points[index];
        let threads = (1.0 - mesh.at(point).abs() * 1.6).max(0.0).powi(3);
        // Denser around the nucleus; pushed out of the spindle in mitosis.
        let dense = match spindle {
            None => 0.45 + 0.55 * smooth_step(-4.5, -0.3, here.nuclear),
            Some((centre, radius)) => 0.25 + 0.75 * smooth_step(0.75, 1.15, length(subtract(point, centre)) / radius),
        };
        let body = here.cytoplasm() * smooth_step(0.0, 0.5, here.inside) * dense * (1.0 + 0.25 * patches.at(point));
        body * (0.22 + 0.6 * threads) + envelope * 0.8 * sheet(here.nuclear + 0.05, THIN_UM, voxel)
    });
}

pub(super) fn lysosomes(painter: &mut Painter) {
    painter.haze(0.05, 0.015);
    let count = 26 + painter.rng.below(36);
    for _ in 0..count {
        let Some(point) = painter.in_cytoplasm(0.5, |_, from| 0.1 + 0.9 * libm::exp(-from / 2.2)) else { continue };
        let radius = 0.22 + 0.22 * painter.rng.uniform();
        let bright = 0.9 * libm::exp(0.35 * painter.rng.normal());
        // LAMP1 is in the vesicle's membrane: several dim spots around make a small hollow body.
        for _ in 0..7 {
            painter.canvas.spot(add(point, scale(random_direction(painter.rng), radius)), 0.14, 0.55 * bright);
        }
    }
}

pub(super) fn peroxisomes(painter: &mut Painter) {
    painter.haze(0.025, 0.01);
    let count = ((70 + painter.rng.below(70)) as f64 * painter.specimen.traits.volume / 2000.0) as usize;
    painter.vesicles(count, 0.14, 1.0, |_, from| 0.5 + 0.5 * libm::exp(-from / 4.0));
}

pub(super) fn endosomes(painter: &mut Painter) {
    painter.haze(0.14, 0.05);
    let count = 45 + painter.rng.below(50);
    painter.vesicles(count, 0.15, 0.8, |_, from| smooth_step(-0.5, 3.0, from));
    painter.vesicles(8, 0.26, 0.9, |_, _| 1.0);
}
