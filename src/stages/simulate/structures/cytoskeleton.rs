//! Centrioles and microtubules.

use super::{Painter, organelles::drug_effect};
use crate::stages::simulate::{
    Drug,
    geometry::{Point, add, direction, dot, perpendicular, random_direction, scale, subtract},
};

pub(super) fn centrioles(painter: &mut Painter) {
    painter.haze(0.05, 0.07);
    for centre in painter.centrosomes() {
        // A pair, at right angles.
        let way = random_direction(painter.rng);
        let bright = 6.0 * libm::exp(0.2 * painter.rng.normal());
        painter.canvas.spot(add(centre, scale(way, 0.25)), 0.17, bright);
        painter.canvas.spot(subtract(centre, scale(way, 0.25)), 0.17, 0.9 * bright);
    }
}

pub(super) fn microtubules(painter: &mut Painter) {
    let effect = if painter.drug == Drug::Paclitaxel { drug_effect(painter) } else { 0.0 };
    if painter.chromosomes().is_some() {
        spindle(painter);
        return;
    }
    painter.haze(0.10 - 0.05 * effect, 0.02);
    if effect > 0.25 {
        bundles(painter, effect);
        return;
    }
    let centrosomes = painter.centrosomes();
    for number in 0..58 + painter.rng.below(28) {
        let centre = centrosomes[number % centrosomes.len()];
        // Most grow from the centrosome; others run free through the cytoplasm.
        let start = if painter.rng.uniform() < 0.6 {
            centre
        } else {
            let Some(point) = painter.in_cytoplasm(0.4, |_, _| 1.0) else { continue };
            point
        };
        let way = random_direction(painter.rng);
        let steps = 14 + painter.rng.below(34);
        let points = painter.path(start, way, steps, 0.35, 0.16, 0.35);
        let bright = 0.55 * libm::exp(0.2 * painter.rng.normal());
        painter.canvas.line(&points, 0.1, bright);
    }
}

/// Paclitaxel: microtubules leave the centrosome and lie side by side in thick bundles around the nucleus.
fn bundles(painter: &mut Painter, effect: f64) {
    for _ in 0..11 + painter.rng.below(6) {
        let Some(start) = painter.in_cytoplasm(0.7, |_, _| 1.0) else { continue };
        let away = painter.nucleus().map_or([1.0, 0.0, 0.0], |nucleus| direction(subtract(start, nucleus.centre)));
        let random = random_direction(painter.rng);
        let around = subtract(random, scale(away, dot(random, away)));
        let steps = 16 + painter.rng.below(16);
        let points = painter.path(start, around, steps, 0.35, 0.04, 0.5);
        let bright = (0.7 + 0.7 * effect) * libm::exp(0.2 * painter.rng.normal());
        painter.canvas.line(&points, 0.24, bright);
    }
}

/// The spindle of a dividing cell; towards the end, what is left of it between the daughters.
fn spindle(painter: &mut Painter) {
    let Some(chromosomes) = painter.chromosomes() else { return };
    let telophase = painter.telophase();
    painter.haze(0.17 - 0.05 * telophase, 0.05);
    let sides = perpendicular(chromosomes.axis);
    let across = |painter: &mut Painter, wide: f64| -> Point {
        let radius = wide * painter.rng.uniform().sqrt();
        let (sine, cosine) = libm::sincos(std::f64::consts::TAU * painter.rng.uniform());
        add(scale(sides[0], radius * cosine), scale(sides[1], radius * sine))
    };
    let sets = chromosomes.sets();
    let bow = |from: Point, to: Point, out: Point| -> Vec<Point> {
        let quarter = |t: f64| {
            let straight = add(from, scale(subtract(to, from), t));
            add(straight, scale(out, libm::sin(std::f64::consts::PI * t)))
        };
        (0..=6).map(|i| quarter(f64::from(i) / 6.0)).collect()
    };
    for (number, pole) in chromosomes.poles.into_iter().enumerate() {
        let target = sets[number % sets.len()];
        for _ in 0..34 {
            let end = add(target, across(painter, 3.6 - telophase));
            let out = scale(subtract(end, target), 0.15);
            painter.canvas.line(&bow(pole, end, out), 0.12, 0.6 * (1.0 - 0.7 * telophase));
        }
        // Astral fibres.
        for _ in 0..16 {
            let outwards = direction(subtract(pole, chromosomes.centre));
            let way = add(scale(outwards, 0.6), random_direction(painter.rng));
            let steps = 5 + painter.rng.below(8);
            let points = painter.path(pole, way, steps, 0.35, 0.08, 0.3);
            painter.canvas.line(&points, 0.1, 0.4);
        }
    }
    if chromosomes.separation > 0.0 {
        // The midzone, drawn together into the midbody by the furrow.
        let waist = 2.6 * (1.0 - 0.85 * telophase);
        let half = scale(chromosomes.axis, chromosomes.separation * (0.5 - 0.12 * telophase));
        for _ in 0..34 {
            let middle = across(painter, waist);
            let widened = scale(middle, 1.0 + 0.4 * telophase);
            let ends = [
                add(subtract(chromosomes.centre, half), widened),
                add(chromosomes.centre, middle),
                add(add(chromosomes.centre, half), widened),
            ];
            painter.canvas.line(&ends, 0.1, 0.5);
        }
        if telophase > 0.3 {
            let core = scale(chromosomes.axis, 0.9);
            let ends = [subtract(chromosomes.centre, core), add(chromosomes.centre, core)];
            painter.canvas.line(&ends, 0.3, 1.6 * telophase);
        }
    }
}
