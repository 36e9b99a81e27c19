//! Structures of the nucleus.

use super::{Painter, THIN_UM, sheet};
use crate::stages::simulate::geometry::{Noise, Point, add, dot, random_direction, scale, smooth_step, subtract};

pub(super) fn nuclear_envelope(painter: &mut Painter) {
    let voxel = painter.frame.voxel_um.iter().copied().fold(0.0, f64::max);
    let noise = Noise::new(painter.rng, 2.5);
    let points = painter.frame.map(|point| point);
    if let Some(nucleus) = painter.nucleus() {
        // In late prophase the lamina thins out.
        let strength = 1.7 * (1.0 - 0.35 * nucleus.condensation);
        painter.fill(|index, here| {
            let uneven = 1.0 + 0.2 * noise.at(points[index]);
            strength * uneven * sheet(here.nuclear, THIN_UM, voxel)
        });
        painter.haze(0.02, 0.17);
        if painter.rng.uniform() < 0.35 {
            fold(painter);
        }
        return;
    }
    // Lamins are dissolved in the cytoplasm; in telophase they gather around the two new nuclei.
    let gathered = painter.telophase();
    painter.haze(0.22 * (1.0 - 0.7 * gathered), 0.12);
    if gathered > 0.0 {
        painter.fill(|index, here| {
            gathered * (1.0 + 0.3 * noise.at(points[index])) * sheet(here.nuclear + 0.45, 0.2, voxel)
        });
    }
}

/// A fold of the envelope: a sheet part of the way across the nucleus.
fn fold(painter: &mut Painter) {
    let Some(nucleus) = painter.nucleus() else { return };
    let way = random_direction(painter.rng);
    let start = nucleus.envelope(way, &painter.specimen.cell);
    let end = add(start, scale(subtract(nucleus.centre, start), 0.5 + 0.3 * painter.rng.uniform()));
    painter.canvas.line(&[start, end], 0.16, 1.2);
}

pub(super) fn nucleoli_gc(painter: &mut Painter) {
    let points = painter.frame.map(|point| point);
    if let Some(nucleus) = painter.nucleus() {
        let strength = 1.0 - 0.8 * nucleus.condensation;
        let noise = Noise::new(painter.rng, 0.9);
        painter.fill(|index, here| {
            if here.nuclear < 0.0 {
                return 0.0;
            }
            let depth = nucleus.inside_nucleolus(points[index]);
            // Dimmer cores, where the fibrillar centres are.
            strength
                * smooth_step(-0.15, 0.2, depth)
                * (1.0 - 0.25 * smooth_step(0.5, 1.2, depth) + 0.15 * noise.at(points[index]))
        });
        painter.haze(0.02, 0.13 + 0.2 * nucleus.condensation);
        return;
    }
    // Dispersed through the cell, some of it on the chromosomes' surface; back in telophase.
    let back = painter.telophase();
    painter.haze(0.25 * (1.0 - 0.5 * back), 0.2);
    painter.fill(|_, here| 0.28 * libm::exp(-0.5 * ((here.nuclear + 0.1) / 0.25).powi(2)));
    bodies_in_new_nuclei(painter, 5, 0.4, 0.8 * back);
}

pub(super) fn nucleoli_dfc(painter: &mut Painter) {
    if let Some(nucleus) = painter.nucleus() {
        let strength = 1.0 - 0.6 * nucleus.condensation;
        for nucleolus in &nucleus.nucleoli {
            let count = ((2.2 * nucleolus.radius.powi(2)) as usize + 1 + painter.rng.below(3)).min(12);
            for _ in 0..count {
                let reach = nucleolus.radius * 0.75 * libm::cbrt(painter.rng.uniform());
                let point = add(nucleolus.centre, scale(random_direction(painter.rng), reach));
                let sigma = 0.2 + 0.14 * painter.rng.uniform();
                let bright = strength * (0.75 + 0.5 * painter.rng.uniform());
                painter.canvas.spot(point, sigma, bright);
            }
        }
        painter.haze(0.015, 0.06);
        return;
    }
    // Fibrillarin covers the chromosomes, and gathers in small bodies in telophase.
    let back = painter.telophase();
    painter.haze(0.07, 0.07);
    painter.fill(|_, here| 0.35 * (1.0 - 0.6 * back) * libm::exp(-0.5 * ((here.nuclear + 0.05) / 0.22).powi(2)));
    bodies_in_new_nuclei(painter, 7, 0.22, 0.9 * back);
}

/// Small round bodies in the two nuclei of telophase.
fn bodies_in_new_nuclei(painter: &mut Painter, count: usize, sigma: f64, brightness: f64) {
    let Some(chromosomes) = painter.chromosomes().filter(|_| brightness > 0.05) else { return };
    for centre in chromosomes.sets() {
        for _ in 0..count {
            let offset: Point = scale(random_direction(painter.rng), 1.9 * libm::cbrt(painter.rng.uniform()));
            let flat = subtract(offset, scale(chromosomes.axis, 0.6 * dot(offset, chromosomes.axis)));
            painter.canvas.spot(add(centre, flat), sigma, brightness);
        }
    }
}
