//! Colours that people with colour-blindness can tell apart, and that survive a grey printer.

/// A colour: red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub u8, pub u8, pub u8);

/// Eight colours for categories, easily told apart with any kind of colour vision (Okabe and Ito 2008, reordered).
pub const PALETTE: [Colour; 8] = [
    Colour(0x00, 0x72, 0xB2), // blue
    Colour(0xD5, 0x5E, 0x00), // vermilion
    Colour(0x00, 0x9E, 0x73), // green
    Colour(0xCC, 0x79, 0xA7), // purple
    Colour(0xE6, 0x9F, 0x00), // orange
    Colour(0x56, 0xB4, 0xE9), // sky blue
    Colour(0x55, 0x55, 0x55), // grey
    Colour(0xC9, 0xB8, 0x00), // yellow, darkened so that it shows on white
];

/// For what stands behind the rest: reference lines, the most common category.
pub const GREY: Colour = Colour(0x9A, 0x9A, 0x9A);

const SEQUENTIAL: [Colour; 9] = [
    Colour(0x44, 0x01, 0x54),
    Colour(0x47, 0x2D, 0x7B),
    Colour(0x3B, 0x52, 0x8B),
    Colour(0x2C, 0x72, 0x8E),
    Colour(0x21, 0x91, 0x8C),
    Colour(0x28, 0xAE, 0x80),
    Colour(0x5E, 0xC9, 0x62),
    Colour(0xAD, 0xDC, 0x30),
    Colour(0xFD, 0xE7, 0x25),
];

const DIVERGING: [Colour; 7] = [
    Colour(0x21, 0x66, 0xAC),
    Colour(0x67, 0xA9, 0xCF),
    Colour(0xD1, 0xE5, 0xF0),
    Colour(0xF7, 0xF7, 0xF7),
    Colour(0xFD, 0xDB, 0xC7),
    Colour(0xEF, 0x8A, 0x62),
    Colour(0xB2, 0x18, 0x2B),
];

/// How numbers become colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourMap {
    /// From dark to light (viridis): amounts.
    Sequential,
    /// From blue over white to red, white at zero: signed numbers.
    Diverging,
}

impl ColourMap {
    /// The colour at `position` between 0 and 1; outside, that of the nearer end.
    #[must_use]
    pub fn at(self, position: f64) -> Colour {
        let anchors: &[Colour] = match self {
            Self::Sequential => &SEQUENTIAL,
            Self::Diverging => &DIVERGING,
        };
        let scaled = position.clamp(0.0, 1.0) * (anchors.len() - 1) as f64;
        let low = (scaled.floor() as usize).min(anchors.len() - 2);
        let part = scaled - low as f64;
        let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * part).round() as u8;
        let (a, b) = (anchors[low], anchors[low + 1]);
        Colour(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
    }
}

impl Colour {
    /// The colour of the category of this number: the palette, over and over.
    #[must_use]
    pub fn category(index: usize) -> Self {
        PALETTE[index % PALETTE.len()]
    }

    /// How light it looks, between 0 and 1 (relative luminance without gamma): chooses black or white text upon it.
    pub(super) fn lightness(self) -> f64 {
        (0.299 * f64::from(self.0) + 0.587 * f64::from(self.1) + 0.114 * f64::from(self.2)) / 255.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_go_from_end_to_end() {
        assert_eq!(ColourMap::Sequential.at(0.0), Colour(0x44, 0x01, 0x54));
        assert_eq!(ColourMap::Sequential.at(2.0), Colour(0xFD, 0xE7, 0x25));
        assert_eq!(ColourMap::Diverging.at(0.5), Colour(0xF7, 0xF7, 0xF7));
        assert_eq!(Colour::category(9), PALETTE[1]);
    }
}
