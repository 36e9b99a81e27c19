//! The report: figures, their numbers and how they came about, in one HTML file that needs nothing else.

use base64::{Engine, engine::general_purpose::STANDARD};
use minijinja::{Environment, Value, context};

use super::plot::short_number;
use crate::artifact::{Column, Figure, Table};

/// Where the section "How this was made" is put when the report is brought to the results folder.
pub const MADE_BY: &str = "<!-- statcell:made-by -->";

const TEMPLATE: &str = include_str!("report.html.j2");

/// The sections in their order, and what each is about. Figures of other sections come behind them, in the order given.
const SECTIONS: [(&str, &str); 13] = [
    ("Cells", "The cells themselves, one image each: membrane magenta, DNA cyan, structure yellow."),
    ("Segmentation", "How nuclei and cells were found in the fields of view."),
    ("Simulation", "The simulated colony, of which everything is known."),
    ("Learning", "How the models got better, epoch by epoch."),
    ("Reconstruction", "Cells beside what a model makes of them after having put each in a few numbers."),
    ("Latent space", "Where cells lie in what a model has learnt."),
    ("Rate and distortion", "How much a model must say of a cell, and how exact it then is."),
    ("Features", "Shape and intensity of nucleus and cell, measured."),
    ("Coupling", "What the place of a structure hangs on: the cell's membrane, or its nucleus."),
    ("Perturbation", "What treatments do to cells, in the models' latent spaces."),
    ("Outliers", "Cells that a model finds unlikely."),
    ("Sampled cells", "Cells that no microscope has seen: drawn from the models."),
    (
        "Latent walks",
        "What single dimensions mean: the cell that a model makes as one of them changes and the others stay.",
    ),
];

/// An SVG above this size is shown as PNG, where that is smaller.
const LARGEST_SVG: usize = 400_000;
/// A table whose CSV is larger than this is not put into the report.
const LARGEST_CSV: usize = 2_000_000;
/// Rows of a table that are shown.
const SHOWN_ROWS: usize = 40;
/// Pictures up to this width, in CSS pixels, stand side by side.
const HALF_WIDTH: f64 = 560.0;

/// The report as HTML. Everything in it is escaped; blank lines in the introduction separate paragraphs.
///
/// # Panics
/// When the template is broken.
#[must_use]
pub fn render(title: &str, introduction: &str, figures: &[Figure]) -> String {
    let mut environment = Environment::new();
    // The suffix turns escaping on.
    environment.add_template("report.html", TEMPLATE).expect("a sound template");
    let paragraphs: Vec<String> =
        introduction.split("\n\n").map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect();
    let known = SECTIONS.iter().map(|(name, _)| *name);
    let mut names: Vec<&str> = known.collect();
    for figure in figures {
        if !names.contains(&figure.section.as_str()) {
            names.push(&figure.section);
        }
    }
    let mut number = 0;
    let mut sections = Vec::new();
    for name in names {
        let mut shown = Vec::new();
        for figure in figures.iter().filter(|figure| figure.section == name) {
            number += 1;
            shown.push(figure_value(figure, number));
        }
        if !shown.is_empty() {
            let about = SECTIONS.iter().find(|(known, _)| *known == name).map_or("", |(_, about)| about);
            let id = format!("section-{}", sections.len() + 1);
            sections.push(context! { id, name, about, figures => shown });
        }
    }
    let template = environment.get_template("report.html").expect("it was just added");
    template.render(context! { title, paragraphs, sections, made_by => MADE_BY }).expect("a sound template")
}

fn figure_value(figure: &Figure, number: usize) -> Value {
    let picture = picture(figure).map(|(suffix, bytes)| {
        let kind = if suffix == "svg" { "image/svg+xml" } else { "image/png" };
        let width = width(suffix, bytes);
        context! {
            suffix,
            width => width.map(f64::round),
            wide => width.is_none_or(|width| width > HALF_WIDTH),
            data => format!("data:{kind};base64,{}", STANDARD.encode(bytes)),
        }
    });
    let table = figure.table.as_ref().filter(|table| table.rows() > 0).map(|table| {
        let csv = table.to_csv();
        let fits = csv.len() <= LARGEST_CSV;
        context! {
            columns => table.columns().map(|(name, column)| context! { name, text => matches!(column, Column::Text(_)) }).collect::<Vec<_>>(),
            rows => (0..table.rows().min(SHOWN_ROWS)).map(|row| shown_row(table, row)).collect::<Vec<_>>(),
            count => table.rows(),
            cut => table.rows() > SHOWN_ROWS,
            data => fits.then(|| format!("data:text/csv;charset=utf-8;base64,{}", STANDARD.encode(csv))),
        }
    });
    context! {
        id => format!("figure-{number}"),
        number,
        name => figure.name.as_str(),
        title => figure.title.as_str(),
        caption => figure.caption.as_str(),
        picture,
        table,
    }
}

/// The picture to show: the SVG, unless it is large and the PNG is smaller.
fn picture(figure: &Figure) -> Option<(&str, &[u8])> {
    let of = |suffix: &str| {
        figure.pictures.iter().find(|(s, _)| s == suffix).map(|(s, bytes)| (s.as_str(), bytes.as_slice()))
    };
    match (of("svg"), of("png")) {
        (Some(svg), Some(png)) if svg.1.len() > LARGEST_SVG && png.1.len() < svg.1.len() => Some(png),
        (Some(svg), _) => Some(svg),
        (None, png) => png,
    }
}

/// The width of a picture in CSS pixels. A PNG has two pixels for each.
fn width(suffix: &str, bytes: &[u8]) -> Option<f64> {
    if suffix == "png" {
        let field = bytes.get(16..20)?;
        return Some(f64::from(u32::from_be_bytes(field.try_into().ok()?)) / 2.0);
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).into_owned();
    let tag = &head[head.find("<svg")?..];
    let value = tag.split(" width=\"").nth(1)?.split('"').next()?;
    value.trim_end_matches("px").parse().ok()
}

/// One row of a table, for people.
fn shown_row(table: &Table, row: usize) -> Vec<String> {
    table
        .columns()
        .map(|(_, column)| match column {
            Column::Float(values) if values[row].is_nan() => "–".to_owned(),
            Column::Float(values) => short_number(values[row]),
            Column::Integer(values) => values[row].to_string(),
            Column::Text(values) => values[row].clone(),
            Column::Flag(values) => if values[row] { "yes" } else { "no" }.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::plot::{Axis, Chart, pictures};

    fn figure(section: &str, title: &str) -> Figure {
        let chart = Chart::new(Axis::linear("x"), Axis::linear("y")).line("", &[[0.0, 1.0], [2.0, 3.0]]);
        Figure {
            name: "line".to_owned(),
            section: section.to_owned(),
            title: title.to_owned(),
            caption: "A < B & <script>alert(1)</script>".to_owned(),
            pictures: pictures(&[chart], 1),
            table: Some(
                Table::new().with("x", vec![1.0, f64::NAN]).with("name", vec!["<b>".to_owned(), String::new()]),
            ),
        }
    }

    #[test]
    fn sections_stand_in_their_order() {
        let figures = [figure("Zebra", "last"), figure("Features", "second"), figure("Cells", "first")];
        let html = render("Title", "", &figures);
        let at = |text: &str| html.find(&format!(">{text}</h2>")).unwrap_or_else(|| panic!("no {text} in {html}"));
        assert!(at("Cells") < at("Features") && at("Features") < at("Zebra"));
        assert!(!html.contains("Latent walks"));
        assert_eq!(html, render("Title", "", &figures));
    }

    #[test]
    fn everything_is_escaped_and_nothing_is_fetched() {
        let html = render("<i>T</i>", "One\n\n<u>two</u>", &[figure("Cells", "\"><img>")]);
        for text in ["<script>alert", "<i>T", "<u>two", "<b>", "\"><img>"] {
            assert!(!html.contains(text), "{text}");
        }
        assert_eq!(html.matches(MADE_BY).count(), 1);
        for text in ["src=\"http", "href=\"http", "url(http", "@import"] {
            assert!(!html.contains(text), "{text}");
        }
        assert!(html.contains("data:text/csv;charset=utf-8;base64,") && html.contains("data:image/svg+xml;base64,"));
    }

    #[test]
    fn no_figures_and_no_pictures_are_no_failure() {
        assert!(render("T", "", &[]).contains(MADE_BY));
        let bare = Figure { pictures: Vec::new(), table: None, ..figure("Cells", "bare") };
        assert!(render("T", "", &[bare]).contains("bare"));
    }

    #[test]
    fn widths_of_pictures() {
        assert_eq!(width("svg", b"<svg viewBox=\"0 0 9 9\" width=\"512\" height=\"9\">"), Some(512.0));
        let pictures = figure("", "").pictures;
        assert_eq!(width("svg", &pictures[0].1), width("png", &pictures[1].1));
    }

    /// Writes a report for people to look at: `STATCELL_LOOK=folder cargo test --lib report -- --ignored`.
    #[test]
    #[ignore = "for looking at"]
    #[expect(clippy::disallowed_methods, reason = "no part of the program")]
    fn look() {
        let folder = std::env::var("STATCELL_LOOK").expect("a folder in STATCELL_LOOK");
        let figures = SECTIONS.map(|(name, _)| [figure(name, "A line"), figure(name, "Another line")]).concat();
        let html = render("Quickstart: a real field and a simulated colony", "First.\n\nSecond.", &figures);
        std::fs::write(format!("{folder}/report.html"), html).unwrap();
    }
}
