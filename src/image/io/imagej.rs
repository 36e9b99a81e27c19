//! The lines that ImageJ writes, and SCIFIO after it.
//!
//! | key | what becomes of it |
//! |---|---|
//! | `images`, `channels`, `slices`, `frames` | axes; without `slices` all that is left are planes |
//! | `order` (Micro-Manager, `zct`), `axes` and `lengths` (SCIFIO) | the order of planes, fastest first |
//! | `unit`, `yunit`, `zunit`, `spacing`, and the resolution tags | the voxel |
//! | `scales` and `units` (SCIFIO) | the voxel |
//! | `cf`, `c0`, `c1` (calibration of values) | ImageJ's way to write signed numbers is refused; others are for display |
//! | `min`, `max`, `mode`, `loop`, `fps`, `hyperstack`, `xorigin`, … | display |

use super::{
    super::ImageError,
    layout::{Axis, MOST_PLANES, Scene, Voxel},
    unit::in_um,
};

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

/// Whether a description is ImageJ's, or SCIFIO's.
pub(super) fn is_imagej(description: &str) -> bool {
    description.starts_with("ImageJ=") || is_scifio(description)
}

fn is_scifio(description: &str) -> bool {
    description.starts_with("SCIFIO=")
}

/// `key=value`, one a line.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        let pairs = self.0.lines().filter_map(|line| line.split_once('='));
        pairs.into_iter().find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    }

    fn count(&self, key: &str) -> Result<Option<usize>, ImageError> {
        let Some(text) = self.value(key) else { return Ok(None) };
        let count = text.parse::<usize>().ok().filter(|count| (1..=MOST_PLANES).contains(count));
        count.map(Some).ok_or_else(|| damaged(format!("ImageJ's `{key}={text}` is no count")))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.value(key)?.parse().ok()
    }
}

/// The planes of a file of so many pages.
pub(super) fn scene(description: &str, pages: usize, resolution: Option<[f64; 2]>) -> Result<Scene, ImageError> {
    let lines = Lines(description);
    if lines.number("c0") == Some(-32768.0) && lines.number("c1") == Some(1.0) {
        return Err(ImageError::Unsupported(
            "signed 16 bit pixels, as ImageJ writes them (`c0=-32768`); save them unsigned or as 32 bit".to_owned(),
        ));
    }
    let counts = match (is_scifio(description), lines.value("axes")) {
        (true, Some(axes)) => scifio_axes(axes, lines.value("lengths").unwrap_or_default())?,
        _ => imagej_axes(&lines, pages)?,
    };
    let planes = counts.iter().try_fold(1_usize, |planes, (_, count)| planes.checked_mul(*count));
    let planes = planes.filter(|planes| *planes <= MOST_PLANES);
    // ImageJ and tifffile write large stacks as one page with the pixels of all planes behind each other.
    if planes
        .is_none_or(|planes| planes != pages && (pages != 1 || lines.count("images").ok().flatten() != Some(planes)))
    {
        let said: Vec<String> = counts.iter().map(|(axis, count)| format!("{axis:?}={count}")).collect();
        return Err(damaged(format!("{pages} pages, where its description says {}", said.join(", "))));
    }
    let depth = counts.iter().find(|(axis, _)| *axis == Axis::Z).map_or(1, |(_, count)| *count);
    let voxel = if is_scifio(description) && lines.value("scales").is_some() {
        scifio_voxel(&lines)
    } else {
        imagej_voxel(&lines, depth, resolution)
    };
    Ok(Scene { voxel, ..Scene::regular(&counts) })
}

/// Channels fastest, then planes, then time points, unless `order` says otherwise.
fn imagej_axes(lines: &Lines, pages: usize) -> Result<Vec<(Axis, usize)>, ImageError> {
    let images = lines.count("images")?.unwrap_or(1);
    let channels = lines.count("channels")?.unwrap_or(1);
    let frames = lines.count("frames")?.unwrap_or(1);
    // Without dimensions all pages are planes.
    let depth = lines.count("slices")?.unwrap_or_else(|| images.max(pages) / channels / frames).max(1);
    let order = match lines.value("order") {
        None | Some("" | "default" | "xyczt" | "xyczt(default)") => "czt",
        Some(order) => order,
    };
    let letters: Vec<char> = order.to_lowercase().chars().filter(|c| !matches!(c, 'x' | 'y')).collect();
    let axes: Option<Vec<(Axis, usize)>> = letters
        .iter()
        .map(|letter| match letter {
            'c' => Some((Axis::C, channels)),
            'z' => Some((Axis::Z, depth)),
            't' => Some((Axis::T, frames)),
            _ => None,
        })
        .collect();
    axes.filter(|axes| {
        axes.len() == 3 && [Axis::C, Axis::Z, Axis::T].iter().all(|axis| axes.iter().any(|(a, _)| a == axis))
    })
    .ok_or_else(|| damaged(format!("ImageJ's `order={order}` is no order of c, z and t")))
}

/// `axes=X,Y,Z,Channel` and `lengths=5,4,3,2`.
fn scifio_axes(axes: &str, lengths: &str) -> Result<Vec<(Axis, usize)>, ImageError> {
    let lengths: Vec<Option<usize>> = lengths.split(',').map(|length| length.trim().parse().ok()).collect();
    let mut counts = Vec::new();
    for (at, name) in axes.split(',').map(str::trim).enumerate() {
        let count = lengths.get(at).copied().flatten().filter(|count| (1..=MOST_PLANES).contains(count));
        let count = count.ok_or_else(|| damaged(format!("SCIFIO's `lengths` do not fit its axes {axes}")))?;
        let axis = match name.to_lowercase().as_str() {
            "x" | "y" => {
                if (at == 0) == name.eq_ignore_ascii_case("x") && at < 2 {
                    continue;
                }
                return Err(ImageError::Unsupported(format!("SCIFIO's axes {axes}: X and Y are not the first ones")));
            }
            "z" => Axis::Z,
            "channel" | "c" => Axis::C,
            "time" | "t" => Axis::T,
            _ if count == 1 => continue,
            _ => return Err(ImageError::Unsupported(format!("SCIFIO's axis `{name}` of {count}"))),
        };
        if counts.iter().any(|(other, _)| *other == axis) {
            return Err(damaged(format!("SCIFIO's axes {axes} name one twice")));
        }
        counts.push((axis, count));
    }
    Ok(counts)
}

fn scifio_voxel(lines: &Lines) -> Voxel {
    let list = |key: &str| lines.value(key).unwrap_or_default().split(',').map(str::trim).collect::<Vec<_>>();
    let (axes, scales, units) = (list("axes"), list("scales"), list("units"));
    let mut voxel = Voxel::default();
    for (side, name) in ["z", "y", "x"].into_iter().enumerate() {
        let Some(at) = axes.iter().position(|axis| axis.eq_ignore_ascii_case(name)) else { continue };
        let scale = scales.get(at).and_then(|scale| scale.parse::<f64>().ok());
        let unit = units.get(at).copied().unwrap_or_default();
        voxel.um[side] = scale.and_then(|scale| in_um(scale, unit));
        if voxel.um[side].is_none() {
            voxel.said[side] = format!("SCIFIO says {name} is {} in `{unit}`", scales.get(at).unwrap_or(&"nothing"));
        }
    }
    voxel
}

fn imagej_voxel(lines: &Lines, depth: usize, resolution: Option<[f64; 2]>) -> Voxel {
    let unit = lines.value("unit").unwrap_or_default();
    let own = |key: &str| lines.value(key).filter(|unit| !unit.is_empty()).unwrap_or(unit);
    let (unit_y, unit_z) = (own("yunit"), own("zunit"));
    let mut voxel = Voxel {
        um: [
            lines.number("spacing").and_then(|z| in_um(z.abs(), unit_z)),
            resolution.and_then(|pixels| in_um(1.0 / pixels[0], unit_y)),
            resolution.and_then(|pixels| in_um(1.0 / pixels[1], unit)),
        ],
        ..Voxel::default()
    };
    // ImageJ leaves out a spacing of 1. tifffile, which calls itself ImageJ 1.11a, leaves out one that it was not told.
    let by_imagej = lines.value("ImageJ").is_some_and(|version| version != "1.11a");
    if lines.value("spacing").is_none() && by_imagej && depth > 1 && voxel.um[1].is_some() && voxel.um[2].is_some() {
        voxel.um[0] = in_um(1.0, unit_z);
    }
    if voxel.um[0].is_none() {
        voxel.said[0] = match (lines.value("spacing"), unit_z) {
            (None, _) => "ImageJ's lines have no `spacing`".to_owned(),
            (Some(spacing), "") => format!("`spacing={spacing}` without a unit"),
            (Some(spacing), unit) => format!("`spacing={spacing}` in `{unit}`"),
        };
    }
    for (side, unit) in [(1, unit_y), (2, unit)] {
        if voxel.um[side].is_none() && !unit.is_empty() {
            voxel.said[side] = match resolution {
                Some(_) => format!("`unit={unit}`"),
                None => "it has no resolution".to_owned(),
            };
        }
    }
    voxel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str, pages: usize) -> Vec<usize> {
        scene(text, pages, None).unwrap_or_else(|error| panic!("{text}: {error}")).at(0).unwrap()
    }

    #[test]
    fn imagej() {
        let text = "ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nhyperstack=true\nunit=\\u00B5m\nspacing=0.5\n";
        let found = scene(text, 6, Some([4.0, 5.0])).unwrap();
        assert_eq!(found.at(0).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(found.voxel.um, [Some(0.5), Some(0.25), Some(0.2)]);
        let mixed = scene(&format!("{text}yunit=nm\nzunit=mm\n"), 6, Some([4.0, 5.0])).unwrap();
        assert_eq!(mixed.voxel.um, [Some(500.0), Some(0.25e-3), Some(0.2)]);
        assert_eq!(scene("ImageJ=1.53\nimages=6\nframes=6\n", 6, None).unwrap().times, 6);
        assert!(scene("ImageJ=1.53\nimages=7\nchannels=7\n", 6, None).is_err());
        let signed = scene("ImageJ=1.53\nimages=6\nslices=6\ncf=0\nc0=-32768\nc1=1\n", 6, None).unwrap_err();
        assert!(signed.to_string().contains("signed"), "{signed}");
    }

    #[test]
    fn a_spacing_of_one_is_left_out_by_imagej_only() {
        let z = |version: &str, unit: &str| {
            let text = format!("ImageJ={version}\nimages=2\nslices=2\nunit={unit}\n");
            scene(&text, 2, Some([10.0, 10.0])).unwrap().voxel
        };
        assert_eq!(z("1.54f", "micron").um[0], Some(1.0));
        assert_eq!(z("1.11a", "um").um[0], None);
        assert!(z("1.11a", "um").missing().unwrap().contains("no `spacing`"));
        assert_eq!(z("1.54f", "pixel").um, [None; 3]);
    }

    #[test]
    fn micro_manager_says_its_order() {
        let text = "ImageJ=1.52p\nimages=6\nchannels=2\nslices=3\nhyperstack=true\norder=";
        assert_eq!(places(&format!("{text}zct\n"), 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(&format!("{text}czt\n"), 6), [0, 2, 4, 1, 3, 5]);
        assert_eq!(places(&format!("{text}tzc\n"), 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(&format!("{text}default\n"), 6), [0, 2, 4, 1, 3, 5]);
        for order in ["zc", "zcc", "zctq"] {
            assert!(scene(&format!("{text}{order}\n"), 6, None).is_err(), "{order}");
        }
    }

    #[test]
    fn scifio() {
        let text = |axes: &str, lengths: &str| {
            format!(
                "SCIFIO=0.46.0\naxes={axes}\nlengths={lengths}\nscales=0.1,0.1,0.3,1.0\nunits=micron,micron,micron,null\n\
                 bitsPerPixel=16\nimages=6\nchannels=2\nslices=3\nframes=1\nhyperstack=true\nmode=composite\nunit=micron\n"
            )
        };
        assert_eq!(places(&text("X,Y,Z,Channel", "5,4,3,2"), 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(places(&text("X,Y,Channel,Z", "5,4,2,3"), 6), [0, 2, 4, 1, 3, 5]);
        assert_eq!(scene(&text("X,Y,Z,Channel", "5,4,3,2"), 6, None).unwrap().voxel.whole(), Some([0.3, 0.1, 0.1]));
        assert!(scene(&text("X,Y,Z,Lifetime", "5,4,3,2"), 6, None).is_err());
        assert!(scene(&text("Channel,X,Y,Z", "2,5,4,3"), 6, None).is_err());
        let old = "SCIFIO=0.10\nimages=6\nchannels=2\nslices=3\nhyperstack=true\n";
        assert_eq!(places(old, 6), [0, 2, 4, 1, 3, 5]);
    }
}
