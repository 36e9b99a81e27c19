//! Plots: charts of lines, points, bars, violins and heat maps, as SVG and PNG in one style.
//!
//! A [`Chart`] has two axes and layers of marks; [`pictures`] draws one or several of them. The bytes depend on the numbers and
//! texts alone.
//!
//! ```
//! use statcell::figures::plot::{Axis, Chart, pictures};
//!
//! let training = [[1.0, -900.0], [2.0, -700.0], [3.0, -650.0]];
//! let chart = Chart::new(Axis::linear("epoch"), Axis::linear("ELBO per cell (nats)")).line("training", &training);
//! let pictures = pictures(&[chart], 1);
//! assert_eq!(pictures[0].0, "svg");
//! ```

mod axis;
mod canvas;
mod chart;
mod colour;
mod violin;

pub use axis::Axis;
pub(super) use axis::short_number;
pub use chart::{Chart, Pictures, pictures};
pub use colour::{Colour, ColourMap, GREY, PALETTE};

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(phase: f64) -> Vec<[f64; 2]> {
        (1..=30)
            .map(|i| [f64::from(i), -400.0 - 900.0 / f64::from(i) + 9.0 * libm::sin(f64::from(i) + phase)])
            .collect()
    }

    fn cloud(count: usize, seed: f64) -> Vec<[f64; 2]> {
        (0..count)
            .map(|i| {
                let a = libm::sin(i as f64 * 12.9898 + seed) * 43758.5453;
                let b = libm::sin(i as f64 * 78.233 + seed) * 12543.123;
                [(a - a.floor() - 0.5) * 4.0 + seed, (b - b.floor() - 0.5) * 3.0]
            })
            .collect()
    }

    fn gallery() -> Vec<(&'static str, Pictures)> {
        let epochs = || Axis::linear("epoch");
        let learning = Chart::new(epochs(), Axis::linear("ELBO per cell (nats)"))
            .line("training", &wave(0.0))
            .line("validation", &wave(2.0))
            .reference("kept model", &[[24.0, -2000.0], [24.0, 0.0]]);
        let categories: Chart =
            ["interphase", "prophase", "early prometaphase", "anaphase", "e", "f", "g", "h", "ninth"]
                .iter()
                .enumerate()
                .fold(
                    Chart::new(Axis::linear("latent dimension 17"), Axis::linear("latent dimension 4"))
                        .area(300.0, 300.0),
                    |chart, (i, name)| chart.points(*name, &cloud(40, i as f64 * 0.7)),
                );
        let points = cloud(300, 0.0);
        let values: Vec<f64> = points.iter().map(|p| 6.0 + p[0] + p[1]).collect();
        let graded = Chart::new(Axis::linear("latent dimension 17"), Axis::linear("latent dimension 4"))
            .area(300.0, 300.0)
            .title("cell height")
            .graded_points("cell height\n(µm)", &points, &values);
        let betas: Vec<f64> = (0..5).map(|i| f64::from(i) / 4.0).collect();
        let curve: Vec<[f64; 2]> =
            betas.iter().map(|b| [300.0 * (1.0 - b).powi(2) + 3.0, 500.0 + 900.0 * b * b]).collect();
        let rate =
            Chart::new(Axis::linear("rate: KL (nats per cell)"), Axis::linear("distortion: squared error per cell"))
                .reference("rate + distortion = best", &[[0.0, 700.0], [700.0, 0.0]])
                .graded_curve("β", &curve, &betas)
                .labels(&curve, betas.iter().map(|b| format!("β = {b}")));
        let spectrum: Vec<[f64; 2]> = (1..=32).map(|i| [f64::from(i), 9.0 * libm::exp(-0.2 * f64::from(i))]).collect();
        let bars = Chart::new(Axis::linear("rank"), Axis::linear("mean KL (nats)"))
            .bars("", &spectrum)
            .reference("threshold 0.6", &[[-10.0, 0.6], [99.0, 0.6]]);
        let violins: Vec<Chart> = ["area", "circumference", "sphericity"]
            .iter()
            .map(|name| {
                let spread =
                    |shift: f64| cloud(200, shift).iter().map(|p| 1200.0 + 300.0 * (p[0] + p[1])).collect::<Vec<_>>();
                Chart::new(
                    Axis::categories("", ["real field", "Golgi", "nucleoli"]),
                    Axis::linear(format!("{name} (voxels)")),
                )
                .area(200.0, 150.0)
                .title(*name)
                .violins("observed", vec![spread(0.0), spread(0.5), vec![700.0, 900.0]])
                .violins("generated", vec![spread(0.8), spread(0.1), vec![]])
            })
            .collect();
        let names: Vec<String> = (0..8).map(|i| format!("nucleus feature {i}")).collect();
        let heat: Vec<f64> = (0..64).map(|i| libm::sin(f64::from(i) * 0.7)).collect();
        let map = Chart::new(Axis::categories("", names.clone()), Axis::categories("", names)).heat_map(
            "Pearson r",
            8,
            8,
            &heat,
            ColourMap::Diverging,
        );
        let empty = Chart::new(Axis::linear("rate"), Axis::log("KL")).line("", &[]);
        vec![
            ("lines", pictures(&[learning], 1)),
            ("scatter", pictures(&[categories, graded], 2)),
            ("rate", pictures(&[rate, bars], 2)),
            ("violins", pictures(&violins, 2)),
            ("heat", pictures(&[map], 1)),
            ("empty", pictures(&[empty], 1)),
        ]
    }

    #[test]
    fn the_same_numbers_give_the_same_bytes() {
        let (first, second) = (gallery(), gallery());
        assert_eq!(first, second);
        for (name, pictures) in first {
            assert_eq!(
                pictures.iter().map(|(suffix, _)| suffix.as_str()).collect::<Vec<_>>(),
                ["svg", "png"],
                "{name}"
            );
            let svg = String::from_utf8(pictures[0].1.clone()).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
        }
    }

    /// Writes the gallery for people to look at: `STATCELL_LOOK=folder cargo test --lib plot -- --ignored`.
    #[test]
    #[ignore = "for looking at"]
    #[expect(clippy::disallowed_methods, reason = "no part of the program")]
    fn look() {
        let folder = std::env::var("STATCELL_LOOK").expect("a folder in STATCELL_LOOK");
        for (name, pictures) in gallery() {
            for (suffix, bytes) in pictures {
                std::fs::write(format!("{folder}/{name}.{suffix}"), bytes).unwrap();
            }
        }
    }
}
