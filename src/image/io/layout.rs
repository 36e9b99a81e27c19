//! What the planes of a file are: scenes, times, channels, planes, and the size of a voxel.

use super::super::{ImageError, Unclear};

/// The order of the planes of a file that holds several channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrder {
    /// All planes of the first channel, then all of the next.
    Czyx,
    /// All channels of the first plane, then all of the next.
    Zcyx,
}

/// Counts above this are lies, or nothing that fits in memory.
pub(super) const MOST_PLANES: usize = 1 << 20;

/// The size of a voxel as far as a file says it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Voxel {
    /// Sides in µm: Z, Y, X.
    pub um: [Option<f64>; 3],
    /// What is said instead where a side is not known: `PhysicalSizeZ="1" in "pixel"`; empty: nothing.
    pub said: [String; 3],
}

impl Voxel {
    /// All three sides, when all are known.
    #[must_use]
    pub fn whole(&self) -> Option<[f64; 3]> {
        let [z, y, x] = self.um;
        Some([z?, y?, x?])
    }

    /// Which sides are missing, for a message; `None`: none is.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let names = ["z", "y", "x"];
        let axes = |known: bool| {
            let list: Vec<&str> =
                (0..3).filter(|&axis| self.um[axis].is_some() == known).map(|axis| names[axis]).collect();
            list.join(", ")
        };
        let missing = axes(false);
        if missing.is_empty() {
            return None;
        }
        let said: Vec<&str> = (0..3)
            .filter(|&a| self.um[a].is_none() && !self.said[a].is_empty())
            .map(|a| self.said[a].as_str())
            .collect();
        let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join("; ")) };
        let known = axes(true);
        Some(if known.is_empty() {
            format!("it does not say the size of its voxels{said}")
        } else {
            format!("it says the size of its voxels in {known}, not in {missing}{said}")
        })
    }
}

/// One image of a file: a position of the stage, a series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scene {
    /// Its name, if it has one.
    pub(super) name: String,
    /// Channel names, in order; empty names are not known.
    pub(super) channels: Vec<String>,
    /// Planes of a channel.
    pub(super) depth: usize,
    /// Time points.
    pub(super) times: usize,
    /// Where plane z of channel c at time t lies, in `pages[(t * channels + c) * depth + z]`: a page of a TIFF. `None`: nowhere.
    pub(super) pages: Vec<Option<usize>>,
    /// Size of a voxel.
    pub(super) voxel: Voxel,
    /// Height and width that the metadata claim.
    pub(super) claims: Option<[usize; 2]>,
}

/// The axes of planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Z,
    C,
    T,
}

impl Scene {
    /// Planes in a regular order, `fastest` first; axes that it leaves out are of length one.
    pub(super) fn regular(fastest: &[(Axis, usize)]) -> Self {
        let count = |axis: Axis| fastest.iter().find(|(name, _)| *name == axis).map_or(1, |(_, count)| *count);
        let (depth, channels, times) = (count(Axis::Z), count(Axis::C), count(Axis::T));
        let mut pages = Vec::with_capacity(depth * channels * times);
        for t in 0..times {
            for c in 0..channels {
                for z in 0..depth {
                    let (mut page, mut stride) = (0, 1);
                    for &(axis, count) in fastest {
                        page += stride * [z, c, t][axis as usize];
                        stride *= count;
                    }
                    pages.push(Some(page));
                }
            }
        }
        Self { channels: vec![String::new(); channels], depth, times, pages, ..Self::default() }
    }

    /// So many channels and planes, one time point.
    pub(super) fn ordered(channels: usize, depth: usize, order: PageOrder) -> Self {
        Self::regular(&match order {
            PageOrder::Czyx => [(Axis::Z, depth), (Axis::C, channels)],
            PageOrder::Zcyx => [(Axis::C, channels), (Axis::Z, depth)],
        })
    }

    /// The planes of one time point, channel after channel.
    ///
    /// # Errors
    /// When the metadata do not place all of them.
    pub(super) fn at(&self, time: usize) -> Result<Vec<usize>, ImageError> {
        let count = self.channels.len() * self.depth;
        let planes = &self.pages[time * count..(time + 1) * count];
        let placed: Vec<usize> = planes.iter().copied().flatten().collect();
        if placed.len() < count {
            return Err(ImageError::Damaged(format!(
                "its description places {} of its {count} planes ({} channels of {} planes)",
                placed.len(),
                self.channels.len(),
                self.depth
            )));
        }
        Ok(placed)
    }
}

/// Which of several: scenes or time points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    /// There is only one; more are refused.
    #[default]
    Only,
    /// The one at this position, from 0.
    At(usize),
    /// The one of this name.
    Named(String),
    /// All of them, one after the other.
    Each,
}

impl Pick {
    /// The positions that are meant, among these names.
    pub(super) fn of(&self, what: Unclear, names: &[&str]) -> Result<Vec<usize>, ImageError> {
        let unclear = |reason: String| ImageError::Unclear(what, reason);
        let count = names.len();
        let things = if what == Unclear::Scenes { "images" } else { "time points" };
        match self {
            Self::Only if count == 1 => Ok(vec![0]),
            Self::Only if what == Unclear::Scenes => {
                let named: Vec<String> = names.iter().enumerate().map(|(at, name)| format!("{at} `{name}`")).collect();
                let named = if names.iter().all(|name| name.is_empty()) || count > 12 {
                    String::new()
                } else {
                    format!(": {}", named.join(", "))
                };
                Err(unclear(format!("{count} images in one file{named}")))
            }
            Self::Only => Err(unclear(format!("a series of {count} time points"))),
            Self::Each => Ok((0..count).collect()),
            Self::At(at) if *at < count => Ok(vec![*at]),
            Self::At(at) => {
                Err(unclear(format!("it has {count} {things}, from 0 to {}; {at} is none of them", count - 1)))
            }
            Self::Named(name) => {
                let found: Vec<usize> = (0..count).filter(|&at| names[at] == name).collect();
                if found.len() == 1 {
                    return Ok(found);
                }
                Err(unclear(format!(
                    "{} of its {count} {things} are called `{name}`: {}",
                    found.len(),
                    names.join(", ")
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_planes() {
        let pages = |scene: Scene| scene.pages.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(pages(Scene::ordered(2, 3, PageOrder::Czyx)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(pages(Scene::ordered(2, 3, PageOrder::Zcyx)), [0, 2, 4, 1, 3, 5]);
        // Time fastest, then channels, then planes: two of each.
        let scene = Scene::regular(&[(Axis::T, 2), (Axis::C, 2), (Axis::Z, 2)]);
        assert_eq!(scene.at(0).unwrap(), [0, 4, 2, 6]);
        assert_eq!(scene.at(1).unwrap(), [1, 5, 3, 7]);
    }

    #[test]
    fn what_is_missing_of_a_voxel_is_told() {
        let mut voxel = Voxel { um: [None, Some(0.1), Some(0.1)], ..Voxel::default() };
        assert_eq!(voxel.missing().unwrap(), "it says the size of its voxels in y, x, not in z");
        voxel.said[0] = "`PhysicalSizeZ` is 0".to_owned();
        assert!(voxel.missing().unwrap().ends_with("not in z (`PhysicalSizeZ` is 0)"));
        voxel.um[0] = Some(0.3);
        assert_eq!((voxel.missing(), voxel.whole()), (None, Some([0.3, 0.1, 0.1])));
    }

    #[test]
    fn one_of_several() {
        let of = |pick: Pick| pick.of(Unclear::Scenes, &["a", "b"]).map_err(|error| error.to_string());
        assert!(of(Pick::Only).unwrap_err().contains("2 images in one file: 0 `a`, 1 `b`"));
        assert_eq!(of(Pick::At(1)), Ok(vec![1]));
        assert_eq!(of(Pick::Named("b".into())), Ok(vec![1]));
        assert_eq!(of(Pick::Each), Ok(vec![0, 1]));
        assert!(of(Pick::At(2)).unwrap_err().contains("from 0 to 1") && of(Pick::Named("c".into())).is_err());
    }
}
