//! Axes: ranges, ticks and their labels.

/// How values are laid out along an axis.
#[derive(Clone, Debug, PartialEq)]
enum Scale {
    Linear,
    Log,
    Categories(Vec<String>),
}

/// One axis of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    title: String,
    scale: Scale,
    include: Vec<f64>,
    fixed: Option<[f64; 2]>,
}

impl Axis {
    /// An axis of numbers, with a title that names the unit.
    #[must_use]
    pub fn linear(title: impl Into<String>) -> Self {
        Self { title: title.into(), scale: Scale::Linear, include: Vec::new(), fixed: None }
    }

    /// An axis of positive numbers by their logarithm. Values that are not positive are not drawn.
    #[must_use]
    pub fn log(title: impl Into<String>) -> Self {
        Self { scale: Scale::Log, ..Self::linear(title) }
    }

    /// An axis of named categories; the first stands at 0, the next at 1, …
    #[must_use]
    pub fn categories(title: impl Into<String>, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { scale: Scale::Categories(names.into_iter().map(Into::into).collect()), ..Self::linear(title) }
    }

    /// The same axis, reaching at least to `value`.
    #[must_use]
    pub fn including(mut self, value: f64) -> Self {
        self.include.push(value);
        self
    }

    /// The same axis from `low` to `high`, whatever the values; marks beyond are cut off, so say in the caption that there may be.
    #[must_use]
    pub fn between(mut self, low: f64, high: f64) -> Self {
        self.fixed = Some([low, high]);
        self
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.fixed.is_some()
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn names(&self) -> Option<&[String]> {
        match &self.scale {
            Scale::Categories(names) => Some(names),
            _ => None,
        }
    }

    /// Whether a value can be shown.
    pub(super) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale != Scale::Log || value > 0.0)
    }

    /// Lays the axis out for these values along `length` units; a tick at most every `spacing` units. `tight`: leave no space
    /// beyond the values.
    pub(super) fn lay_out(
        &self,
        values: impl Iterator<Item = f64>,
        length: f64,
        spacing: f64,
        tight: bool,
    ) -> AxisLayout {
        if let Scale::Categories(names) = &self.scale {
            let ticks = names.iter().enumerate().map(|(index, name)| (index as f64, name.clone())).collect();
            return AxisLayout { low: -0.5, high: names.len().max(1) as f64 - 0.5, log: false, ticks };
        }
        let log = self.scale == Scale::Log;
        let along = |value: f64| if log { libm::log10(value) } else { value };
        let bound = self.include.iter().copied().filter(|&v| self.shows(v)).map(along);
        let shown = values.filter(|&v| self.shows(v)).map(along);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in shown.chain(bound.clone()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low <= 1e-9 * high.abs().max(low.abs()) {
            let half = if log { 0.5 } else { (low.abs() * 0.1).max(0.5) };
            (low, high) = (low - half, high + half);
        }
        if let Some(ends) = self.fixed {
            [low, high] = ends.map(along);
        } else if !tight {
            // A value that was asked for is the end of the axis; beyond data there is some space.
            let space = (high - low) * 0.05;
            let asked = |end: f64| bound.clone().any(|b| b == end);
            (low, high) = (if asked(low) { low } else { low - space }, if asked(high) { high } else { high + space });
        }
        let count = (length / spacing).floor().max(2.0);
        let ticks = if log { log_ticks(low, high, count) } else { linear_ticks(low, high, count) };
        AxisLayout { low, high, log, ticks }
    }
}

/// An axis with its range and ticks.
#[derive(Clone, Debug)]
pub(super) struct AxisLayout {
    low: f64,
    high: f64,
    log: bool,
    /// (value, label), in order.
    pub(super) ticks: Vec<(f64, String)>,
}

impl AxisLayout {
    /// Where a value stands between 0 (low end) and 1 (high end).
    pub(super) fn position(&self, value: f64) -> f64 {
        let along = if self.log { libm::log10(value) } else { value };
        (along - self.low) / (self.high - self.low)
    }
}

/// The smallest of 1, 2, 2.5, 5 times a power of ten that gives at most `count` steps.
fn step(range: f64, count: f64) -> f64 {
    let raw = range / count;
    let power = libm::pow(10f64, libm::log10(raw).floor());
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors.into_iter().map(|factor| factor * power).find(|&step| step >= raw * (1.0 - 1e-9)).unwrap_or(10.0 * power)
}

fn linear_ticks(low: f64, high: f64, count: f64) -> Vec<(f64, String)> {
    let step = step(high - low, count);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    // Decimals that tell neighbours apart: 2.5 needs one more than its power of ten.
    let decimals =
        (0..12).find(|&d| (step * 10f64.powi(d) - (step * 10f64.powi(d)).round()).abs() < 1e-6).unwrap_or(12);
    (first..=last).map(|index| index as f64 * step).map(|value| (value, number(value, decimals as usize))).collect()
}

fn log_ticks(low: f64, high: f64, count: f64) -> Vec<(f64, String)> {
    let decades = high - low;
    if decades < 0.7 {
        let (from, to) = (libm::pow(10f64, low), libm::pow(10f64, high));
        return linear_ticks(from, to, count).into_iter().filter(|(value, _)| *value > 0.0).collect();
    }
    let every = (decades / count).ceil().max(1.0) as i64;
    let factors: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    for power in (low.floor() as i64)..=(high.ceil() as i64) {
        if power.rem_euclid(every) != 0 {
            continue;
        }
        for factor in factors {
            let value = factor * 10f64.powi(power as i32);
            if libm::log10(value) >= low - 1e-9 && libm::log10(value) <= high + 1e-9 {
                let label = if (-4..6).contains(&power) {
                    number(value, (-power).max(0) as usize)
                } else {
                    number_with_power(value, power)
                };
                ticks.push((value, label));
            }
        }
    }
    ticks
}

fn number_with_power(value: f64, power: i64) -> String {
    let superscript: String = power
        .to_string()
        .chars()
        .map(|c| {
            if c == '-' { '⁻' } else { "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c as usize - 48).expect("a digit") }
        })
        .collect();
    let factor = (value / 10f64.powi(power as i32)).round();
    if factor == 1.0 { format!("10{superscript}") } else { format!("{factor}×10{superscript}") }
}

/// A number for people: a true minus sign, thousands set apart.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if value.abs() >= 1e7 {
        let power = libm::log10(value.abs()).floor();
        let factor = (value.abs() / libm::pow(10f64, power) * 1000.0).round() / 1000.0;
        return format!("{}{factor}e{power}", if value < 0.0 { "−" } else { "" });
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), ""), |(w, f)| (w, f));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && whole.len() > 4 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let zero = text.chars().all(|c| c == '0' || c == '.');
    let sign = if value < 0.0 && !zero { "−" } else { "" };
    if fraction.is_empty() { format!("{sign}{grouped}") } else { format!("{sign}{grouped}.{fraction}") }
}

/// A number in three significant digits, without trailing zeros.
pub(in crate::figures) fn short_number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let power = libm::log10(value.abs()).floor() as i32;
    if !(-4..7).contains(&power) {
        return format!("{value:.2e}").replace('-', "−");
    }
    let text = number(value, (2 - power).max(0) as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(layout: &AxisLayout) -> Vec<&str> {
        layout.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        let layout = Axis::linear("x").lay_out([-0.12, 0.93].into_iter(), 300.0, 60.0, false);
        assert_eq!(labels(&layout), ["0.00", "0.25", "0.50", "0.75"]);
        let layout = Axis::linear("x").lay_out([0.0, 12_345.0].into_iter(), 400.0, 60.0, true);
        assert_eq!(labels(&layout), ["0", "2500", "5000", "7500", "10,000"]);
        let layout = Axis::log("x").lay_out([0.01, 1000.0, -1.0].into_iter(), 300.0, 50.0, true);
        assert_eq!(labels(&layout), ["0.01", "0.1", "1", "10", "100", "1000"]);
        assert!((layout.position(1.0) - 0.4).abs() < 1e-12);
    }

    #[test]
    fn odd_ranges_still_give_axes() {
        for values in [vec![], vec![3.0], vec![f64::NAN, f64::INFINITY], vec![0.0, 0.0], vec![1e-30, 1e30]] {
            for axis in [Axis::linear("x"), Axis::log("x")] {
                let layout = axis.lay_out(values.iter().copied(), 200.0, 60.0, false);
                assert!(!layout.ticks.is_empty() && layout.ticks.len() < 30, "{values:?} {:?}", layout.ticks);
                assert!(layout.high > layout.low);
            }
        }
    }

    #[test]
    fn an_end_that_was_asked_for_is_the_end() {
        let layout = Axis::linear("x").including(0.0).lay_out([1.0, 10.0].into_iter(), 300.0, 60.0, false);
        assert_eq!(layout.position(0.0), 0.0);
        assert!(layout.position(10.0) < 1.0);
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(number(-1234.5, 1), "−1234.5");
        assert_eq!(number(-0.001, 1), "0.0");
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!(number(2.5e8, 0), "2.5e8");
        assert_eq!(short_number(0.012_34), "0.0123");
        assert_eq!(short_number(1200.0), "1200");
        assert_eq!(short_number(0.5), "0.5");
    }
}
