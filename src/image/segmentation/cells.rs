//! Cells by the seeded watershed of the membrane.

use rayon::prelude::*;

use crate::image::{
    Connectivity, Volume, coarse::Grid, components, distance_within, gaussian, label_counts, median, sheets, watershed,
};
use crate::simd;

/// How cells are found. Lengths in µm.
#[derive(Clone, Copy, Debug)]
pub struct CellsParams {
    /// Radius of the median filter.
    pub median_um: f64,
    /// Scale of the membrane: about half its apparent thickness.
    pub membrane_um: f64,
    /// Reach, in the plane and across planes, of the membrane's local brightness.
    pub reach_um: [f64; 2],
    /// A wall is where the normalised membrane is above this.
    pub wall: f32,
    /// Smaller pieces of wall are vesicles, µm³.
    pub vesicle_um3: f64,
    /// A gap in a wall is closed up to this radius.
    pub gap_um: f32,
    /// Smaller spaces without a nucleus are no cells, µm³: they go to their neighbours.
    pub space_um3: f64,
}

impl Default for CellsParams {
    fn default() -> Self {
        Self {
            median_um: 0.3,
            membrane_um: 0.35,
            reach_um: [4.0, 1.2],
            wall: 0.2,
            vesicle_um3: 10.0,
            gap_um: 0.4,
            space_um3: 60.0,
        }
    }
}

/// The walls between cells, in [0, 1]: the membrane's sheets by their local brightness, which brings the dim top of the cells up to
/// the sides; and vesicles taken out.
#[must_use]
pub fn walls(membrane: &Volume<f32>, voxel_um: [f64; 3], params: &CellsParams) -> Volume<f32> {
    let radius = voxel_um.map(|length| (params.median_um / length).round() as usize);
    let image = median(membrane, radius);
    let mut walls = sheets(&image, voxel_um, params.membrane_um, 1.0);
    normalise(&mut walls, voxel_um, params.reach_um);

    let (pieces, count) = components(&walls.map(|&value| u8::from(value > params.wall)), Connectivity::All);
    let least = params.vesicle_um3 / voxel_um.iter().product::<f64>();
    let vesicle: Vec<bool> =
        label_counts(&pieces, count).iter().enumerate().map(|(i, &n)| i > 0 && (n as f64) < least).collect();
    for (value, &piece) in walls.data.iter_mut().zip(&pieces.data) {
        if vesicle[piece as usize] {
            *value = 0.0;
        }
    }
    walls
}

/// Adaptive local normalisation: every voxel by the brightness of the walls around it (the mean weighted with the brightness itself, so
/// that the space between walls does not count).
fn normalise(walls: &mut Volume<f32>, voxel_um: [f64; 3], [across, along]: [f64; 2]) {
    let grid = Grid::new(walls.size, voxel_um, 0.8);
    let [squares, values] = grid.sums([walls], |[wall]| [wall * wall, wall]);
    let total = |volume: &Volume<f32>| volume.data.iter().map(|&value| f64::from(value)).sum::<f64>();
    let typical = (total(&squares) / total(&values).max(1e-9)) as f32;
    let sigma = [grid.sigma(along, voxel_um)[0], grid.sigma(across, voxel_um)[1], grid.sigma(across, voxel_um)[2]];
    let (squares, values) = (gaussian(&squares, sigma), gaussian(&values, sigma));
    let level = squares.data.iter().zip(&values.data).map(|(s, v)| s / v.max(1e-9) + 0.15 * typical).collect();
    let level = grid.stretched(&Volume::new(squares.size, level));
    let [_, height, width] = walls.size;
    walls.data.par_chunks_mut(width).enumerate().for_each_init(
        || vec![0.0; width],
        |levels, (row, values)| {
            simd::dispatch(
                #[inline(always)]
                || {
                    grid.row(&level, row / height, row % height, levels);
                    for (value, level) in values.iter_mut().zip(&*levels) {
                        *value = (*value / (2.0 * level)).min(1.0);
                    }
                },
            );
        },
    );
}

/// The landscape falls up to this distance from a wall, µm.
const FAR_UM: f32 = 2.5;

/// The medium is seeded where nuclei are farther than this, µm.
const CLEAR_UM: f32 = 2.0;

/// What the watershed gave.
#[derive(Clone, Debug)]
pub struct Territories {
    /// The territory of each voxel: that of nucleus n has number n.
    pub labels: Volume<u32>,
    /// The number of the medium above and below the cells.
    pub medium: u32,
    /// The highest number. Those above the medium's are spaces without a nucleus.
    pub highest: u32,
    /// The landscape that was flooded.
    pub landscape: Volume<f32>,
}

/// The territory of each nucleus (numbers 1 to `count`): the seeded watershed, from the nuclei, the medium and spaces without a nucleus.
///
/// The landscape rises towards a wall with the distance to it, and on the wall with its brightness: so a gap in a wall is passed only
/// after everything wider is full.
#[must_use]
pub fn territories(
    walls: &Volume<f32>,
    nuclei: &Volume<u32>,
    count: u32,
    voxel_um: [f64; 3],
    params: &CellsParams,
) -> Territories {
    let [depth, height, width] = walls.size;
    let walled = walls.map(|&value| u8::from(value <= params.wall));
    let away = distance_within(&walled, voxel_um, FAR_UM.max(params.gap_um));
    let mut landscape = walls.clone();
    for (level, &away) in landscape.data.iter_mut().zip(&away.data) {
        *level = if away == 0.0 { 0.5 + 0.5 * *level } else { 0.5 * (1.0 - (away / FAR_UM).min(1.0)) };
    }

    // The medium: what lies open to the first and the last plane, away from nuclei.
    let medium = count + 1;
    let mut seeds = nuclei.clone();
    let from_nuclei = distance_within(&nuclei.map(|&label| u8::from(label == 0)), voxel_um, CLEAR_UM);
    for z in [0, depth - 1] {
        let plane = z * height * width;
        for at in plane..plane + height * width {
            if from_nuclei.data[at] > CLEAR_UM {
                seeds.data[at] = medium;
            }
        }
    }

    // Spaces without a nucleus: cells cut by the border, whose nucleus is outside the field, above all.
    let (spaces, spaces_count) = components(&away.map(|&away| u8::from(away > params.gap_um)), Connectivity::Faces);
    let mut seeded = vec![false; spaces_count as usize + 1];
    for (&space, &seed) in spaces.data.iter().zip(&seeds.data) {
        seeded[space as usize] |= seed != 0;
    }
    let least = params.space_um3 / voxel_um.iter().product::<f64>();
    let mut highest = medium;
    let numbers: Vec<u32> = label_counts(&spaces, spaces_count)
        .iter()
        .enumerate()
        .map(|(space, &voxels)| {
            if space == 0 || seeded[space] || (voxels as f64) < least {
                return 0;
            }
            highest += 1;
            highest
        })
        .collect();
    for (seed, &space) in seeds.data.iter_mut().zip(&spaces.data) {
        if *seed == 0 {
            *seed = numbers[space as usize];
        }
    }
    let labels = watershed(&landscape, &seeds, None);
    Territories { labels, medium, highest, landscape }
}

/// Joins nuclei that are parts of one: the chromosome masses of a mitotic cell. Two are joined when no wall stands between them and both are
/// at least `bright` times as bright above the background, in their brightest tenth, as the nuclei on average (median). Gives the nuclei and territories with new
/// numbers, nuclei 1, 2, … in the old order, the medium and the spaces behind them, and the new number of nuclei.
#[must_use]
pub fn join_mitotic(
    nuclei: &Volume<u32>,
    count: u32,
    territories: Territories,
    dna: &Volume<f32>,
    bright: f32,
) -> (Volume<u32>, u32, Territories) {
    /// The widest way from one to the other must be at least this wide, µm, for there to be no wall.
    const OPEN_UM: f32 = 1.0;
    let brightness = brightness(nuclei, count, dna);
    let mut sorted = brightness[1..].to_vec();
    sorted.sort_by(f32::total_cmp);
    let Some(&typical) = sorted.get(sorted.len() / 2) else { return (nuclei.clone(), count, territories) };

    let open = 0.5 * (1.0 - OPEN_UM / FAR_UM);
    let mut parents: Vec<u32> = (0..=territories.highest).collect();
    let find = |parents: &[u32], mut label: u32| {
        while parents[label as usize] != label {
            label = parents[label as usize];
        }
        label
    };
    for ((a, b), level) in passes(&territories) {
        let is_bright = |label: u32| label <= count && brightness[label as usize] > bright * typical;
        if level < open && is_bright(a) && is_bright(b) {
            let (a, b) = (find(&parents, a), find(&parents, b));
            parents[a.max(b) as usize] = a.min(b);
        }
    }
    let mut next = 0;
    let mut numbers = vec![0; parents.len()];
    let mut joined = 0;
    for label in 1..parents.len() as u32 {
        let root = find(&parents, label);
        numbers[label as usize] = if root == label {
            next += 1;
            next
        } else {
            numbers[root as usize]
        };
        if label <= count {
            joined = joined.max(numbers[label as usize]);
        }
    }
    let anew = |labels: &Volume<u32>| labels.map(|&label| numbers[label as usize]);
    let territories = Territories {
        labels: anew(&territories.labels),
        medium: numbers[territories.medium as usize],
        highest: next,
        landscape: territories.landscape,
    };
    (anew(nuclei), joined, territories)
}

/// How bright the brightest tenth of each nucleus is at least, above the mean outside all nuclei; place 0 is not used. Chromosomes are not
/// all of what counts as nucleus in a dividing cell, so the mean would hide them.
fn brightness(nuclei: &Volume<u32>, count: u32, dna: &Volume<f32>) -> Vec<f32> {
    let mut outside = (0.0_f64, 0_u64);
    let mut values = vec![Vec::new(); count as usize + 1];
    for (&label, &value) in nuclei.data.iter().zip(&dna.data) {
        if label == 0 {
            outside = (outside.0 + f64::from(value), outside.1 + 1);
        } else {
            values[label as usize].push(value);
        }
    }
    let background = (outside.0 / outside.1.max(1) as f64) as f32;
    let high = |mut values: Vec<f32>| {
        let place = values.len() * 9 / 10;
        if values.is_empty() {
            return 0.0;
        }
        *values.select_nth_unstable_by(place, f32::total_cmp).1 - background
    };
    values.into_iter().map(high).collect()
}

/// The lowest level at which each two neighbouring territories meet.
fn passes(territories: &Territories) -> std::collections::BTreeMap<(u32, u32), f32> {
    let labels = &territories.labels;
    let level = &territories.landscape.data;
    let mut passes = std::collections::BTreeMap::new();
    let [depth, height, width] = labels.size;
    let mut meet = |a: usize, b: usize| {
        let (one, other) = (labels.data[a], labels.data[b]);
        if one != other && one != 0 && other != 0 {
            let lowest = passes.entry((one.min(other), one.max(other))).or_insert(f32::INFINITY);
            *lowest = lowest.min(level[a].max(level[b]));
        }
    };
    for z in 0..depth {
        for y in 0..height {
            for x in 0..width {
                let at = labels.index(z, y, x);
                if x + 1 < width {
                    meet(at, at + 1);
                }
                if y + 1 < height {
                    meet(at, at + width);
                }
                if z + 1 < depth {
                    meet(at, at + height * width);
                }
            }
        }
    }
    passes
}
