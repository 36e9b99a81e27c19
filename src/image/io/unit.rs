//! Units of length in the spellings that programs use.

/// Symbols, as OME's schema lists them (`UnitsLength`) and as programs write them; they are told apart by case: `mm` and `Mm`.
const SYMBOLS: [(&str, f64); 40] = [
    ("Ym", 1e30),
    ("Zm", 1e27),
    ("Em", 1e24),
    ("Pm", 1e21),
    ("Tm", 1e18),
    ("Gm", 1e15),
    ("Mm", 1e12),
    ("km", 1e9),
    ("hm", 1e8),
    ("dam", 1e7),
    ("m", 1e6),
    ("dm", 1e5),
    ("cm", 1e4),
    ("mm", 1e3),
    // The micro sign, the Greek letter, and either of them read as Latin-1.
    ("µm", 1.0),
    ("μm", 1.0),
    ("Âµm", 1.0),
    ("Î¼m", 1.0),
    ("um", 1.0),
    ("nm", 1e-3),
    ("pm", 1e-6),
    ("fm", 1e-9),
    ("am", 1e-12),
    ("zm", 1e-15),
    ("ym", 1e-18),
    // Ångström: the letter, the sign, and a with ring in two parts.
    ("Å", 1e-4),
    ("\u{212b}", 1e-4),
    ("A\u{30a}", 1e-4),
    ("thou", 25.4),
    ("mil", 25.4),
    ("li", 25_400.0 / 12.0),
    ("in", 25_400.0),
    ("\"", 25_400.0),
    ("ft", 304_800.0),
    ("yd", 914_400.0),
    ("mi", 1_609_344_000.0),
    ("pt", 25_400.0 / 72.0),
    ("µ", 1.0),
    ("μ", 1.0),
    ("u", 1.0),
];

/// Words, in any case, singular and plural.
const WORDS: [(&str, f64); 16] = [
    ("micron", 1.0),
    ("micrometer", 1.0),
    ("micrometre", 1.0),
    ("nanometer", 1e-3),
    ("nanometre", 1e-3),
    ("picometer", 1e-6),
    ("picometre", 1e-6),
    ("millimeter", 1e3),
    ("millimetre", 1e3),
    ("centimeter", 1e4),
    ("centimetre", 1e4),
    ("decimeter", 1e5),
    ("decimetre", 1e5),
    ("meter", 1e6),
    ("metre", 1e6),
    ("angstrom", 1e-4),
];

/// µm of one `unit`; `None`: not a unit of length (`pixel`), or none that is known.
fn unit_um(unit: &str) -> Option<f64> {
    let unit = unit.trim();
    let unit = if unit == "\"" { unit } else { unit.trim_matches('"') };
    let unit = ["\\u00B5", "\\u00b5", "\\u03BC", "\\u03bc", "&#181;", "&micro;", "&#956;"]
        .into_iter()
        .fold(unit.to_owned(), |unit, escape| unit.replace(escape, "µ"));
    if let Some((_, um)) = SYMBOLS.iter().find(|(symbol, _)| *symbol == unit) {
        return Some(*um);
    }
    let word = unit.to_lowercase();
    if matches!(word.as_str(), "inch" | "inches") {
        return Some(25_400.0);
    }
    let word = word.strip_suffix('s').unwrap_or(&word);
    // Symbols that cannot be mistaken in another case: `UM`, `NM`.
    let symbol = match word {
        "um" | "µm" | "μm" => Some(1.0),
        "nm" => Some(1e-3),
        _ => None,
    };
    symbol.or_else(|| WORDS.iter().find(|(name, _)| *name == word).map(|(_, um)| *um))
}

/// µm of a length. Nothing is so many µm long or short that it could be a voxel's side when it is not above 0 and finite.
pub(super) fn in_um(length: f64, unit: &str) -> Option<f64> {
    Some(length * unit_um(unit)?).filter(|um| um.is_finite() && *um > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_units() {
        for unit in
            ["µm", "μm", "um", "UM", "micron", "Microns", "micrometer", "MICROMETRES", "\\u00B5m", "Âµm", " um "]
        {
            assert_eq!(in_um(0.5, unit), Some(0.5), "{unit}");
        }
        let close = |length: f64, unit: &str, um: f64| {
            let found = in_um(length, unit).unwrap_or_else(|| panic!("{unit}"));
            assert!((found - um).abs() < 1e-9 * um, "{length} {unit}: {found}");
        };
        close(260.0, "nm", 0.26);
        close(3e-6, "dm", 0.3);
        close(2.6e-7, "m", 0.26);
        close(2.6e-5, "cm", 0.26);
        close(2600.0, "Å", 0.26);
        close(2600.0, "Angstroms", 0.26);
        close(1e-5, "inch", 0.254);
        close(1e-12, "Mm", 1.0);
        for unit in ["pixel", "reference frame", "", "furlong", "MM"] {
            assert_eq!(in_um(1.0, unit), None, "{unit}");
        }
        for length in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(in_um(length, "µm"), None);
        }
    }
}
