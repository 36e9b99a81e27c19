//! Charts: layers of marks over a pair of axes.

use super::{
    Axis, Colour, ColourMap, GREY, PALETTE,
    axis::{AxisLayout, number, short_number},
    canvas::{Anchor, Area, Canvas, Font, GRID, INK, PAPER},
    violin,
};

const TICK_FONT: Font = Font::new(11);
const TITLE_FONT: Font = Font::new(12);
const LEGEND_FONT: Font = Font::new(11);
const CHART_FONT: Font = Font { bold: true, ..Font::new(13) };
const SMALL_FONT: Font = Font::new(10);
const GAP: f64 = 6.0;
const TICK: f64 = 4.0;
const LINE_HEIGHT: f64 = 17.0;
const BAR_WIDTH: f64 = 12.0;
/// Tick labels of categories that would be wider than this are turned.
const TURNED_DEGREES: f64 = -40.0;

/// One layer of marks.
#[derive(Clone, Debug, PartialEq)]
enum Layer {
    Line { name: String, points: Vec<[f64; 2]>, colour: Colour, dashed: bool, dots: bool },
    Reference { name: String, points: Vec<[f64; 2]> },
    Points { name: String, points: Vec<[f64; 2]>, colour: Colour, shape: usize },
    Graded { points: Vec<[f64; 2]>, values: Vec<f64>, connected: bool },
    Labels { points: Vec<[f64; 2]>, texts: Vec<String> },
    Bars { name: String, bars: Vec<[f64; 2]>, colour: Colour },
    Violins { name: String, groups: Vec<Vec<f64>>, colour: Colour },
    Cells { rows: usize, columns: usize, values: Vec<f64>, map: ColourMap },
}

/// A chart: layers of marks over a pair of axes. Drawn by [`pictures`](super::pictures).
///
/// Values that are not finite are left out; a line breaks there.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    size: [f64; 2],
    layers: Vec<Layer>,
    next_colour: usize,
    scale_title: String,
}

/// What a name in the legend stands for.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    name: String,
    colour: Colour,
    mark: Mark,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Line { dots: bool },
    Dashes,
    Point(usize),
    Box,
}

impl Chart {
    /// An empty chart over these axes.
    #[must_use]
    pub fn new(x: Axis, y: Axis) -> Self {
        Self {
            title: String::new(),
            x,
            y,
            size: [400.0, 280.0],
            layers: Vec::new(),
            next_colour: 0,
            scale_title: String::new(),
        }
    }

    /// A title above the chart: for charts side by side. A chart alone needs none, the figure has one.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// The size of the area between the axes, in CSS pixels; 400 × 280 else.
    #[must_use]
    pub fn area(mut self, width: f64, height: f64) -> Self {
        self.size = [width, height];
        self
    }

    /// What follows takes its colour from this place of the palette on.
    #[must_use]
    pub fn colours_from(mut self, index: usize) -> Self {
        self.next_colour = index;
        self
    }

    fn colour(&mut self) -> Colour {
        self.next_colour += 1;
        Colour::category(self.next_colour - 1)
    }

    fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// A line through (x, y) points, in the next colour. A layer with an empty name does not stand in the legend.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        let colour = self.colour();
        self.layer(Layer::Line { name: name.into(), points: points.to_vec(), colour, dashed: false, dots: false })
    }

    /// A line in a given colour.
    #[must_use]
    pub fn coloured_line(self, name: impl Into<String>, points: &[[f64; 2]], colour: Colour) -> Self {
        self.layer(Layer::Line { name: name.into(), points: points.to_vec(), colour, dashed: false, dots: false })
    }

    /// A line with a dot at every point.
    #[must_use]
    pub fn dotted_line(mut self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        let colour = self.colour();
        self.layer(Layer::Line { name: name.into(), points: points.to_vec(), colour, dashed: false, dots: true })
    }

    /// A dashed line in the colour of the layer before it: the other half of a pair, such as validation beside training.
    #[must_use]
    pub fn dashed_line(self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        let colour = Colour::category(self.next_colour.saturating_sub(1));
        self.layer(Layer::Line { name: name.into(), points: points.to_vec(), colour, dashed: true, dots: false })
    }

    /// A dashed line in black: the sum of the others.
    #[must_use]
    pub fn black_dashes(self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        self.layer(Layer::Line { name: name.into(), points: points.to_vec(), colour: INK, dashed: true, dots: false })
    }

    /// A grey dashed line that does not widen the axes: a threshold, an optimum. Layers are drawn in order, so it stands behind
    /// what is added after it.
    #[must_use]
    pub fn reference(self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        self.layer(Layer::Reference { name: name.into(), points: points.to_vec() })
    }

    /// Points of one category, in the next colour (after eight categories: the next shape).
    #[must_use]
    pub fn points(mut self, name: impl Into<String>, points: &[[f64; 2]]) -> Self {
        let shape = self.next_colour / PALETTE.len();
        let colour = self.colour();
        self.layer(Layer::Points { name: name.into(), points: points.to_vec(), colour, shape })
    }

    /// Points of one category in a given colour.
    #[must_use]
    pub fn coloured_points(self, name: impl Into<String>, points: &[[f64; 2]], colour: Colour) -> Self {
        self.layer(Layer::Points { name: name.into(), points: points.to_vec(), colour, shape: 0 })
    }

    /// Points coloured by a number each, with a colour bar under `title`. Points without a number are grey.
    #[must_use]
    pub fn graded_points(mut self, title: impl Into<String>, points: &[[f64; 2]], values: &[f64]) -> Self {
        self.scale_title = title.into();
        self.layer(Layer::Graded { points: points.to_vec(), values: values.to_vec(), connected: false })
    }

    /// The same, larger, and a thin line from point to point: a curve along which the number grows.
    #[must_use]
    pub fn graded_curve(mut self, title: impl Into<String>, points: &[[f64; 2]], values: &[f64]) -> Self {
        self.scale_title = title.into();
        self.layer(Layer::Graded { points: points.to_vec(), values: values.to_vec(), connected: true })
    }

    /// Only a colour bar under `title` for these values: what [`ColourMap::Sequential`] made of them colours other layers.
    #[must_use]
    pub fn colour_scale(self, title: impl Into<String>, values: &[f64]) -> Self {
        self.graded_points(title, &[], values)
    }

    /// A short text beside each point. Texts that would cover earlier ones are left out.
    #[must_use]
    pub fn labels(self, points: &[[f64; 2]], texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.layer(Layer::Labels { points: points.to_vec(), texts: texts.into_iter().map(Into::into).collect() })
    }

    /// Bars from zero: (x, height). On an axis of categories, x is the category's number. Several layers stand side by side.
    #[must_use]
    pub fn bars(mut self, name: impl Into<String>, bars: &[[f64; 2]]) -> Self {
        let colour = self.colour();
        self.y = self.y.including(0.0);
        self.layer(Layer::Bars { name: name.into(), bars: bars.to_vec(), colour })
    }

    /// A violin for every category of the x axis: the distribution of its values, quartiles as a bar, the median as a dot.
    /// Several layers stand side by side. Up to five values are drawn as points.
    #[must_use]
    pub fn violins(mut self, name: impl Into<String>, groups: Vec<Vec<f64>>) -> Self {
        let colour = self.colour();
        self.layer(Layer::Violins { name: name.into(), groups, colour })
    }

    /// A heat map over two axes of categories, with a colour bar under `title`. `values`: row by row, the first row on top.
    /// A diverging map is symmetric about zero. Missing values are grey.
    ///
    /// # Panics
    /// When there are not rows × columns values.
    #[must_use]
    pub fn heat_map(
        mut self,
        title: impl Into<String>,
        rows: usize,
        columns: usize,
        values: &[f64],
        map: ColourMap,
    ) -> Self {
        assert_eq!(values.len(), rows * columns, "a heat map of {rows} × {columns}");
        self.scale_title = title.into();
        self.layer(Layer::Cells { rows, columns, values: values.to_vec(), map })
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for layer in &self.layers {
            let (name, colour, mark) = match layer {
                Layer::Line { name, colour, dashed: true, .. } => (name, *colour, Mark::Dashes),
                Layer::Line { name, colour, dots, .. } => (name, *colour, Mark::Line { dots: *dots }),
                Layer::Reference { name, .. } => (name, GREY, Mark::Dashes),
                Layer::Points { name, colour, shape, .. } => (name, *colour, Mark::Point(*shape)),
                Layer::Bars { name, colour, .. } | Layer::Violins { name, colour, .. } => (name, *colour, Mark::Box),
                Layer::Graded { .. } | Layer::Labels { .. } | Layer::Cells { .. } => continue,
            };
            if !name.is_empty() {
                entries.push(Entry { name: name.clone(), colour, mark });
            }
        }
        entries
    }

    /// The range and map of the colour bar, if there is one.
    fn colour_bar(&self) -> Option<(f64, f64, ColourMap)> {
        self.layers.iter().find_map(|layer| {
            let (values, map) = match layer {
                Layer::Graded { values, .. } => (values, ColourMap::Sequential),
                Layer::Cells { values, map, .. } => (values, *map),
                _ => return None,
            };
            let finite = values.iter().copied().filter(|v| v.is_finite());
            let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
            match map {
                _ if low > high => None,
                ColourMap::Diverging => {
                    let most = low.abs().max(high.abs()).max(f64::MIN_POSITIVE);
                    Some((-most, most, map))
                }
                ColourMap::Sequential if low == high => Some((low - 0.5, high + 0.5, map)),
                ColourMap::Sequential => Some((low, high, map)),
            }
        })
    }

    fn is_heat_map(&self) -> bool {
        self.layers.iter().any(|layer| matches!(layer, Layer::Cells { .. }))
    }

    fn lay_out(&self) -> Layout {
        let coordinates = |axis: usize| {
            self.layers.iter().flat_map(move |layer| -> Vec<f64> {
                match layer {
                    Layer::Line { points, .. } | Layer::Points { points, .. } | Layer::Graded { points, .. } => {
                        points.iter().map(|p| p[axis]).collect()
                    }
                    Layer::Bars { bars, .. } if axis == 0 => {
                        bars.iter().flat_map(|bar| [bar[0] - 0.5, bar[0] + 0.5]).collect()
                    }
                    Layer::Bars { bars, .. } => bars.iter().map(|bar| bar[1]).collect(),
                    Layer::Violins { groups, .. } if axis == 1 => groups.concat(),
                    _ => Vec::new(),
                }
            })
        };
        let has_bars = self.layers.iter().any(|layer| matches!(layer, Layer::Bars { .. }));
        let x = self.x.lay_out(coordinates(0), self.size[0], 65.0, has_bars);
        let y = self.y.lay_out(coordinates(1), self.size[1], 36.0, false);
        let widest =
            |layout: &AxisLayout| layout.ticks.iter().map(|(_, label)| TICK_FONT.width(label)).fold(0.0, f64::max);
        let turned = self.x.names().is_some_and(|names| widest(&x) > self.size[0] / names.len().max(1) as f64 - 4.0);
        let label_height = if turned {
            widest(&x) * libm::sin(TURNED_DEGREES.to_radians()).abs() + 10.0
        } else {
            f64::from(TICK_FONT.size) + 2.0
        };
        let title_height = |title: &str| if title.is_empty() { 0.0 } else { f64::from(TITLE_FONT.size) + GAP + 2.0 };
        // Turned labels hang to the left of their tick.
        let hanging = if turned {
            let slot = self.size[0] / x.ticks.len().max(1) as f64;
            let reach = |(index, (_, label)): (usize, &(f64, String))| {
                TICK_FONT.width(label) * libm::cos(TURNED_DEGREES.to_radians()) - slot * (index as f64 + 0.5)
            };
            x.ticks.iter().enumerate().map(reach).fold(0.0, f64::max)
        } else {
            0.0
        };
        let left = (TICK + GAP + widest(&y) + title_height(self.y.title())).max(hanging);
        let last = x
            .ticks
            .last()
            .filter(|_| !turned)
            .map_or(0.0, |(value, label)| TICK_FONT.width(label) / 2.0 - self.size[0] * (1.0 - x.position(*value)));
        Layout {
            left,
            right: last.max(4.0),
            top: if self.title.is_empty() { 8.0 } else { f64::from(CHART_FONT.size) + 12.0 },
            bottom: TICK + GAP + label_height + title_height(self.x.title()),
            legend: self.legend_width(),
            turned,
            x,
            y,
        }
    }

    fn legend_width(&self) -> f64 {
        let names = self.entries().iter().map(|entry| LEGEND_FONT.width(&entry.name) + 28.0).fold(0.0, f64::max);
        let bar = self.colour_bar().map_or(0.0, |(low, high, _)| {
            let ticks = Axis::linear("").lay_out([low, high].into_iter(), self.bar_height(), 45.0, true).ticks;
            let labels = ticks.iter().map(|(_, label)| TICK_FONT.width(label)).fold(0.0, f64::max);
            (BAR_WIDTH + GAP + labels)
                .max(lines_of(&self.scale_title).map(|l| LEGEND_FONT.width(l)).fold(0.0, f64::max))
        });
        let width = f64::max(names, bar);
        if width > 0.0 { width + 14.0 } else { 0.0 }
    }

    fn bar_height(&self) -> f64 {
        (self.size[1] * 0.7).min(180.0)
    }

    fn draw(&self, canvas: &mut Canvas, area: Area, layout: &Layout, own_legend: bool) {
        if !self.title.is_empty() {
            canvas.text(area.x, area.y - 10.0, &self.title, CHART_FONT, Anchor::Start);
        }
        self.draw_axes(canvas, area, layout);
        if self.x.is_fixed() || self.y.is_fixed() {
            canvas.clipped(area, |canvas| self.draw_layers(canvas, area, layout));
        } else {
            self.draw_layers(canvas, area, layout);
        }
        if self.layers.iter().all(Layer::is_empty) {
            let at = [area.x + area.width / 2.0, area.y + area.height / 2.0];
            canvas.text(at[0], at[1], "no values", TITLE_FONT, Anchor::Middle);
        }
        if own_legend {
            self.draw_legend(canvas, area, layout);
        }
    }

    fn draw_layers(&self, canvas: &mut Canvas, area: Area, layout: &Layout) {
        // Far outside a fixed axis, it does not matter where.
        let position = |axis: &AxisLayout, value: f64| axis.position(value).clamp(-100.0, 100.0);
        let place = |p: [f64; 2]| {
            [area.x + area.width * position(&layout.x, p[0]), area.y + area.height * (1.0 - position(&layout.y, p[1]))]
        };
        let side_by_side = |bars: bool| {
            self.layers
                .iter()
                .filter(|l| {
                    matches!(l, Layer::Bars { .. }) == bars && matches!(l, Layer::Bars { .. } | Layer::Violins { .. })
                })
                .count()
        };
        let (mut bar_layer, mut violin_layer) = (0, 0);
        let unit = (layout.x.position(1.0) - layout.x.position(0.0)) * area.width;
        for layer in &self.layers {
            match layer {
                Layer::Line { points, colour, dashed, dots, .. } => {
                    for run in points.split(|&p| !self.shows(p)) {
                        let run: Vec<_> = run.iter().map(|&p| place(p)).collect();
                        if *dashed {
                            canvas.dashes(&run, *colour, 2.0, 5.0);
                        } else if run.len() > 1 {
                            canvas.polyline(&run, *colour, 2.0);
                        }
                        if *dots || run.len() == 1 {
                            for &p in &run {
                                canvas.circle(p, 3.5, *colour, 1.0, Some((PAPER, 1.0)));
                            }
                        }
                    }
                }
                Layer::Points { points, colour, shape, .. } => {
                    let radius = point_radius(points.len());
                    for &p in points.iter().filter(|&&p| self.shows(p)) {
                        draw_mark(canvas, *shape, place(p), radius, *colour);
                    }
                }
                Layer::Graded { points, values, connected } => {
                    let shown: Vec<_> = points.iter().zip(values).filter(|(p, _)| self.shows(**p)).collect();
                    if *connected {
                        let run: Vec<_> = shown.iter().map(|(p, _)| place(**p)).collect();
                        canvas.polyline(&run, GREY, 1.0);
                    }
                    let radius = if *connected { 5.0 } else { point_radius(points.len()) };
                    for (&p, value) in shown {
                        let colour = self
                            .colour_bar()
                            .filter(|_| value.is_finite())
                            .map_or(GREY, |(low, high, map)| map.at((value - low) / (high - low)));
                        let edge = connected.then_some((INK, 0.75));
                        canvas.circle(place(p), radius, colour, if *connected { 1.0 } else { 0.8 }, edge);
                    }
                }
                Layer::Labels { points, texts } => self.draw_labels(canvas, area, points, texts, place),
                Layer::Bars { bars, colour, .. } => {
                    let count = side_by_side(true) as f64;
                    let width = (unit * 0.8 / count).max(1.0);
                    let shift = (bar_layer as f64 - (count - 1.0) / 2.0) * width;
                    bar_layer += 1;
                    canvas.crisp(|canvas| {
                        for &bar in bars.iter().filter(|&&bar| self.shows(bar)) {
                            let [x, top] = place(bar);
                            let [_, zero] = place([bar[0], 0.0]);
                            canvas.rectangle(
                                x + shift - width / 2.0,
                                top.min(zero),
                                width,
                                (top - zero).abs(),
                                *colour,
                                1.0,
                            );
                        }
                    });
                }
                Layer::Violins { groups, colour, .. } => {
                    let count = side_by_side(false) as f64;
                    let width = unit * 0.86 / count;
                    let shift = (violin_layer as f64 - (count - 1.0) / 2.0) * width;
                    violin_layer += 1;
                    for (category, values) in groups.iter().enumerate() {
                        let shown: Vec<f64> = values.iter().copied().filter(|&v| self.y.shows(v)).collect();
                        let centre = place([category as f64, 0.0])[0] + shift;
                        violin::draw(canvas, &shown, *colour, centre, width * 0.92, |v| place([0.0, v])[1]);
                    }
                }
                Layer::Cells { rows, columns, values, map } => {
                    self.draw_cells(canvas, area, [*rows, *columns], values, *map);
                }
                Layer::Reference { points, .. } => {
                    let points: Vec<_> = points.iter().map(|&p| place(p)).collect();
                    canvas.clipped(area, |canvas| canvas.dashes(&points, GREY, 1.5, 5.0));
                }
            }
        }
    }

    fn shows(&self, point: [f64; 2]) -> bool {
        self.x.shows(point[0]) && self.y.shows(point[1])
    }

    fn draw_axes(&self, canvas: &mut Canvas, area: Area, layout: &Layout) {
        let (bottom, right) = (area.y + area.height, area.x + area.width);
        let heat_map = self.is_heat_map();
        for (value, label) in &layout.y.ticks {
            let part = layout.y.position(*value);
            // The first row of a heat map stands on top.
            let y = if heat_map { area.y + area.height * part } else { bottom - area.height * part };
            if self.y.names().is_none() {
                canvas.line([area.x, y], [right, y], GRID, 1.0);
                canvas.line([area.x - TICK, y], [area.x, y], INK, 1.0);
            }
            canvas.text(area.x - TICK - GAP + 2.0, y + 4.0, label, TICK_FONT, Anchor::End);
        }
        for (value, label) in &layout.x.ticks {
            let x = area.x + area.width * layout.x.position(*value);
            if self.x.names().is_none() {
                canvas.line([x, bottom], [x, bottom + TICK], INK, 1.0);
            }
            if layout.turned {
                canvas.turned_text(x + 4.0, bottom + TICK + 10.0, label, TICK_FONT, Anchor::End, TURNED_DEGREES);
            } else {
                canvas.text(x, bottom + TICK + 12.0, label, TICK_FONT, Anchor::Middle);
            }
        }
        if !heat_map {
            canvas.line([area.x, area.y], [area.x, bottom], INK, 1.0);
            canvas.line([area.x, bottom], [right, bottom], INK, 1.0);
        }
        let below = bottom + layout.bottom - 4.0;
        canvas.text(area.x + area.width / 2.0, below, self.x.title(), TITLE_FONT, Anchor::Middle);
        let beside = area.x - layout.left + f64::from(TITLE_FONT.size);
        let middle = area.y + area.height / 2.0;
        canvas.turned_text(beside, middle, self.y.title(), TITLE_FONT, Anchor::Middle, -90.0);
    }

    fn draw_labels(
        &self,
        canvas: &mut Canvas,
        area: Area,
        points: &[[f64; 2]],
        texts: &[String],
        place: impl Fn([f64; 2]) -> [f64; 2],
    ) {
        let mut taken: Vec<[f64; 4]> = Vec::new();
        for (&point, text) in points.iter().zip(texts).filter(|(p, _)| self.shows(**p)) {
            let [x, y] = place(point);
            let width = SMALL_FONT.width(text);
            let inside = x + 7.0 + width <= area.x + area.width + 4.0;
            let left = if inside { x + 7.0 } else { x - 7.0 - width };
            let frame = [left, y - 15.0, left + width, y - 4.0];
            let free = |other: &[f64; 4]| {
                frame[2] < other[0] || frame[0] > other[2] || frame[3] < other[1] || frame[1] > other[3]
            };
            if taken.iter().all(free) {
                canvas.text(left, y - 6.0, text, SMALL_FONT, Anchor::Start);
                taken.push(frame);
            }
        }
    }

    fn draw_cells(&self, canvas: &mut Canvas, area: Area, size: [usize; 2], values: &[f64], map: ColourMap) {
        let Some((low, high, _)) = self.colour_bar() else { return };
        let [rows, columns] = size;
        let edge = |start: f64, length: f64, index: usize, count: usize| {
            (start + length * index as f64 / count as f64).round()
        };
        let numbers = area.width / columns as f64 >= 34.0 && area.height / rows as f64 >= 16.0;
        for (index, &value) in values.iter().enumerate() {
            let (row, column) = (index / columns, index % columns);
            let (x0, x1) = (edge(area.x, area.width, column, columns), edge(area.x, area.width, column + 1, columns));
            let (y0, y1) = (edge(area.y, area.height, row, rows), edge(area.y, area.height, row + 1, rows));
            let colour = if value.is_finite() { map.at((value - low) / (high - low)) } else { GREY };
            canvas.crisp(|canvas| canvas.rectangle(x0, y0, x1 - x0, y1 - y0, colour, 1.0));
            if numbers && value.is_finite() {
                let font = Font { colour: if colour.lightness() > 0.55 { INK } else { PAPER }, ..SMALL_FONT };
                let text = if high < 10.0 { number(value, 2) } else { short_number(value) };
                canvas.text(f64::midpoint(x0, x1), f64::midpoint(y0, y1) + 3.5, &text, font, Anchor::Middle);
            }
        }
    }

    fn draw_legend(&self, canvas: &mut Canvas, area: Area, layout: &Layout) {
        let x = area.x + area.width + layout.right + 10.0;
        let mut y = area.y + 8.0;
        for entry in self.entries() {
            draw_entry(canvas, &entry, x, y);
            y += LINE_HEIGHT;
        }
        let Some((low, high, map)) = self.colour_bar() else { return };
        for line in lines_of(&self.scale_title) {
            canvas.text(x, y + 4.0, line, LEGEND_FONT, Anchor::Start);
            y += 14.0;
        }
        let height = self.bar_height();
        let steps = 60;
        canvas.crisp(|canvas| {
            for step in 0..steps {
                let part = 1.0 - (f64::from(step) + 0.5) / f64::from(steps);
                let (from, to) = (height * f64::from(step) / 60.0, height * f64::from(step + 1) / 60.0);
                canvas.rectangle(
                    x,
                    (y + from).round(),
                    BAR_WIDTH,
                    (y + to).round() - (y + from).round(),
                    map.at(part),
                    1.0,
                );
            }
        });
        let scale = Axis::linear("").lay_out([low, high].into_iter(), height, 45.0, true);
        for (value, label) in &scale.ticks {
            let at = y + height * (1.0 - scale.position(*value));
            canvas.line([x + BAR_WIDTH, at], [x + BAR_WIDTH + 3.0, at], INK, 1.0);
            canvas.text(x + BAR_WIDTH + GAP, at + 4.0, label, TICK_FONT, Anchor::Start);
        }
    }
}

impl Layer {
    fn is_empty(&self) -> bool {
        match self {
            Self::Line { points, .. } | Self::Points { points, .. } | Self::Graded { points, .. } => points.is_empty(),
            Self::Bars { bars, .. } => bars.is_empty(),
            Self::Violins { groups, .. } => groups.iter().all(Vec::is_empty),
            Self::Cells { values, .. } => values.is_empty(),
            Self::Reference { .. } | Self::Labels { .. } => true,
        }
    }
}

/// Margins and axes of a chart.
struct Layout {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    legend: f64,
    turned: bool,
    x: AxisLayout,
    y: AxisLayout,
}

fn lines_of(title: &str) -> impl Iterator<Item = &str> {
    title.split('\n').filter(|line| !line.is_empty())
}

fn point_radius(count: usize) -> f64 {
    match count {
        0..=60 => 4.0,
        61..=400 => 3.2,
        401..=2000 => 2.4,
        _ => 1.6,
    }
}

fn draw_mark(canvas: &mut Canvas, shape: usize, at: [f64; 2], radius: f64, colour: Colour) {
    let opacity = 0.8;
    let around = |offsets: &[[f64; 2]]| -> Vec<[f64; 2]> {
        offsets.iter().map(|o| [at[0] + o[0] * radius * 1.15, at[1] + o[1] * radius * 1.15]).collect()
    };
    match shape % 4 {
        0 => canvas.circle(at, radius, colour, opacity, None),
        1 => canvas.polygon(&around(&[[0.0, -1.0], [1.0, 0.8], [-1.0, 0.8]]), colour, opacity, None),
        2 => canvas.polygon(&around(&[[0.8, -0.8], [0.8, 0.8], [-0.8, 0.8], [-0.8, -0.8]]), colour, opacity, None),
        _ => canvas.polygon(&around(&[[0.0, -1.1], [1.1, 0.0], [0.0, 1.1], [-1.1, 0.0]]), colour, opacity, None),
    }
}

fn draw_entry(canvas: &mut Canvas, entry: &Entry, x: f64, y: f64) {
    match entry.mark {
        Mark::Line { dots } => {
            canvas.line([x, y], [x + 20.0, y], entry.colour, 2.0);
            if dots {
                canvas.circle([x + 10.0, y], 3.5, entry.colour, 1.0, Some((PAPER, 1.0)));
            }
        }
        Mark::Dashes => canvas.dashes(&[[x, y], [x + 20.0, y]], entry.colour, 2.0, 4.0),
        Mark::Point(shape) => draw_mark(canvas, shape, [x + 10.0, y], 4.5, entry.colour),
        Mark::Box => canvas.rectangle(x + 5.0, y - 5.0, 10.0, 10.0, entry.colour, 1.0),
    }
    canvas.text(x + 26.0, y + 4.0, &entry.name, LEGEND_FONT, Anchor::Start);
}

/// The same picture in several formats: (suffix, bytes).
pub type Pictures = Vec<(String, Vec<u8>)>;

/// Draws charts side by side, `columns` a row, as `svg` and `png`, for [`Figure::pictures`](crate::artifact::Figure::pictures).
///
/// Where all charts have the same legend, it stands once, above them.
///
/// # Panics
/// When there is no chart, or no column.
#[must_use]
pub fn pictures(charts: &[Chart], columns: usize) -> Pictures {
    const MARGIN: f64 = 8.0;
    const BETWEEN: f64 = 18.0;
    assert!(!charts.is_empty() && columns > 0, "a figure needs a chart and a column");
    let columns = columns.min(charts.len());
    let rows = charts.len().div_ceil(columns);
    let shared = charts[0].entries();
    let share = charts.len() > 1
        && !shared.is_empty()
        && charts.iter().all(|chart| chart.entries() == shared && chart.colour_bar().is_none());
    let layouts: Vec<Layout> = charts.iter().map(Chart::lay_out).collect();
    let legend = |layout: &Layout| if share { 0.0 } else { layout.legend };
    let in_column = |column: usize| (column..charts.len()).step_by(columns);
    let most = |indices: &mut dyn Iterator<Item = usize>, f: &dyn Fn(usize) -> f64| indices.map(f).fold(0.0, f64::max);
    let lefts: Vec<f64> = (0..columns).map(|c| most(&mut in_column(c), &|i| layouts[i].left)).collect();
    let widths: Vec<f64> = (0..columns)
        .map(|c| most(&mut in_column(c), &|i| charts[i].size[0] + layouts[i].right + legend(&layouts[i])))
        .collect();
    let row = |r: usize| r * columns..((r + 1) * columns).min(charts.len());
    let tops: Vec<f64> = (0..rows).map(|r| most(&mut row(r), &|i| layouts[i].top)).collect();
    let heights: Vec<f64> = (0..rows)
        .map(|r| {
            most(&mut row(r), &|i| {
                // A long legend may be taller than its chart.
                let names = charts[i].entries().len() as f64 * LINE_HEIGHT * f64::from(u8::from(!share));
                (charts[i].size[1] + layouts[i].bottom).max(names)
            })
        })
        .collect();
    let width = MARGIN * 2.0 + lefts.iter().sum::<f64>() + widths.iter().sum::<f64>() + BETWEEN * (columns - 1) as f64;

    // The shared legend, broken into lines.
    let mut places = Vec::new();
    let (mut x, mut y) = (MARGIN, MARGIN + 8.0);
    for entry in shared.iter().filter(|_| share) {
        let own = LEGEND_FONT.width(&entry.name) + 44.0;
        if x + own > width && x > MARGIN {
            (x, y) = (MARGIN, y + LINE_HEIGHT);
        }
        places.push([x, y]);
        x += own;
    }
    let head = if share { y + 14.0 } else { MARGIN };

    let height = head + tops.iter().sum::<f64>() + heights.iter().sum::<f64>() + BETWEEN * (rows - 1) as f64 + MARGIN;
    let mut canvas = Canvas::new(width, height);
    for (entry, [x, y]) in shared.iter().zip(places) {
        draw_entry(&mut canvas, entry, x, y);
    }
    let mut top = head;
    for r in 0..rows {
        let mut left = MARGIN;
        for index in row(r) {
            let (chart, column) = (&charts[index], index % columns);
            let area = Area { x: left + lefts[column], y: top + tops[r], width: chart.size[0], height: chart.size[1] };
            chart.draw(&mut canvas, area, &layouts[index], !share);
            left += lefts[column] + widths[column] + BETWEEN;
        }
        top += tops[r] + heights[r] + BETWEEN;
    }
    canvas.finish()
}
