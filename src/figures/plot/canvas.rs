//! What plots are drawn on: a list of shapes that becomes an SVG and a PNG.
//!
//! The shapes, the SVG writer and the rasteriser (with its embedded font) are kuva's. Its finished plots are not used: they
//! number their clip paths by a counter of the process, so that the same plot drawn twice has other bytes.

use std::fmt::Write;

use kuva::{
    backend::{raster::RasterBackend, svg::SvgBackend},
    render::{
        color::Color,
        render::{PathData, Primitive, Scene, TextAnchor, TextSpan},
    },
};

use super::Colour;

/// Pixels of the PNG for one unit of the drawing.
const SCALE: f32 = 2.0;

/// An SVG above this size is not kept; the PNG alone is.
const LARGEST_SVG: usize = 3_000_000;

const FONTS: &str = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif";

/// Colour of text and axes.
pub(super) const INK: Colour = Colour(0x33, 0x33, 0x33);
/// Colour of grid lines.
pub(super) const GRID: Colour = Colour(0xE6, 0xE6, 0xE6);
/// White.
pub(super) const PAPER: Colour = Colour(0xFF, 0xFF, 0xFF);

/// Advance widths of the characters 32 to 126 of the PNG's font in thousandths of the font size. It is wider than what browsers
/// choose for the SVG: what fits by these numbers fits in both.
const WIDTHS: [u16; 95] = [
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361, 318, 337, 636, 636, 636, 636, 636, 636, 636,
    636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632, 575, 775, 752, 295, 295, 656, 557, 863,
    748, 787, 603, 787, 695, 635, 611, 732, 684, 989, 685, 611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635,
    615, 352, 635, 634, 278, 278, 579, 278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592, 525, 636,
    337, 636, 838,
];
/// How much wider bold text is, at most.
const BOLD: f64 = 1.13;

/// Where a text stands relative to its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Font {
    pub(super) size: u32,
    pub(super) bold: bool,
    pub(super) colour: Colour,
}

impl Font {
    pub(super) const fn new(size: u32) -> Self {
        Self { size, bold: false, colour: INK }
    }

    /// The width of a text, not below what it will be.
    pub(super) fn width(self, text: &str) -> f64 {
        let thousandths: u32 = text
            .chars()
            .map(|c| match u32::from(c) {
                code @ 32..=126 => u32::from(WIDTHS[code as usize - 32]),
                0x2212 | 0xD7 | 0x2265 | 0x2264 | 0x2192 => 838,
                code if code < 0x2000 => 700,
                _ => 1000,
            })
            .sum();
        f64::from(thousandths) * f64::from(self.size) / 1000.0 * if self.bold { BOLD } else { 1.0 }
    }
}

/// A drawing in progress. Lengths are in units of a CSS pixel, from the top left corner.
pub(super) struct Canvas {
    scene: Scene,
    clips: usize,
}

fn paint(colour: Colour) -> Color {
    Color::Rgb(colour.0, colour.1, colour.2)
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        let mut scene = Scene::new(width.ceil(), height.ceil());
        scene.font_family = Some(FONTS.to_owned());
        Self { scene, clips: 0 }
    }

    pub(super) fn text(&mut self, x: f64, y: f64, text: &str, font: Font, anchor: Anchor) {
        self.turned_text(x, y, text, font, anchor, 0.0);
    }

    /// Text turned by `degrees` (clockwise) about its position. Bold text cannot be turned.
    pub(super) fn turned_text(&mut self, x: f64, y: f64, text: &str, font: Font, anchor: Anchor, degrees: f64) {
        let anchor = match anchor {
            Anchor::Start => TextAnchor::Start,
            Anchor::Middle => TextAnchor::Middle,
            Anchor::End => TextAnchor::End,
        };
        let (size, color) = (font.size, Some(paint(font.colour)));
        self.scene.elements.push(if font.bold {
            let span = TextSpan { bold: true, ..TextSpan::plain(text) };
            Primitive::RichText { x, y, spans: vec![span], size, anchor, color }
        } else {
            // Dollars would start a formula.
            let content = text.replace('$', "\\$");
            let rotate = (degrees != 0.0).then_some(degrees);
            Primitive::Text { x, y, content, size, anchor, rotate, bold: false, color }
        });
    }

    pub(super) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: Colour, opacity: f64) {
        self.scene.elements.push(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill: paint(fill),
            stroke: None,
            stroke_width: None,
            opacity: (opacity < 1.0).then_some(opacity),
        });
    }

    /// Draws what `draw` draws without smoothing edges, so that neighbouring rectangles leave no seam.
    pub(super) fn crisp(&mut self, draw: impl FnOnce(&mut Self)) {
        self.scene.elements.push(Primitive::GroupStart {
            transform: None,
            title: None,
            extra_attrs: Some("shape-rendering=\"crispEdges\"".to_owned()),
        });
        draw(self);
        self.scene.elements.push(Primitive::GroupEnd);
    }

    /// Draws what `draw` draws, cut at a rectangle.
    pub(super) fn clipped(&mut self, area: Area, draw: impl FnOnce(&mut Self)) {
        let id = format!("clip-{}", self.clips);
        self.clips += 1;
        let Area { x, y, width, height } = area;
        self.scene.defs.push(format!(
            "<clipPath id=\"{id}\"><rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/></clipPath>"
        ));
        self.scene.elements.push(Primitive::ClipStart { x, y, width, height, id });
        draw(self);
        self.scene.elements.push(Primitive::ClipEnd);
    }

    pub(super) fn line(&mut self, from: [f64; 2], to: [f64; 2], colour: Colour, width: f64) {
        self.scene.elements.push(Primitive::Line {
            x1: from[0],
            y1: from[1],
            x2: to[0],
            y2: to[1],
            stroke: paint(colour),
            stroke_width: width,
            stroke_dasharray: None,
        });
    }

    pub(super) fn polyline(&mut self, points: &[[f64; 2]], colour: Colour, width: f64) {
        self.scene.elements.push(Primitive::PolyLine {
            points: points.iter().map(|p| (p[0], p[1])).collect(),
            stroke: paint(colour),
            stroke_width: width,
            stroke_dasharray: None,
        });
    }

    /// A dashed polyline. The dashes run on across corners, which the rasteriser's own do not.
    pub(super) fn dashes(&mut self, points: &[[f64; 2]], colour: Colour, width: f64, dash: f64) {
        let (mut on, mut left) = (true, dash);
        for pair in points.windows(2) {
            let [from, to] = [pair[0], pair[1]];
            let length = libm::hypot(to[0] - from[0], to[1] - from[1]);
            let at = |distance: f64| {
                let part = distance / length;
                [from[0] + (to[0] - from[0]) * part, from[1] + (to[1] - from[1]) * part]
            };
            let mut done = 0.0;
            while done < length {
                let step = left.min(length - done);
                // A line that was asked for may reach far out of the drawing.
                let seen =
                    |[x, y]: [f64; 2]| (0.0..=self.scene.width).contains(&x) && (0.0..=self.scene.height).contains(&y);
                if on && (seen(at(done)) || seen(at(done + step))) {
                    self.line(at(done), at(done + step), colour, width);
                }
                done += step;
                left -= step;
                if left <= 0.0 {
                    on = !on;
                    left = dash;
                }
            }
        }
    }

    /// A filled polygon.
    pub(super) fn polygon(&mut self, points: &[[f64; 2]], fill: Colour, opacity: f64, stroke: Option<(Colour, f64)>) {
        let mut d = String::new();
        for (index, [x, y]) in points.iter().enumerate() {
            write!(d, "{} {x:.2} {y:.2} ", if index == 0 { 'M' } else { 'L' }).expect("writing to memory");
        }
        d.push('Z');
        self.scene.elements.push(Primitive::Path(Box::new(PathData {
            d,
            fill: Some(paint(fill)),
            stroke: stroke.map_or(Color::None, |(colour, _)| paint(colour)),
            stroke_width: stroke.map_or(0.0, |(_, width)| width),
            opacity: (opacity < 1.0).then_some(opacity),
            stroke_dasharray: None,
        })));
    }

    pub(super) fn circle(
        &mut self,
        at: [f64; 2],
        radius: f64,
        fill: Colour,
        opacity: f64,
        stroke: Option<(Colour, f64)>,
    ) {
        self.scene.elements.push(Primitive::Circle {
            cx: at[0],
            cy: at[1],
            r: radius,
            fill: paint(fill),
            fill_opacity: (opacity < 1.0).then_some(opacity),
            stroke: stroke.map(|(colour, _)| paint(colour)),
            stroke_width: stroke.map(|(_, width)| width),
        });
    }

    /// The drawing as (suffix, bytes): `svg`, unless it were very large, and `png`.
    pub(super) fn finish(self) -> Vec<(String, Vec<u8>)> {
        let mut svg = SvgBackend::new().with_pretty(true).render_scene(&self.scene);
        if let (Some(start), Some(end)) = (svg.find("  <!--"), svg.find("-->\n")) {
            // The library's version would change the bytes of an unchanged figure.
            svg.replace_range(start..end + 4, "");
        }
        // Scales with the page where the viewer wants it to.
        let size = format!("viewBox=\"0 0 {} {}\" width=", self.scene.width, self.scene.height);
        let svg = svg.replacen("width=", &size, 1);
        let png = RasterBackend::new().with_scale(SCALE).render_scene(&self.scene).expect("a scene has a size");
        let mut pictures = vec![("png".to_owned(), without_texts(&png))];
        if svg.len() <= LARGEST_SVG {
            pictures.insert(0, ("svg".to_owned(), svg.into_bytes()));
        }
        pictures
    }
}

/// A rectangle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// A PNG without its text chunks: they hold the library's version.
fn without_texts(png: &[u8]) -> Vec<u8> {
    const SIGNATURE: usize = 8;
    let mut kept = png[..SIGNATURE].to_vec();
    let mut rest = &png[SIGNATURE..];
    while rest.len() >= 12 {
        let length = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize + 12;
        let (chunk, behind) = rest.split_at(length.min(rest.len()));
        if &chunk[4..8] != b"tEXt" {
            kept.extend_from_slice(chunk);
        }
        rest = behind;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_version_in_the_bytes_and_the_same_bytes_again() {
        let draw = || {
            let mut canvas = Canvas::new(40.0, 30.0);
            canvas.text(3.0, 12.0, "a < b & $c$", Font::new(12), Anchor::Start);
            canvas.clipped(Area { x: 0.0, y: 0.0, width: 20.0, height: 20.0 }, |canvas| {
                canvas.dashes(&[[0.0, 0.0], [30.0, 30.0]], INK, 1.5, 4.0);
            });
            canvas.finish()
        };
        let pictures = draw();
        assert_eq!(pictures, draw());
        let svg = std::str::from_utf8(&pictures[0].1).unwrap();
        assert!(svg.starts_with("<svg") && !svg.contains("kuva") && !svg.contains("<!--"), "{svg}");
        assert!(svg.contains("a &lt; b &amp; $c$"), "{svg}");
        assert!(!pictures[1].1.windows(4).any(|w| w == b"kuva" || w == b"tEXt"));
        let decoder = png::Decoder::new(std::io::Cursor::new(&pictures[1].1)).read_info().unwrap();
        assert_eq!((decoder.info().width, decoder.info().height), (80, 60));
    }

    #[test]
    fn widths_are_those_of_the_font() {
        let font = Font::new(100);
        assert!((font.width("ab") - 124.8).abs() < 1e-9);
        assert!(font.width("β") >= 63.8 && font.width("−") >= 83.8);
    }
}
