//! Labelled objects held against the true ones: which is which, and how well they overlap.

use std::collections::BTreeMap;

use super::{ImageError, Region, Volume, regions};

/// A labelled object of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// Its number in the image.
    pub label: u32,
    /// Where it lies.
    pub region: Region,
    /// Whether it does not count when it has no partner. A true object: it touches one of the four sides of the field, so that only a
    /// part of it is seen. A found one: it touches a side, or half of it or more lies in such true objects.
    pub cut: bool,
}

/// A true object and the found one that is taken for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The true object: a place in [`Comparison::truth`].
    pub truth: usize,
    /// The found object: a place in [`Comparison::found`].
    pub found: usize,
    /// Voxels in both over voxels in any of the two.
    pub iou: f64,
}

/// Found objects held against true ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The true objects, by label.
    pub truth: Vec<Object>,
    /// The found objects, by label.
    pub found: Vec<Object>,
    /// Pairs that overlap, each object in one pair at most, the best overlap first.
    pub matches: Vec<Match>,
}

/// How many objects were found, missed, and found where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detection {
    /// True objects that were found.
    pub found: usize,
    /// True objects that were not.
    pub missed: usize,
    /// Found objects that are no true one.
    pub wrong: usize,
}

impl Detection {
    /// The harmonic mean of precision and recall; NaN of no objects.
    #[must_use]
    pub fn f1(&self) -> f64 {
        2.0 * self.found as f64 / (2 * self.found + self.missed + self.wrong) as f64
    }

    /// Found over all, true or wrong: what is called average precision of one threshold for segmentations, where objects have no score
    /// (StarDist, Cellpose, Data Science Bowl 2018). NaN of no objects.
    #[must_use]
    pub fn average_precision(&self) -> f64 {
        self.found as f64 / (self.found + self.missed + self.wrong) as f64
    }
}

impl std::ops::Add for Detection {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { found: self.found + other.found, missed: self.missed + other.missed, wrong: self.wrong + other.wrong }
    }
}

impl Comparison {
    /// Holds the labels `found` against the labels `truth` of the same field; 0 is no object.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when the sizes differ.
    pub fn of(truth: &Volume<u32>, found: &Volume<u32>) -> Result<Self, ImageError> {
        if truth.size != found.size {
            return Err(ImageError::Shape(format!(
                "labels of {:?} voxels cannot be held against a truth of {:?}",
                found.size, truth.size
            )));
        }
        let mut shared = BTreeMap::<(u32, u32), usize>::new();
        // Neighbours mostly belong to the same pair: they are counted together.
        let mut pairs = truth.data.iter().copied().zip(found.data.iter().copied());
        if let Some(mut last) = pairs.next() {
            let mut run = 1;
            for pair in pairs {
                if pair != last {
                    *shared.entry(last).or_default() += run;
                    (last, run) = (pair, 0);
                }
                run += 1;
            }
            *shared.entry(last).or_default() += run;
        }
        shared.retain(|&(truth, found), _| truth != 0 && found != 0);

        let side = |region: &Region| region.touches_side(truth.size);
        let object = |(label, region): (u32, Region)| Object { label, region, cut: side(&region) };
        let truths: Vec<Object> = labelled_regions(truth).into_iter().map(object).collect();
        let mut founds: Vec<Object> = labelled_regions(found).into_iter().map(object).collect();
        let place = |objects: &[Object], label: u32| objects.binary_search_by_key(&label, |object| object.label);
        let mut matches = Vec::new();
        let mut in_cut = vec![0_usize; founds.len()];
        for (&(truth, found), &both) in &shared {
            let (Ok(truth), Ok(found)) = (place(&truths, truth), place(&founds, found)) else { continue };
            let either = truths[truth].region.voxels + founds[found].region.voxels - both;
            matches.push(Match { truth, found, iou: both as f64 / either as f64 });
            if truths[truth].cut {
                in_cut[found] += both;
            }
        }
        for (object, voxels) in founds.iter_mut().zip(in_cut) {
            object.cut |= 2 * voxels >= object.region.voxels;
        }
        matches.sort_by(|a, b| b.iou.total_cmp(&a.iou).then((a.truth, a.found).cmp(&(b.truth, b.found))));
        let mut taken = (vec![false; truths.len()], vec![false; founds.len()]);
        matches.retain(|pair| {
            let free = !taken.0[pair.truth] && !taken.1[pair.found];
            if free {
                (taken.0[pair.truth], taken.1[pair.found]) = (true, true);
            }
            free
        });
        Ok(Self { truth: truths, found: founds, matches })
    }

    /// What was found when pairs count from an overlap of `least_iou` on.
    ///
    /// Objects that the field's border cuts are seen in part only, and are left out of single cells on purpose. They are no test: a true
    /// object that touches one of the field's four sides is neither found nor missed, its partner neither found nor wrong; and a found
    /// object without a partner is not wrong when it is [`Object::cut`].
    #[must_use]
    pub fn detection(&self, least_iou: f64) -> Detection {
        let mut partner = vec![None; self.found.len()];
        for pair in self.matches.iter().filter(|pair| pair.iou >= least_iou) {
            partner[pair.found] = Some(pair.truth);
        }
        let found = partner.iter().flatten().filter(|&&truth| !self.truth[truth].cut).count();
        let whole = self.truth.iter().filter(|object| !object.cut).count();
        let wrong =
            self.found.iter().zip(&partner).filter(|(object, partner)| partner.is_none() && !object.cut).count();
        Detection { found, missed: whole - found, wrong }
    }
}

/// The objects of a label image and their numbers, sorted; however large the numbers are.
#[must_use]
pub fn labelled_regions(labels: &Volume<u32>) -> Vec<(u32, Region)> {
    let mut numbers: Vec<u32> = Vec::new();
    let mut last = 0;
    for &label in &labels.data {
        if label != last {
            numbers.push(label);
            last = label;
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers.retain(|&number| number != 0);
    let highest = numbers.last().copied().unwrap_or(0);
    let dense = if highest as usize == numbers.len() {
        regions(labels, highest)
    } else {
        let rank = |label: u32| numbers.binary_search(&label).map_or(0, |place| place as u32 + 1);
        let mut before = (0, 0);
        let ranks = labels.data.iter().map(|&label| {
            if label != before.0 {
                before = (label, rank(label));
            }
            before.1
        });
        let ranks = Volume::new(labels.size, ranks.collect());
        regions(&ranks, numbers.len() as u32)
    };
    numbers.into_iter().zip(dense).filter_map(|(number, region)| Some((number, region?))).collect()
}

/// The smaller angle between two directions without heads, in degrees: 0 to 90. Directions 180° apart are the same.
#[must_use]
pub fn axis_angle(a_degrees: f64, b_degrees: f64) -> f64 {
    let difference = (a_degrees - b_degrees).rem_euclid(180.0);
    difference.min(180.0 - difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row, so that numbers can be counted; a margin keeps it clear of the other two sides.
    fn row(labels: &[u32]) -> Volume<u32> {
        let empty = vec![0; labels.len()];
        Volume::new([1, 3, labels.len()], [&empty, labels, &empty].concat())
    }

    #[test]
    fn overlaps_by_hand() {
        // Object 1: 4 voxels, found as 7: 4 voxels, 3 shared: 3 / 5. Object 2: 2 voxels, found exactly. 9 is nothing.
        let truth = row(&[0, 1, 1, 1, 1, 0, 0, 2, 2, 0, 0, 0, 0]);
        let found = row(&[0, 0, 7, 7, 7, 7, 0, 4_000_000_000, 4_000_000_000, 0, 9, 9, 0]);
        let compared = Comparison::of(&truth, &found).unwrap();
        assert_eq!(compared.found.iter().map(|object| object.label).collect::<Vec<_>>(), [7, 9, 4_000_000_000]);
        assert_eq!(compared.matches, [Match { truth: 1, found: 2, iou: 1.0 }, Match { truth: 0, found: 0, iou: 0.6 },]);
        let half = compared.detection(0.5);
        assert_eq!(half, Detection { found: 2, missed: 0, wrong: 1 });
        assert!((half.f1() - 0.8).abs() < 1e-12 && (half.average_precision() - 2.0 / 3.0).abs() < 1e-12);
        let strict = compared.detection(0.75);
        assert_eq!(strict, Detection { found: 1, missed: 1, wrong: 2 });
        assert!((strict.f1() - 0.4).abs() < 1e-12 && (strict.average_precision() - 0.25).abs() < 1e-12);
        assert_eq!(half + strict, Detection { found: 3, missed: 1, wrong: 3 });
        assert!(Detection::default().f1().is_nan());
    }

    #[test]
    fn each_object_has_one_partner() {
        // One true object, found in two halves: 3 / 5 and 2 / 5. Two true objects, found as one: 2 / 4 each, the first counts.
        let truth = row(&[0, 1, 1, 1, 1, 1, 0, 2, 2, 3, 3, 0]);
        let found = row(&[0, 1, 1, 1, 2, 2, 0, 3, 3, 3, 3, 0]);
        let compared = Comparison::of(&truth, &found).unwrap();
        assert_eq!(compared.matches.iter().map(|m| (m.truth, m.found)).collect::<Vec<_>>(), [(0, 0), (1, 2)]);
        assert_eq!(compared.detection(0.5), Detection { found: 2, missed: 1, wrong: 1 });
        assert_eq!(compared.detection(0.55), Detection { found: 1, missed: 2, wrong: 2 });
    }

    #[test]
    fn what_the_border_cuts_is_no_test() {
        // Object 1 touches the side: missed or found, it does not count.
        let truth = row(&[1, 1, 1, 0, 2, 2, 0, 0]);
        let nothing = row(&[0, 0, 0, 0, 2, 2, 0, 0]);
        let all = Detection { found: 1, missed: 0, wrong: 0 };
        assert_eq!(Comparison::of(&truth, &nothing).unwrap().detection(0.5), all);
        assert_eq!(Comparison::of(&truth, &truth).unwrap().detection(0.5), all);
        // A piece of it that does not reach the side is not wrong, nor is something that touches a side where nothing is.
        let pieces = row(&[0, 3, 0, 0, 2, 2, 0, 5]);
        assert_eq!(Comparison::of(&truth, &pieces).unwrap().detection(0.5), all);
        // But what lies clear of it is.
        let clear = row(&[0, 0, 0, 0, 2, 2, 6, 0]);
        assert_eq!(Comparison::of(&truth, &clear).unwrap().detection(0.5), Detection { wrong: 1, ..all });
        // The first and the last plane are no sides: this image has but one.
        assert!(Comparison::of(&row(&[0, 1]), &row(&[0, 0, 0])).is_err());
    }

    #[test]
    fn no_object_is_no_failure() {
        let compared = Comparison::of(&row(&[0, 0]), &row(&[0, 0])).unwrap();
        assert_eq!(compared.detection(0.5), Detection::default());
        assert!(Comparison::of(&Volume::new([0, 0, 0], vec![]), &Volume::new([0, 0, 0], vec![])).is_ok());
    }

    #[test]
    fn axes_have_no_heads() {
        for (a, b, expected) in [(10.0, 14.0, 4.0), (89.0, -89.0, 2.0), (-90.0, 90.0, 0.0), (0.0, 90.0, 90.0)] {
            assert!((axis_angle(a, b) - expected).abs() < 1e-9, "{a} {b}");
        }
    }
}
