//! Galleries: colour pictures of cells in a grid, with titles, captions, a legend and a scale bar.
//!
//! A [`Picture`] is made of layers, one an intensity channel, added up on black: membrane magenta, DNA cyan, structure
//! yellow. A [`Gallery`] lays pictures out as equal tiles and gives a [`Figure`]: an SVG with readable text and embedded
//! tiles, and the same as PNG.

use std::ops::Range;

use base64::Engine;
use kuva::{
    backend::raster::RasterBackend,
    render::{
        color::Color as Ink,
        render::{Primitive, Scene, TextAnchor},
    },
};

use crate::{
    artifact::{CellImage, CellsDescription, Figure, Table},
    image::Volume,
};

/// A colour: red, green, blue, each 0 to 255.
pub type Rgb = [u8; 3];

/// The plasma membrane's colour.
pub const MAGENTA: Rgb = [255, 0, 255];
/// The DNA's colour.
pub const CYAN: Rgb = [0, 255, 255];
/// The tagged structure's colour.
pub const YELLOW: Rgb = [255, 255, 0];
/// The colour of channels that have none of their own.
pub const GREY: Rgb = [200, 200, 200];

/// The colour of the channel of this name: `membrane`, `dna`, `structure`, else grey.
#[must_use]
pub fn channel_color(name: &str) -> Rgb {
    match name {
        "membrane" => MAGENTA,
        "dna" => CYAN,
        "structure" => YELLOW,
        _ => GREY,
    }
}

/// Which intensities are black and which are shown in full colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contrast {
    /// These intensities. Normalised images: 0 and 1, so that tiles can be compared.
    Fixed(f32, f32),
    /// The intensities at these percentiles (0 to 100) of the projected channel: for images as measured.
    Percentiles(f32, f32),
}

impl Contrast {
    /// The black and the full intensity for these values.
    fn limits(self, values: &[f32]) -> (f32, f32) {
        match self {
            Self::Fixed(low, high) => (low, high),
            Self::Percentiles(low, high) => {
                let mut sorted: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
                if sorted.is_empty() {
                    return (0.0, 1.0);
                }
                sorted.sort_unstable_by(f32::total_cmp);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    clippy::cast_precision_loss,
                    reason = "a position in a list"
                )]
                let at = |percent: f32| {
                    sorted[((percent / 100.0).clamp(0.0, 1.0) * (sorted.len() - 1) as f32).round() as usize]
                };
                (at(low), at(high))
            }
        }
    }
}

/// Which maximum projections of a volume are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// From above: the maximum over z; Y down, X to the right.
    Top,
    /// From the side: the maximum over y; the highest z at the top, X to the right, square pixels.
    Side,
    /// From above, and the side view below it.
    TopAndSide,
}

/// A colour picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// `width * height` pixels, row after row.
    pub pixels: Vec<Rgb>,
}

/// A pixel with a part of this brightness is seen as something.
const VISIBLE: u8 = 24;

/// How bright membrane and DNA are beside a structure.
const BACKDROP: f32 = 0.5;

/// Rows of black between the two views of [`View::TopAndSide`].
const VIEW_GAP: usize = 2;

impl Picture {
    /// A black picture.
    #[must_use]
    pub fn black(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![[0; 3]; width * height] }
    }

    /// The sum of layers of one size, each a channel, its colour and its contrast. `voxel_um` (Z, Y, X) makes side views
    /// true to scale.
    ///
    /// # Panics
    /// When the layers differ in size.
    #[must_use]
    pub fn composite(layers: &[(&Volume<f32>, Rgb, Contrast)], voxel_um: [f64; 3], view: View) -> Self {
        match view {
            View::TopAndSide => {
                let top = Self::composite(layers, voxel_um, View::Top);
                top.above(&Self::composite(layers, voxel_um, View::Side), VIEW_GAP)
            }
            View::Top | View::Side => {
                let mut picture: Option<Self> = None;
                for (volume, color, contrast) in layers {
                    let plane = if view == View::Top {
                        project_top(volume)
                    } else {
                        project_side(volume, voxel_um[0] / voxel_um[2])
                    };
                    let [_, height, width] = plane.size;
                    let sum = picture.get_or_insert_with(|| Self::black(width, height));
                    assert_eq!((sum.width, sum.height), (width, height), "layers of one picture have one size");
                    let (low, high) = contrast.limits(&plane.data);
                    let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
                    for (pixel, &value) in sum.pixels.iter_mut().zip(&plane.data) {
                        let shade = ((value - low) * scale).clamp(0.0, 1.0);
                        for (part, full) in pixel.iter_mut().zip(color) {
                            #[expect(
                                clippy::cast_possible_truncation,
                                clippy::cast_sign_loss,
                                reason = "within 0 to 255"
                            )]
                            let add = (shade * f32::from(*full)).round() as u8;
                            *part = part.saturating_add(add);
                        }
                    }
                }
                picture.unwrap_or_else(|| Self::black(1, 1))
            }
        }
    }

    /// A cell in the channels' colours. Normalised images are shown from 0 to 1, others from the 1st to the 99.8th percentile.
    #[must_use]
    pub fn cell(image: &CellImage, description: &CellsDescription, view: View) -> Self {
        if description.normalised {
            return Self::normalised(&image.channels, &description.channels, description.voxel_um, view);
        }
        Self::channels(
            &image.channels,
            &description.channels,
            Contrast::Percentiles(1.0, 99.8),
            description.voxel_um,
            view,
        )
    }

    /// Channels of normalised images in their colours, from 0 to 1. Where there is a structure, the other channels are shown
    /// at `BACKDROP` of their strength, or the structure would drown in the nucleus.
    #[must_use]
    pub fn normalised(volumes: &[Volume<f32>], names: &[String], voxel_um: [f64; 3], view: View) -> Self {
        let structured = names.iter().any(|name| name == "structure");
        let contrast = |name: &str| {
            let full = if structured && name != "structure" { 1.0 / BACKDROP } else { 1.0 };
            Contrast::Fixed(0.0, full)
        };
        let layers = volumes.iter().zip(names).map(|(volume, name)| (volume, channel_color(name), contrast(name)));
        Self::composite(&layers.collect::<Vec<_>>(), voxel_um, view)
    }

    /// Channels in their colours, by their names.
    #[must_use]
    pub fn channels(
        volumes: &[Volume<f32>],
        names: &[String],
        contrast: Contrast,
        voxel_um: [f64; 3],
        view: View,
    ) -> Self {
        let layers = volumes.iter().zip(names).map(|(volume, name)| (volume, channel_color(name), contrast));
        Self::composite(&layers.collect::<Vec<_>>(), voxel_um, view)
    }

    /// One plane in a colour scale from black over `color` to white: shows faint things in a single channel.
    #[must_use]
    pub fn glow(volume: &Volume<f32>, color: Rgb, contrast: Contrast, view: View) -> Self {
        let mut picture = Self::composite(&[(volume, [255; 3], contrast)], [1.0; 3], view);
        for pixel in &mut picture.pixels {
            let shade = u16::from(pixel[0]);
            for (part, full) in pixel.iter_mut().zip(color) {
                let full = u16::from(full);
                // The lower half goes from black to the colour, the upper half on to white.
                let value = if shade < 128 { shade * full / 128 } else { full + (255 - full) * (shade - 128) / 127 };
                *part = u8::try_from(value).unwrap_or(u8::MAX);
            }
        }
        picture
    }

    /// This picture with the borders of labelled regions drawn: pixels whose label differs from that of the pixel to the
    /// right or below. `labels` is the maximum projection's size (its first plane is used).
    ///
    /// # Panics
    /// When the sizes differ.
    #[must_use]
    pub fn outlined(mut self, labels: &Volume<u32>, color: Rgb) -> Self {
        let [_, height, width] = labels.size;
        assert_eq!((self.width, self.height), (width, height), "labels must have the picture's size");
        for y in 0..height {
            for x in 0..width {
                let here = labels.data[y * width + x];
                let right = x + 1 < width && labels.data[y * width + x + 1] != here;
                let below = y + 1 < height && labels.data[(y + 1) * width + x] != here;
                if right || below {
                    self.pixels[y * width + x] = color;
                }
            }
        }
        self
    }

    /// This picture with another one below it.
    #[must_use]
    pub fn above(&self, below: &Self, gap: usize) -> Self {
        let mut all = Self::black(self.width.max(below.width), self.height + gap + below.height);
        all.paste(self, (all.width - self.width) / 2, 0, 1);
        all.paste(below, (all.width - below.width) / 2, self.height + gap, 1);
        all
    }

    /// The columns and the rows that hold what is to be seen: from the first to behind the last pixel that is not nearly black.
    /// `None` where all is black.
    fn visible(&self) -> Option<[Range<usize>; 2]> {
        let lit = self.pixels.iter().enumerate().filter(|(_, pixel)| pixel.iter().any(|&part| part >= VISIBLE));
        lit.map(|(at, _)| (at % self.width, at / self.width)).fold(None, |found, (x, y)| {
            let [columns, rows] = found.unwrap_or([x..x, y..y]);
            Some([columns.start.min(x)..columns.end.max(x + 1), rows.start.min(y)..rows.end.max(y + 1)])
        })
    }

    /// The part of this picture in these columns and rows.
    fn cropped(&self, columns: &Range<usize>, rows: &Range<usize>) -> Self {
        let row = |row: usize| &self.pixels[row * self.width..][columns.clone()];
        Self { width: columns.len(), height: rows.len(), pixels: rows.clone().flat_map(row).copied().collect() }
    }

    /// Draws another picture, each pixel a square of `factor` pixels, its upper left corner at (`x`, `y`).
    fn paste(&mut self, other: &Self, x: usize, y: usize, factor: usize) {
        for row in 0..other.height * factor {
            let from = &other.pixels[row / factor * other.width..][..other.width];
            let to = &mut self.pixels[(y + row) * self.width + x..][..other.width * factor];
            for (square, pixel) in to.chunks_exact_mut(factor).zip(from) {
                square.fill(*pixel);
            }
        }
    }

    /// The picture as PNG.
    #[must_use]
    #[expect(
        clippy::missing_panics_doc,
        reason = "no picture in memory has 2^32 pixels a side, and writing to memory works"
    )]
    pub fn to_png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let side = |pixels: usize| u32::try_from(pixels).expect("a picture has fewer than 2^32 pixels a side");
        let mut encoder = png::Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let expect = "writing to memory";
        let mut writer = encoder.write_header().expect(expect);
        writer.write_image_data(self.pixels.as_flattened()).expect(expect);
        writer.finish().expect(expect);
        bytes
    }

    /// Reads an RGB or RGBA PNG of 8 bit; `None` where the bytes are none.
    #[must_use]
    pub fn from_png(bytes: &[u8]) -> Option<Self> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().ok()?;
        let mut data = vec![0; reader.output_buffer_size()?];
        let info = reader.next_frame(&mut data).ok()?;
        let samples = info.color_type.samples();
        if samples < 3 || info.bit_depth != png::BitDepth::Eight {
            return None;
        }
        let pixels = data[..info.buffer_size()].chunks_exact(samples).map(|p| [p[0], p[1], p[2]]).collect();
        Some(Self { width: info.width as usize, height: info.height as usize, pixels })
    }
}

/// The maximum over z, as a volume of depth 1.
#[must_use]
pub fn project_top(volume: &Volume<f32>) -> Volume<f32> {
    let [_, height, width] = volume.size;
    let mut plane = vec![f32::NEG_INFINITY; height * width];
    for slice in volume.data.chunks_exact((height * width).max(1)) {
        for (most, &value) in plane.iter_mut().zip(slice) {
            *most = most.max(value);
        }
    }
    Volume::new([1, height, width], plane)
}

/// The maximum over y, the highest z at the top, as a volume of depth 1. Rows are repeated or left out so that a row is as
/// high as a column is wide; `z_step` is the distance between planes in pixels of x.
fn project_side(volume: &Volume<f32>, z_step: f64) -> Volume<f32> {
    let [depth, height, width] = volume.size;
    let mut plane = vec![f32::NEG_INFINITY; depth * width];
    for z in 0..depth {
        let row = &mut plane[(depth - 1 - z) * width..][..width];
        for y in 0..height {
            for (most, &value) in row.iter_mut().zip(&volume.data[volume.index(z, y, 0)..]) {
                *most = most.max(value);
            }
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a small number of rows"
    )]
    let (rows, source) = {
        let rows = ((depth as f64 * z_step).round() as usize).max(1);
        (rows, move |row: usize| (((row as f64 + 0.5) / rows as f64 * depth as f64) as usize).min(depth - 1))
    };
    let data = (0..rows).flat_map(|row| plane[source(row) * width..][..width].to_vec()).collect();
    Volume::new([1, rows, width], data)
}

struct Tile {
    picture: Picture,
    caption: String,
}

#[derive(Default)]
struct Row {
    title: String,
    tiles: Vec<Tile>,
}

/// Pictures in a grid of equal tiles.
///
/// Rows are begun with [`Gallery::row`], or by themselves after every so many tiles ([`Gallery::wrap`]).
#[derive(Default)]
pub struct Gallery {
    columns: Vec<String>,
    rows: Vec<Row>,
    wrap: Option<usize>,
    pixel_um: Option<f64>,
    legend: Vec<(String, Rgb)>,
}

// Lengths of the layout in CSS pixels.
const TILE_SIDE: usize = 160;
const TILE_WIDTH_LEAST: usize = 90;
const GAP: usize = 3;
const MARGIN: usize = 10;
const TITLE_SIZE: u32 = 12;
const TITLE_SIZE_LEAST: u32 = 8;
const CAPTION_SIZE: u32 = 10;
const LINE: usize = 15;
const CAPTION_LINE: usize = 13;
/// Width of a letter over the font's size: an average of sans-serif fonts, on the safe side.
const LETTER: f64 = 0.57;
/// Pixels of the PNG for one CSS pixel.
const PNG_SCALE: usize = 2;
const TEXT: &str = "#222222";
const FAINT: &str = "#555555";

impl Gallery {
    /// An empty gallery.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Titles of the columns.
    #[must_use]
    pub fn columns<T: Into<String>>(mut self, titles: impl IntoIterator<Item = T>) -> Self {
        self.columns = titles.into_iter().map(Into::into).collect();
        self
    }

    /// A new row begins by itself after every `tiles` tiles.
    #[must_use]
    pub fn wrap(mut self, tiles: usize) -> Self {
        self.wrap = Some(tiles.max(1));
        self
    }

    /// Draws a scale bar; `pixel_um` is the side of one of the pictures' pixels in µm.
    #[must_use]
    pub fn scale_bar(mut self, pixel_um: f64) -> Self {
        self.pixel_um = Some(pixel_um);
        self
    }

    /// Names the colours of these channels below the grid.
    #[must_use]
    pub fn legend<T: AsRef<str>>(mut self, channels: impl IntoIterator<Item = T>) -> Self {
        let label = |name: &str| if name == "dna" { "DNA".to_owned() } else { name.to_owned() };
        self.legend = channels.into_iter().map(|name| (label(name.as_ref()), channel_color(name.as_ref()))).collect();
        self
    }

    /// Begins a row. An empty title: none.
    pub fn row(&mut self, title: impl Into<String>) {
        self.rows.push(Row { title: title.into(), tiles: Vec::new() });
    }

    /// The gallery with tiles cut to the part in which any of them shows something, and a little around it: the same part of
    /// each, so that places and sizes can be compared. Nothing is cut where the tiles differ in size.
    #[must_use]
    pub fn cropped(mut self) -> Self {
        let pictures = || self.rows.iter().flat_map(|row| &row.tiles).map(|tile| &tile.picture);
        let Some(size) = pictures().next().map(|first| (first.width, first.height)) else { return self };
        if pictures().any(|picture| (picture.width, picture.height) != size) {
            return self;
        }
        let join = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
        let all = pictures().filter_map(Picture::visible).reduce(|[a, b], [c, d]| [join(a, c), join(b, d)]);
        let Some([columns, rows]) = all else { return self };
        let around = |part: Range<usize>, most: usize| part.start.saturating_sub(2)..(part.end + 2).min(most);
        let (columns, rows) = (around(columns, size.0), around(rows, size.1));
        for tile in self.rows.iter_mut().flat_map(|row| &mut row.tiles) {
            tile.picture = tile.picture.cropped(&columns, &rows);
        }
        self
    }

    /// Adds a tile to the last row. The caption stands below it, at most three lines.
    pub fn tile(&mut self, picture: Picture, caption: impl Into<String>) {
        let tile = Tile { picture, caption: caption.into() };
        match self.rows.last_mut() {
            Some(row) if self.wrap.is_none_or(|wrap| row.tiles.len() < wrap) => row.tiles.push(tile),
            _ => self.rows.push(Row { title: String::new(), tiles: vec![tile] }),
        }
    }

    /// Whether there is no tile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(|row| row.tiles.is_empty())
    }

    /// The figure: the gallery as SVG and PNG. See [`Figure`] for the texts.
    #[must_use]
    pub fn figure(&self, name: &str, section: &str, title: &str, caption: &str, table: Option<Table>) -> Figure {
        let layout = Layout::of(self);
        let (svg, png) = rayon::join(|| layout.to_svg(), || layout.to_png());
        Figure {
            name: name.to_owned(),
            section: section.to_owned(),
            title: title.to_owned(),
            caption: caption.to_owned(),
            pictures: vec![("svg".to_owned(), svg), ("png".to_owned(), png)],
            table,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

struct Text {
    x: f64,
    baseline: f64,
    content: String,
    size: u32,
    anchor: Anchor,
    color: &'static str,
}

struct Block {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    color: String,
}

/// Where everything stands, in CSS pixels.
struct Layout<'a> {
    width: usize,
    height: usize,
    /// CSS pixels a side of one pixel of a picture.
    factor: usize,
    tile: [usize; 2],
    tiles: Vec<(usize, usize, &'a Picture)>,
    texts: Vec<Text>,
    blocks: Vec<Block>,
}

/// Breaks a text into at most `most` lines of `width` CSS pixels, at spaces and behind hyphens; what does not fit ends in …
fn wrapped(text: &str, width: usize, size: u32, most: usize) -> Vec<String> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "letters")]
    let room = ((width as f64 / (f64::from(size) * LETTER)) as usize).max(3);
    let mut lines: Vec<String> = Vec::new();
    for part in text.lines() {
        let mut line = String::new();
        for word in part.split_inclusive([' ', '-']) {
            let long = line.chars().count() + word.trim_end().chars().count() > room;
            if long && !line.is_empty() {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            line.push_str(word);
        }
        lines.push(line.trim_end().to_owned());
    }
    let cut = lines.len() > most;
    lines.truncate(most);
    let last = lines.len().saturating_sub(1);
    for (index, line) in lines.iter_mut().enumerate() {
        if line.chars().count() > room || (cut && index == last) {
            *line = line.chars().take(room - 1).collect::<String>().trim_end().to_owned() + "…";
        }
    }
    lines
}

/// The size of column titles: such that the longest word fits, within reason.
fn title_size(titles: &[String], width: usize) -> u32 {
    let words = titles.iter().flat_map(|title| title.split_inclusive([' ', '-']));
    let longest = words.map(|word| word.trim_end().chars().count()).max().unwrap_or(0);
    (TITLE_SIZE_LEAST..TITLE_SIZE).rev().fold(TITLE_SIZE, |size, smaller| {
        #[expect(clippy::cast_precision_loss, reason = "a number of letters, a width on a page")]
        let fits = longest as f64 * f64::from(size) * LETTER <= width as f64;
        if fits { size } else { smaller }
    })
}

/// A round length (1, 2 or 5 times a power of ten, in µm) of about a third of a tile.
fn bar_length_um(tile_um: f64) -> f64 {
    let wanted = tile_um / 3.0;
    let power = libm::pow(10f64, libm::log10(wanted).floor());
    [5.0, 2.0, 1.0].into_iter().find(|step| step * power <= wanted).unwrap_or(1.0) * power
}

#[expect(clippy::cast_precision_loss, reason = "lengths on a page are far below 2^53 pixels")]
impl<'a> Layout<'a> {
    fn of(gallery: &'a Gallery) -> Self {
        let all = || gallery.rows.iter().flat_map(|row| &row.tiles);
        let pixels = |side: fn(&Picture) -> usize| all().map(|tile| side(&tile.picture)).max().unwrap_or(1).max(1);
        let (wide, high) = (pixels(|p| p.width), pixels(|p| p.height));
        let factor = (TILE_SIDE / wide.max(high)).max(TILE_WIDTH_LEAST.div_ceil(wide));
        let tile = [wide * factor, high * factor];
        let count = gallery.rows.iter().map(|row| row.tiles.len()).chain([gallery.columns.len(), 1]).max().unwrap_or(1);

        let lines = gallery.rows.iter().flat_map(|row| row.title.lines());
        let longest = lines.map(|line| line.chars().count()).max().unwrap_or(0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 160")]
        let row_titles = (longest as f64 * f64::from(TITLE_SIZE) * LETTER).ceil().min(160.0) as usize;
        let left = MARGIN + if row_titles > 0 { row_titles + 6 } else { 0 };
        let mut texts = Vec::new();
        let mut blocks = Vec::new();
        let mut tiles = Vec::new();

        let title_size = title_size(&gallery.columns, tile[0]);
        let titles: Vec<Vec<String>> = gallery.columns.iter().map(|t| wrapped(t, tile[0], title_size, 3)).collect();
        let title_lines = titles.iter().map(Vec::len).max().unwrap_or(0);
        let mut y = MARGIN + title_lines * LINE + if title_lines > 0 { 4 } else { 0 };
        let column = |index: usize| left + index * (tile[0] + GAP);
        for (index, lines) in titles.into_iter().enumerate() {
            let first = MARGIN + (title_lines - lines.len()) * LINE;
            for (line, content) in lines.into_iter().enumerate() {
                texts.push(Text {
                    x: column(index) as f64 + tile[0] as f64 / 2.0,
                    baseline: (first + line * LINE + 11) as f64,
                    content,
                    size: title_size,
                    anchor: Anchor::Middle,
                    color: TEXT,
                });
            }
        }
        for row in &gallery.rows {
            let lines = wrapped(&row.title, row_titles.max(1), TITLE_SIZE, 4);
            let middle = y as f64 + tile[1] as f64 / 2.0 - (lines.len() * LINE) as f64 / 2.0;
            for (line, content) in lines.into_iter().enumerate().filter(|_| !row.title.is_empty()) {
                texts.push(Text {
                    x: (left - 6) as f64,
                    baseline: middle + (line * LINE + 11) as f64,
                    content,
                    size: TITLE_SIZE,
                    anchor: Anchor::End,
                    color: TEXT,
                });
            }
            let mut caption_lines = 0;
            for (index, entry) in row.tiles.iter().enumerate() {
                tiles.push((column(index), y, &entry.picture));
                let captions = wrapped(&entry.caption, tile[0], CAPTION_SIZE, 3);
                let captions = if entry.caption.is_empty() { Vec::new() } else { captions };
                caption_lines = caption_lines.max(captions.len());
                for (line, content) in captions.into_iter().enumerate() {
                    texts.push(Text {
                        x: column(index) as f64 + tile[0] as f64 / 2.0,
                        baseline: (y + tile[1] + line * CAPTION_LINE + 12) as f64,
                        content,
                        size: CAPTION_SIZE,
                        anchor: Anchor::Middle,
                        color: FAINT,
                    });
                }
            }
            y += tile[1] + GAP + if caption_lines > 0 { caption_lines * CAPTION_LINE + 5 } else { 0 };
        }

        let mut width = column(count) - GAP + MARGIN;
        if gallery.pixel_um.is_some() || !gallery.legend.is_empty() {
            y += 6;
            let mut x = left as f64;
            let baseline = (y + 11) as f64;
            let mut label = |x: f64, content: String| {
                let taken = content.chars().count() as f64 * f64::from(CAPTION_SIZE) * LETTER;
                texts.push(Text { x, baseline, content, size: CAPTION_SIZE, anchor: Anchor::Start, color: TEXT });
                taken
            };
            if let Some(pixel_um) = gallery.pixel_um {
                let length = bar_length_um(wide as f64 * pixel_um);
                let long = length / pixel_um * factor as f64;
                blocks.push(Block { x, y: (y + 5) as f64, width: long, height: 4.0, color: "#111111".to_owned() });
                x += long + 6.0;
                x += label(x, format!("{length} µm")) + 16.0;
            }
            for (name, color) in &gallery.legend {
                let [r, g, b] = color;
                let color = format!("#{r:02x}{g:02x}{b:02x}");
                blocks.push(Block { x, y: (y + 2) as f64, width: 10.0, height: 10.0, color: "#000000".to_owned() });
                blocks.push(Block { x: x + 1.0, y: (y + 3) as f64, width: 8.0, height: 8.0, color });
                x += 15.0;
                x += label(x, name.clone()) + 12.0;
            }
            y += LINE + 4;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a width on a page")]
            let needed = x.ceil() as usize;
            width = width.max(needed);
        }
        Self { width, height: y - GAP + MARGIN, factor, tile, tiles, texts, blocks }
    }

    /// Where a picture stands inside its tile: in the middle.
    fn inset(&self, picture: &Picture) -> [usize; 2] {
        [(self.tile[0] - picture.width * self.factor) / 2, (self.tile[1] - picture.height * self.factor) / 2]
    }

    fn to_svg(&self) -> Vec<u8> {
        use std::fmt::Write;
        let (width, height, [tile_width, tile_height]) = (self.width, self.height, self.tile);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        let expect = "writing to a string";
        for (x, y, picture) in &self.tiles {
            writeln!(svg, "<rect x=\"{x}\" y=\"{y}\" width=\"{tile_width}\" height=\"{tile_height}\"/>").expect(expect);
            let [dx, dy] = self.inset(picture);
            let data = base64::engine::general_purpose::STANDARD.encode(picture.to_png());
            writeln!(
                svg,
                "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>",
                x + dx,
                y + dy,
                picture.width * self.factor,
                picture.height * self.factor
            )
            .expect(expect);
        }
        for Block { x, y, width, height, color } in &self.blocks {
            writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\"/>"
            )
            .expect(expect);
        }
        for text in &self.texts {
            let anchor = match text.anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let content = text.content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"{}\" text-anchor=\"{anchor}\" fill=\"{}\">{content}</text>",
                text.x, text.baseline, text.size, text.color
            )
            .expect(expect);
        }
        svg.push_str("</svg>\n");
        svg.into_bytes()
    }

    fn to_png(&self) -> Vec<u8> {
        // The text is set by the plot library, which brings a font; the tiles are drawn here.
        let mut scene = Scene::new(self.width as f64, self.height as f64).with_background(Some("#ffffff"));
        for Block { x, y, width, height, color } in &self.blocks {
            scene.add(Primitive::Rect {
                x: *x,
                y: *y,
                width: *width,
                height: *height,
                fill: Ink::from(color.as_str()),
                stroke: None,
                stroke_width: None,
                opacity: None,
            });
        }
        for text in &self.texts {
            scene.add(Primitive::Text {
                x: text.x,
                y: text.baseline,
                content: text.content.clone(),
                size: text.size,
                anchor: match text.anchor {
                    Anchor::Start => TextAnchor::Start,
                    Anchor::Middle => TextAnchor::Middle,
                    Anchor::End => TextAnchor::End,
                },
                rotate: None,
                bold: false,
                color: Some(Ink::from(text.color)),
            });
        }
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let page = RasterBackend::new().with_scale(PNG_SCALE as f32).render_scene(&scene);
        let page = page.ok().and_then(|bytes| Picture::from_png(&bytes));
        let mut page = page.expect("the plot library renders text and rectangles to an RGBA PNG");
        for (x, y, picture) in &self.tiles {
            let tile = Picture::black(self.tile[0], self.tile[1]);
            page.paste(&tile, x * PNG_SCALE, y * PNG_SCALE, PNG_SCALE);
            let [dx, dy] = self.inset(picture);
            page.paste(picture, (x + dx) * PNG_SCALE, (y + dy) * PNG_SCALE, self.factor * PNG_SCALE);
        }
        page.to_png()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(size: [usize; 3], bright: &[(usize, f32)]) -> Volume<f32> {
        let mut volume = Volume::filled(size, 0.0);
        for &(at, value) in bright {
            volume.data[at] = value;
        }
        volume
    }

    #[test]
    fn colours_add_up_on_black() {
        let (membrane, dna) = (volume([1, 1, 3], &[(0, 1.0), (1, 0.5)]), volume([1, 1, 3], &[(1, 0.5)]));
        let layers = [(&membrane, MAGENTA, Contrast::Fixed(0.0, 1.0)), (&dna, CYAN, Contrast::Fixed(0.0, 1.0))];
        let picture = Picture::composite(&layers, [1.0; 3], View::Top);
        assert_eq!(picture.pixels, [[255, 0, 255], [128, 128, 255], [0, 0, 0]]);
    }

    #[test]
    fn projections_from_above_and_from_the_side() {
        // One bright voxel at z = 0, y = 1, x = 2 of 2 × 3 × 4; planes twice as far apart as pixels.
        let one = volume([2, 3, 4], &[(6, 1.0)]);
        let layers = [(&one, [255; 3], Contrast::Fixed(0.0, 1.0))];
        let top = Picture::composite(&layers, [2.0, 1.0, 1.0], View::Top);
        assert_eq!((top.width, top.height, top.pixels[6]), (4, 3, [255; 3]));
        let side = Picture::composite(&layers, [2.0, 1.0, 1.0], View::Side);
        assert_eq!((side.width, side.height), (4, 4));
        let lit: Vec<usize> = (0..16).filter(|&at| side.pixels[at] != [0; 3]).collect();
        assert_eq!(lit, [10, 14], "z = 0 is at the bottom");
        let both = Picture::composite(&layers, [2.0, 1.0, 1.0], View::TopAndSide);
        assert_eq!((both.width, both.height), (4, 3 + VIEW_GAP + 4));
    }

    #[test]
    fn the_structure_stands_before_the_rest() {
        let half = volume([1, 1, 2], &[(0, 1.0)]);
        let names = ["dna".to_owned(), "structure".to_owned()];
        let both = Picture::normalised(&[half.clone(), half.clone()], &names, [1.0; 3], View::Top);
        assert_eq!(both.pixels[0], [255, 255, 128]);
        assert_eq!(Picture::normalised(&[half], &names[..1], [1.0; 3], View::Top).pixels[0], CYAN);
    }

    #[test]
    fn tiles_are_cut_to_what_any_of_them_shows() {
        let dot = |at: usize| {
            let mut picture = Picture::black(20, 10);
            picture.pixels[at] = YELLOW;
            picture
        };
        let mut gallery = Gallery::new();
        gallery.tile(dot(3 * 20 + 8), "");
        gallery.tile(dot(4 * 20 + 11), "");
        gallery.tile(Picture::black(20, 10), "");
        let cut = gallery.cropped();
        let tiles: Vec<&Picture> = cut.rows[0].tiles.iter().map(|tile| &tile.picture).collect();
        assert!(tiles.iter().all(|picture| (picture.width, picture.height) == (8, 6)));
        assert_eq!(tiles[0].pixels[2 * 8 + 2], YELLOW);
        assert_eq!(tiles[1].pixels[3 * 8 + 5], YELLOW);
    }

    #[test]
    fn percentiles_and_flat_images() {
        let ramp = Volume::new([1, 1, 101], (0..101u8).map(f32::from).collect());
        assert_eq!(Contrast::Percentiles(10.0, 90.0).limits(&ramp.data), (10.0, 90.0));
        let flat = Volume::filled([1, 2, 2], 7.0);
        let picture = Picture::composite(&[(&flat, CYAN, Contrast::Percentiles(0.0, 100.0))], [1.0; 3], View::Top);
        assert_eq!(picture, Picture::black(2, 2), "nothing to see is black, not full colour");
        let broken = Volume::filled([1, 2, 2], f32::NAN);
        let picture = Picture::composite(&[(&broken, CYAN, Contrast::Percentiles(0.0, 100.0))], [1.0; 3], View::Top);
        assert_eq!(picture, Picture::black(2, 2));
    }

    #[test]
    fn outlines_stand_on_borders_only() {
        let labels = Volume::new([1, 1, 4], vec![1, 1, 2, 2]);
        let picture = Picture::black(4, 1).outlined(&labels, YELLOW);
        assert_eq!(picture.pixels, [[0; 3], YELLOW, [0; 3], [0; 3]]);
    }

    #[test]
    fn text_is_wrapped_and_cut() {
        assert_eq!(wrapped("tight-junctions", 70, 12, 3), ["tight-", "junctions"]);
        assert_eq!(wrapped("a b c d e f", 22, 12, 2), ["a b", "c…"]);
        assert_eq!(title_size(&["short".to_owned()], 64), 12);
        assert_eq!(title_size(&["endoplasmic-reticulum".to_owned()], 64), 9);
        assert_eq!(wrapped("unbreakable", 36, 12, 2), ["unbr…"]);
        assert!((bar_length_um(30.0) - 10.0).abs() < 1e-12 && (bar_length_um(8.0) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn svg_and_png_of_a_gallery() {
        let mut gallery = Gallery::new().columns(["observed", "a < b"]).scale_bar(0.317).legend(["membrane", "dna"]);
        gallery.row("first");
        gallery.tile(Picture { width: 2, height: 1, pixels: vec![MAGENTA, CYAN] }, "c & d");
        gallery.tile(Picture::black(2, 2), "");
        let figure = gallery.figure("cells", "Cells", "Cells", "Two cells.", None);
        let svg = String::from_utf8(figure.pictures[0].1.clone()).unwrap();
        assert!(svg.contains("a &lt; b") && svg.contains("c &amp; d") && svg.contains("µm"), "{svg}");
        assert_eq!(svg.matches("<image").count(), 2);
        let page = Picture::from_png(&figure.pictures[1].1).unwrap();
        let width: usize = svg.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
        assert_eq!(page.width, width * PNG_SCALE);
        for color in [MAGENTA, CYAN, [255; 3]] {
            assert!(page.pixels.contains(&color), "{color:?}");
        }
        assert_eq!(gallery.figure("cells", "Cells", "Cells", "Two cells.", None), figure, "the same bytes again");
        let empty = Gallery::new().figure("none", "Cells", "None", "No cells.", None);
        assert!(Picture::from_png(&empty.pictures[1].1).is_some(), "an empty gallery is an empty page");
    }
}
