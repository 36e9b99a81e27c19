//! TOML with spans, and what overrides it: a profile, then each `--set`.

use std::{path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::{ADVISED, SpecError, SpecErrors, did_you_mean, listed},
    reference::is_name,
    source::{Sources, Span},
};

pub(super) type Node<'t> = Spanned<DeValue<'t>>;
pub(super) type Table<'t> = DeTable<'t>;
pub(super) type Key<'t> = Spanned<std::borrow::Cow<'t, str>>;

pub(super) fn key(name: &str, span: &Span) -> Key<'static> {
    Spanned::new(span.clone(), name.to_owned().into())
}

/// What stands on the command line beside the pipeline's path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `stage.key=value`, in order: a later one wins.
    pub sets: Vec<String>,
    /// The profile of the pipeline to apply, before the sets.
    pub profile: Option<String>,
}

impl Overrides {
    /// The changes in one text, as they stand on the command line; empty: none.
    #[must_use]
    pub fn variant(&self) -> String {
        let profile = self.profile.iter().map(|profile| format!("--profile {profile}"));
        let sets = self.sets.iter().map(|set| format!("--set {set}"));
        profile.chain(sets).collect::<Vec<String>>().join(" ")
    }
}

/// Entries in the order of the text.
pub(super) fn in_order<'a, 't>(table: &'a Table<'t>) -> Vec<(&'a Key<'t>, &'a Node<'t>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

pub(super) fn names<'a>(table: &'a Table<'_>) -> impl Iterator<Item = &'a str> {
    table.keys().map(|key| key.get_ref().as_ref())
}

/// Moves every span by `offset`.
fn shift(node: Node<'_>, offset: usize) -> Node<'_> {
    let span = node.span().start + offset..node.span().end + offset;
    let value = match node.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift_table(table, offset)),
        // An array can only be changed in place.
        DeValue::Array(mut array) => {
            for item in array.iter_mut() {
                let moved = shift(std::mem::replace(item, Spanned::new(0..0, DeValue::Boolean(false))), offset);
                *item = moved;
            }
            DeValue::Array(array)
        }
        scalar => scalar,
    };
    Spanned::new(span, value)
}

fn shift_table(table: Table<'_>, offset: usize) -> Table<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let span = key.span().start + offset..key.span().end + offset;
            (Spanned::new(span, key.into_inner()), shift(value, offset))
        })
        .collect()
}

/// Parses `text` as TOML, all spans moved by `offset`.
fn parse(text: &str, offset: usize) -> (Table<'_>, Vec<toml::de::Error>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    (shift_table(table.into_inner(), offset), errors)
}

fn syntax(error: &toml::de::Error, offset: usize, length: usize, label: &str) -> SpecError {
    let span = error.span().unwrap_or(0..0);
    let span = span.start.min(length) + offset..span.end.min(length) + offset;
    if error.message().starts_with("string values must be quoted") {
        return SpecError::new("syntax", "text must stand in quotes").label(&span, "without quotes");
    }
    SpecError::new("syntax", error.message().to_owned()).label(&span, label)
}

/// Tables are merged key by key; everything else is replaced.
fn merge<'t>(into: &mut Table<'t>, from: Table<'t>) {
    for (key, value) in from {
        let name = key.get_ref().to_string();
        match (into.remove_entry(name.as_str()), value.get_ref()) {
            (Some((old_key, old)), DeValue::Table(_)) if old.get_ref().is_table() => {
                let (DeValue::Table(mut merged), span) = (old.get_ref().clone(), old.span()) else { unreachable!() };
                let DeValue::Table(new) = value.into_inner() else { unreachable!() };
                merge(&mut merged, new);
                into.insert(old_key, Spanned::new(span, DeValue::Table(merged)));
            }
            _ => {
                into.insert(key, value);
            }
        }
    }
}

/// The table `name` of `table`; an error when it is something else.
fn sub_table<'a, 't>(table: &'a Table<'t>, name: &str, errors: &mut Vec<SpecError>) -> Option<&'a Table<'t>> {
    let (_, node) = table.get_key_value(name)?;
    let found = node.get_ref().as_table();
    if found.is_none() {
        errors.push(not_a_table(name, node));
    }
    found
}

pub(super) fn not_a_table(name: &str, node: &Node) -> SpecError {
    SpecError::new("wrong-type", format!("`{name}` must be a table"))
        .label(&node.span(), format!("{} stands here", type_name(node.get_ref())))
}

/// What people call a value of this type.
pub(super) fn type_name(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Reads the file of a pipeline.
pub(super) fn read_text(path: &Path) -> Result<String, SpecErrors> {
    let shown = path.display();
    let alone = |error: SpecError| SpecErrors::new(vec![error], &Arc::default());
    let bytes = std::fs::read(path).map_err(|error| {
        let help = if path.is_dir() { "name the TOML file in it" } else { "give the path of a pipeline's TOML file" };
        alone(SpecError::new("unreadable", format!("cannot read the pipeline `{shown}`: {error}")).help(help))
    })?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(alone(
            SpecError::new("encoding", format!("`{shown}` is written in UTF-16")).help("save it as UTF-8"),
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[at];
        let start = error.as_bytes()[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let mut sources = Sources::default();
        sources.add(shown.to_string(), String::from_utf8_lossy(error.as_bytes()).into_owned());
        // What stands for the byte in the text shown has three bytes itself; before it, nothing changed.
        let problem = if byte == 0 || error.as_bytes()[start..].contains(&0) {
            SpecError::new("encoding", "this is no text").help("give the path of a pipeline's TOML file")
        } else {
            SpecError::new("encoding", format!("the byte 0x{byte:02X} is no UTF-8"))
                .help(format!("save the file as UTF-8; in Latin-1 the byte means `{}`", char::from(byte)))
        };
        SpecErrors::new(vec![problem.label(&(at..at + '\u{fffd}'.len_utf8()), "here")], &Arc::new(sources))
    })
}

/// What a text that is no TOML seems to be instead.
fn other_language(text: &str) -> Option<&'static str> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).take(40).collect();
    let first = lines.first()?;
    if *first == "{" || first.starts_with("{\"") {
        return Some("JSON");
    }
    if first.starts_with("<?xml") || first.starts_with("<!DOCTYPE") || first.starts_with("<html") {
        return Some("XML");
    }
    let yaml = |line: &&&str| {
        let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_ \"'".contains(c));
        **line == "---"
            || line.starts_with("- ")
            || line.split_once(':').is_some_and(|(key, rest)| word(key) && (rest.is_empty() || rest.starts_with(' ')))
    };
    let count = lines.iter().filter(yaml).count();
    let toml = lines.iter().any(|line| line.starts_with('[') || line.contains(" = "));
    (!toml && 2 * count > lines.len()).then_some("YAML")
}

/// The smallest pipeline, to go by.
const EXAMPLE: &str =
    "a pipeline is TOML:\n\n[pipeline]\nname = \"first\"\n\n[stages.cells]\nuses = \"simulate\"\ncells = 40";

/// The texts: the pipeline's own, then each `--set`.
pub(super) fn sources(name: &str, text: &str, overrides: &Overrides) -> Sources {
    let mut sources = Sources::default();
    sources.add(name, text);
    for set in &overrides.sets {
        sources.add("--set", set.as_str());
    }
    sources
}

/// Reads the texts and applies the overrides. `None`: the pipeline's own text is no TOML (what is wrong went to `errors`).
pub(super) fn read<'t>(sources: &'t Sources, profile: Option<&str>, errors: &mut Vec<SpecError>) -> Option<Table<'t>> {
    let mut texts = sources.texts();
    let (offset, text) = texts.next().expect("the pipeline's own text");
    let (mut table, mistakes) = parse(text, offset);
    if !mistakes.is_empty() {
        // What the reader made of a broken text is a guess: its stages are looked at once the syntax is right.
        errors.extend(match other_language(text) {
            Some(language) => {
                let first = text.len() - text.trim_start().len();
                let line = first..first + text[first..].lines().next().map_or(0, str::len);
                let error = SpecError::new("syntax", format!("this is {language}, not TOML"));
                vec![error.label(&line, "the first line").help(EXAMPLE)]
            }
            None => syntax_errors(&table, text, &mistakes),
        });
        return None;
    }

    for (key, _) in in_order(&table) {
        let name = key.get_ref().as_ref();
        let known = ["pipeline", "stages", "profiles"];
        if !known.contains(&name) {
            errors.push(
                SpecError::new("unknown-key", format!("unknown table `{name}`"))
                    .label(&key.span(), "not a part of a pipeline")
                    .help(format!("a pipeline has {}", listed(known)))
                    .help_maybe(did_you_mean(name, known)),
            );
        }
    }

    apply_profile(&mut table, profile, errors);
    for (offset, set) in texts {
        match parse_set(set, offset) {
            Ok(set) => apply(&mut table, set, "`--set`", errors),
            Err(error) => errors.push(error),
        }
    }
    Some(table)
}

/// What is wrong with the pipeline's own text, which begins at offset 0. Errors that only follow from others are left out.
fn syntax_errors(table: &Table, text: &str, mistakes: &[toml::de::Error]) -> Vec<SpecError> {
    let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    // Everything behind a bracket that is not closed is read as if it stood in it.
    let open = mistakes
        .iter()
        .filter(|error| error.message().starts_with("unclosed"))
        .take(ADVISED)
        .filter_map(|error| unclosed(table.values(), text, start(error)))
        .min();
    let mut errors = Vec::new();
    let mut repeated_until = 0;
    // Whoever has more mistakes than anybody reads sees the first.
    for error in mistakes.iter().filter(|error| open.is_none_or(|open| start(error) < open)).take(10 * ADVISED) {
        if error.message() == "duplicate key" && start(error) < repeated_until {
            continue;
        }
        if let Some(duplicate) = duplicate_stage(text, error) {
            let rest = &text[start(error)..];
            repeated_until = rest.find("\n[").map_or(text.len(), |next| start(error) + next);
            errors.push(duplicate);
        } else if errors.len() < ADVISED
            && let Some(duplicate) = duplicate_key(table, text, error)
        {
            errors.push(duplicate);
        } else {
            errors.push(syntax(error, 0, text.len(), "here"));
        }
    }
    if let Some(open) = open {
        let bracket = &text[open..=open];
        errors.push(
            SpecError::new("syntax", format!("a `{bracket}` is not closed")).label(&(open..open + 1), "opened here"),
        );
    }
    errors
}

/// Where the outermost list or inline table begins that holds the place `at`.
fn unclosed<'a>(nodes: impl Iterator<Item = &'a Node<'a>>, text: &str, at: usize) -> Option<usize> {
    nodes
        .filter_map(|node| {
            let span = node.span();
            let bracket = text.get(span.start..=span.start)?;
            if (bracket == "[" && node.get_ref().is_array() || bracket == "{") && span.start < at && at <= span.end {
                return Some(span.start);
            }
            unclosed(node.get_ref().as_table()?.values(), text, at)
        })
        .min()
}

/// The error of a key that stands twice in a table, with both places.
fn duplicate_key(table: &Table, text: &str, error: &toml::de::Error) -> Option<SpecError> {
    let span = error.span().filter(|_| error.message() == "duplicate key")?;
    let name = text.get(span.clone())?;
    let bare = name.trim_matches(['"', '\'']);
    // The reader keeps one of the two.
    let (_, kept) =
        keys_named(table, bare).into_iter().filter(|(_, at)| at.start < span.start).max_by_key(|(_, at)| at.start)?;
    Some(
        SpecError::new("duplicate-key", format!("`{bare}` stands twice in the same table"))
            .label(&span, "the second")
            .label(&kept, "the first")
            .help("keep one of the two"),
    )
}

/// The keys of this name in a table and those inside it, with where they stand.
fn keys_named<'a>(table: &'a Table, name: &str) -> Vec<(&'a str, Span)> {
    let mut found = Vec::new();
    for (key, node) in table {
        if key.get_ref() == name {
            found.push((key.get_ref().as_ref(), key.span()));
        }
        if let Some(inner) = node.get_ref().as_table() {
            found.extend(keys_named(inner, name));
        }
    }
    found
}

/// The error of a stage that is defined again, with both places.
fn duplicate_stage(text: &str, error: &toml::de::Error) -> Option<SpecError> {
    let span = error.span().filter(|_| error.message() == "duplicate key")?;
    let name = text.get(span.clone())?;
    let header = format!("[stages.{name}]");
    let place = span.start.checked_sub("[stages.".len())?;
    if !text.get(place..)?.starts_with(&header) {
        return None;
    }
    let first = text[..place].find(&header)? + "[stages.".len();
    Some(
        SpecError::new("duplicate-stage", format!("there are two stages named `{name}`"))
            .label(&span, "the second")
            .label(&(first..first + name.len()), "the first"),
    )
}

fn apply_profile(table: &mut Table, wanted: Option<&str>, errors: &mut Vec<SpecError>) {
    let empty = Table::new();
    let profiles = sub_table(table, "profiles", errors).unwrap_or(&empty).clone();
    let mut found = false;
    for (key, node) in in_order(&profiles) {
        let name = key.get_ref().as_ref();
        let Some(profile) = node.get_ref().as_table() else {
            errors.push(not_a_table(name, node));
            continue;
        };
        let mut changes = Table::new();
        for (key, node) in in_order(profile) {
            match (key.get_ref().as_ref(), node.get_ref()) {
                ("pipeline", _) => {
                    changes.insert(key.clone(), node.clone());
                }
                ("stages", DeValue::Table(stages)) => changes.extend(stages.clone()),
                ("stages", _) => errors.push(not_a_table("stages", node)),
                (other, _) => errors.push(
                    SpecError::new("unknown-key", format!("unknown key `{other}` in profile `{name}`"))
                        .label(&key.span(), "not a part of a profile")
                        .help(format!("changes of a stage stand in `[profiles.{name}.stages.STAGE]`")),
                ),
            }
        }
        if wanted == Some(name) {
            found = true;
            apply(table, changes, "the profile", errors);
        } else {
            // A profile that is not used is still held to name stages that exist.
            apply(&mut table.clone(), changes, "the profile", errors);
        }
    }
    if let Some(wanted) = wanted.filter(|_| !found) {
        let known: Vec<&str> = names(&profiles).collect();
        let help = if known.is_empty() {
            "this pipeline has no profiles; one is made of tables `[profiles.NAME.stages.STAGE]`".to_owned()
        } else {
            format!("this pipeline has {}", listed(known.iter().copied()))
        };
        errors.push(
            SpecError::new("unknown-profile", format!("there is no profile `{wanted}`"))
                .help(help)
                .help_maybe(did_you_mean(wanted, known)),
        );
    }
}

/// `changes`: a table for each stage, and perhaps `pipeline`.
fn apply<'t>(table: &mut Table<'t>, changes: Table<'t>, by: &str, errors: &mut Vec<SpecError>) {
    let empty = Table::new();
    let stages = table.get("stages").and_then(|stages| stages.get_ref().as_table()).unwrap_or(&empty);
    let mut to_stages = Table::new();
    let mut to_pipeline = Table::new();
    for (key, node) in changes {
        let name = key.get_ref().to_string();
        if !node.get_ref().is_table() {
            errors.push(not_a_table(&name, &node));
        } else if stages.contains_key(name.as_str()) {
            to_stages.insert(key, node);
        } else if name == "pipeline" {
            to_pipeline.insert(key, node);
        } else {
            errors.push(
                SpecError::new("unknown-stage", format!("{by} names a stage `{name}`, which is not in the pipeline"))
                    .label(&key.span(), "no such stage")
                    .help(format!("the stages are {}", listed(names(stages))))
                    .help_maybe(did_you_mean(&name, names(stages))),
            );
        }
    }
    merge(table, to_pipeline);
    if !to_stages.is_empty() {
        merge(table, Table::from_iter([(key("stages", &(0..0)), Spanned::new(0..0, DeValue::Table(to_stages)))]));
    }
}

/// `stage.key=value` as nested tables. A value that is no TOML is text.
fn parse_set(set: &str, offset: usize) -> Result<Table<'_>, SpecError> {
    let whole = offset..offset + set.len();
    let malformed = |message: &str, span: &Span| {
        SpecError::new("bad-set", message)
            .label(span, "this")
            .help("for example `--set training.epochs=30` or `--set training.matrix.beta=[0, 0.5, 1]`")
    };
    let Some((path, value)) = set.split_once('=') else {
        return Err(malformed("`--set` needs `stage.key=value`", &whole));
    };
    let (mut table, errors) = parse(set, offset);
    if let Some(error) = errors.first() {
        if value.trim_start().starts_with(['[', '{', '"', '\'']) {
            let start = offset + path.len() + 1;
            return Err(SpecError::new("syntax", error.message().to_owned())
                .label(&(start..offset + set.len()), "this is no TOML value"));
        }
        table = bare_word(path, value, offset).ok_or_else(|| syntax(error, offset, set.len(), "here"))?;
    }
    for (key, node) in in_order(&table) {
        if !node.get_ref().is_table() {
            return Err(malformed("`--set` needs a stage and a key: `stage.key=value`", &key.span()));
        }
    }
    Ok(table)
}

/// The tables of a dotted path of plain keys, with `value` as text at its end.
fn bare_word<'t>(path: &'t str, value: &'t str, offset: usize) -> Option<Table<'t>> {
    let trimmed = |text: &'t str, offset: usize| {
        let start = offset + text.len() - text.trim_start().len();
        (text.trim(), start..start + text.trim().len())
    };
    let (word, span) = trimmed(value, offset + path.len() + 1);
    let mut node = Spanned::new(span, DeValue::String(word.into()));
    let mut end = path.len();
    for part in path.rsplit('.') {
        let (name, span) = trimmed(part, offset + end - part.len());
        if !is_name(name) {
            return None;
        }
        end = end.saturating_sub(part.len() + 1);
        let key = Spanned::new(span.clone(), name.into());
        node = Spanned::new(span, DeValue::Table(Table::from_iter([(key, node)])));
    }
    match node.into_inner() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}
