//! tifffile's own line: `{"shape": [2, 60, 256, 256], "axes": "CZYX"}`.

use super::{
    super::ImageError,
    layout::{Axis, MOST_PLANES, Scene},
};

/// What the shape says.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one for each file")]
pub(super) enum Shaped {
    /// Everything.
    Axes(Scene),
    /// There are several outer axes, and not which is which.
    Unnamed(Vec<usize>),
}

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

/// Whether a description is one of tifffile's.
pub(super) fn is_shaped(description: &str) -> bool {
    description.starts_with('{') && description.contains("\"shape\"")
}

/// The planes of a file of so many pages; `None`: it is another program's JSON.
pub(super) fn scene(description: &str, pages: usize) -> Result<Option<Shaped>, ImageError> {
    let Ok(json) = serde_json::from_str::<serde_json::Value>(description) else { return Ok(None) };
    let shape: Option<Vec<usize>> = json["shape"]
        .as_array()
        .map(|sizes| sizes.iter().filter_map(|size| size.as_u64().map(|size| size as usize)).collect());
    let Some(shape) = shape.filter(|shape| shape.len() >= 2) else { return Ok(None) };
    let axes = json["axes"].as_str().unwrap_or_default();
    let claims = Some([shape[shape.len() - 2], shape[shape.len() - 1]]);
    let outer = &shape[..shape.len() - 2];
    let planes = outer.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
    let planes = planes.filter(|planes| (1..=MOST_PLANES).contains(planes) && (*planes == pages || pages == 1));
    let Some(planes) = planes else {
        return Err(damaged(format!("{pages} pages, where it says the shape {shape:?}")));
    };
    if axes.is_empty() {
        let several = outer.iter().filter(|&&size| size > 1).count() > 1;
        // Without axes there is no way to tell channels from planes.
        return Ok(Some(if several {
            Shaped::Unnamed(outer.iter().copied().filter(|size| *size > 1).collect())
        } else {
            Shaped::Axes(Scene { claims, ..Scene::regular(&[(Axis::Z, planes)]) })
        }));
    }
    if axes.len() != shape.len() || !axes.ends_with("YX") {
        return Err(ImageError::Unsupported(format!("axes `{axes}` of a shape {shape:?}")));
    }
    let mut fastest = Vec::new();
    let letters: Vec<char> = axes.chars().collect();
    for (&size, &letter) in outer.iter().zip(&letters).rev() {
        let axis = match letter {
            _ if size == 1 => continue,
            'C' | 'S' => Axis::C,
            'Z' | 'Q' | 'I' => Axis::Z,
            'T' => Axis::T,
            _ => {
                let reason = format!("an axis `{letter}` of {size}; only channels, planes and times are read");
                return Err(ImageError::Unsupported(reason));
            }
        };
        if fastest.iter().any(|(other, _)| *other == axis) {
            return Err(ImageError::Unsupported(format!("axes `{axes}`")));
        }
        fastest.push((axis, size));
    }
    Ok(Some(Shaped::Axes(Scene { claims, ..Scene::regular(&fastest) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_with_and_without_axes() {
        let axes = |text: &str, pages| match scene(text, pages).unwrap().unwrap() {
            Shaped::Axes(scene) => scene,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(axes("{\"shape\": [6, 4, 5]}", 6).depth, 6);
        assert_eq!(axes("{\"shape\": [1, 6, 4, 5]}", 6).depth, 6);
        assert_eq!(scene("{\"shape\": [2, 3, 4, 5]}", 6).unwrap(), Some(Shaped::Unnamed(vec![2, 3])));
        let zc = axes("{\"shape\": [3, 2, 4, 5], \"axes\": \"ZCYX\"}", 6);
        assert_eq!(zc.at(0).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert_eq!(axes("{\"shape\": [6, 4, 5], \"axes\": \"TYX\"}", 6).times, 6);
        let tzc = axes("{\"shape\": [2, 3, 2, 4, 5], \"axes\": \"TZCYX\"}", 12);
        assert_eq!(tzc.at(1).unwrap(), [6, 8, 10, 7, 9, 11]);
        assert!(scene("{\"shape\": [6, 4, 5], \"axes\": \"HYX\"}", 6).is_err());
        assert!(scene("{\"shape\": [2, 3, 4, 5], \"axes\": \"ZQYX\"}", 6).is_err());
        assert!(scene("{\"shape\": [7, 4, 5]}", 6).is_err());
        assert_eq!(scene("{\"exposure\": 3, \"shape\": 1}", 6).unwrap(), None);
    }
}
