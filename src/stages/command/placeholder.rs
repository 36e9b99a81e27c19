//! Placeholders in the arguments and the environment of a program: `{inputs.table}`, `{files.script}`, `{outputs.result}`.

use std::collections::BTreeMap;

use crate::stage::Problem;

/// What placeholders begin with.
const GROUPS: [&str; 3] = ["inputs", "files", "outputs"];

/// A piece of an argument.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    /// `{group.name}`.
    Placeholder(&'a str, &'a str),
}

/// Splits a text at its placeholders. Other braces mean nothing.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut searched = 0;
    while let Some(open) = rest[searched..].find('{').map(|at| at + searched) {
        let inside = rest[open + 1..].split_once('}').and_then(|(inside, _)| inside.split_once('.'));
        match inside {
            Some((group, name)) if GROUPS.contains(&group) => {
                if open > 0 {
                    pieces.push(Piece::Text(&rest[..open]));
                }
                pieces.push(Piece::Placeholder(group, name));
                rest = &rest[open + group.len() + name.len() + 3..];
                searched = 0;
            }
            _ => searched = open + 1,
        }
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// The arguments with paths in the places of the placeholders.
pub(super) fn expand(argv: &[String], places: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut expanded = Vec::new();
    for argument in argv {
        if let [Piece::Placeholder(group, name)] = pieces(argument).as_slice() {
            expanded.extend(places.get(&format!("{group}.{name}")).into_iter().flatten().cloned());
        } else {
            expanded.push(expand_text(argument, places));
        }
    }
    expanded
}

/// A text with paths in the places of the placeholders; several files with spaces between.
pub(super) fn expand_text(text: &str, places: &BTreeMap<String, Vec<String>>) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => (*text).to_owned(),
        Piece::Placeholder(group, name) => {
            places.get(&format!("{group}.{name}")).map(|paths| paths.join(" ")).unwrap_or_default()
        }
    };
    pieces(text).iter().map(piece).collect()
}

/// What is wrong with the placeholders of a text in `field`. `known`: how many things each one stands for.
pub(super) fn problems(field: &str, text: &str, known: &BTreeMap<String, usize>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let pieces = pieces(text);
    let alone = field == "argv" && pieces.len() == 1;
    for piece in &pieces {
        match piece {
            Piece::Text(text) => problems.extend(almost(text).map(|(wrong, meant)| {
                let what = if wrong.ends_with('}') { "is no placeholder" } else { "has no `}`" };
                Problem::with(field, format!("`{wrong}` {what}")).at(wrong).help(format!(
                    "{}; a program text with such braces of its own belongs into a file, as `{{files.NAME}}`",
                    suggestion(&meant, known)
                ))
            })),
            Piece::Placeholder(group, name) => {
                let port = format!("{group}.{name}");
                match known.get(&port) {
                    None => problems.push(
                        Problem::with(field, format!("`{{{port}}}` stands for nothing"))
                            .at(&format!("{{{port}}}"))
                            .help(suggestion(&port, known)),
                    ),
                    Some(&files) if *group == "files" && files > 1 && !alone => problems.push(
                        Problem::with(field, format!("`{{{port}}}` stands for {files} files"))
                            .at(&format!("{{{port}}}"))
                            .help("several files need an argument of their own, with nothing beside them"),
                    ),
                    Some(_) => {}
                }
            }
        }
    }
    problems
}

/// What looks like a placeholder and is none, with what seems to be meant: `{input.table}`, `{outputs}`, `{ inputs.x }`, `{inputs.x`.
fn almost(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.match_indices('{').filter_map(|(open, _)| {
        let rest = &text[open + 1..];
        let end = rest.find(['}', '{']);
        let closed = end.filter(|&end| rest[end..].starts_with('}'));
        let inside = match closed {
            Some(end) => &rest[..end],
            // Without a brace at the end, it is the word that follows.
            None => rest.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).next()?,
        };
        let (word, name) = match inside.split_once('.') {
            Some((word, name)) => (word.trim(), Some(name.trim())),
            None => (inside.trim(), None),
        };
        let group = group_like(word)?;
        // `{file}` and the like may be a program's own; Snakemake's `{input}` and `{output}` are meant as ours.
        let ours = match name {
            Some(name) => {
                closed.is_some() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c))
                    || closed.is_none() && word == group
            }
            None => closed.is_some() && ["inputs", "input", "outputs", "output", "files"].contains(&word),
        };
        let length = open + 1 + inside.len() + usize::from(closed.is_some());
        ours.then(|| (&text[open..length], format!("{group}.{}", name.unwrap_or_default())))
    })
}

/// The group that a word seems to mean.
fn group_like(word: &str) -> Option<&'static str> {
    let lower = word.to_lowercase();
    let near = |group: &&str| lower == **group || (lower.len() > 3 && strsim::damerau_levenshtein(&lower, group) == 1);
    GROUPS.into_iter().find(|group| near(group))
}

/// The nearest placeholder that there is, or all of them.
fn suggestion(meant: &str, known: &BTreeMap<String, usize>) -> String {
    let (group, name) = meant.split_once('.').unwrap_or((meant, ""));
    let of_group = || known.keys().filter(|port| port.split_once('.').is_some_and(|(own, _)| own == group));
    let near = |port: &&String| {
        let own = port.split_once('.').map_or("", |(_, own)| own);
        strsim::jaro_winkler(name, own) > 0.8
    };
    let only = of_group().next().filter(|_| of_group().count() == 1 && name.is_empty());
    let same_name = known.keys().find(|port| port.split_once('.').is_some_and(|(_, own)| own == name));
    if let Some(near) = of_group().find(near).or(only).or(same_name) {
        return format!("did you mean `{{{near}}}`?");
    }
    match known.keys().map(|port| format!("`{{{port}}}`")).collect::<Vec<_>>().as_slice() {
        [] => "this stage has no inputs, files or outputs that a placeholder could stand for".to_owned(),
        [one] => format!("there is {one}"),
        all => format!("there are {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_and_other_braces_are_not() {
        assert_eq!(pieces("{inputs.a}"), [Piece::Placeholder("inputs", "a")]);
        assert_eq!(
            pieces("x={files.b}/y {print $1} {outputs.c}"),
            [
                Piece::Text("x="),
                Piece::Placeholder("files", "b"),
                Piece::Text("/y {print $1} "),
                Piece::Placeholder("outputs", "c")
            ]
        );
        for plain in ["", "{", "{}", "{a.b}", "{{inputs}", "{inputs.", "ä{ö}"] {
            assert_eq!(pieces(plain), [Piece::Text(plain)], "{plain}");
        }
    }

    #[test]
    fn several_files_become_several_arguments() {
        let places = BTreeMap::from([
            ("files.all".to_owned(), vec!["files/all/a".to_owned(), "files/all/b".to_owned()]),
            ("outputs.o".to_owned(), vec!["outputs/o".to_owned()]),
        ]);
        let argv = ["cat", "{files.all}", "--to={outputs.o}"].map(str::to_owned);
        assert_eq!(expand(&argv, &places), ["cat", "files/all/a", "files/all/b", "--to=outputs/o"]);
        assert_eq!(expand_text("{outputs.o}:{outputs.o}", &places), "outputs/o:outputs/o");
    }

    fn known() -> BTreeMap<String, usize> {
        [("inputs.table", 1), ("files.images", 2), ("files.script", 1), ("outputs.result", 1)]
            .map(|(port, count)| (port.to_owned(), count))
            .into()
    }

    fn said(text: &str) -> Option<(String, String)> {
        let mut found = problems("argv", text, &known());
        assert!(found.len() <= 1, "{text}: {found:?}");
        found.pop().map(|problem| (problem.message, problem.help.unwrap_or_default()))
    }

    #[test]
    fn what_only_looks_like_a_placeholder_is_an_error_with_a_suggestion() {
        for (text, wrong, meant) in [
            ("{inputs.tabel}", "`{inputs.tabel}` stands for nothing", "did you mean `{inputs.table}`?"),
            ("{input.table}", "`{input.table}` is no placeholder", "did you mean `{inputs.table}`?"),
            ("{Inputs.table}", "`{Inputs.table}` is no placeholder", "did you mean `{inputs.table}`?"),
            ("{ inputs.table }", "`{ inputs.table }` is no placeholder", "did you mean `{inputs.table}`?"),
            ("{outputs}/x", "`{outputs}` is no placeholder", "did you mean `{outputs.result}`?"),
            ("{output}", "`{output}` is no placeholder", "did you mean `{outputs.result}`?"),
            ("{file.script}", "`{file.script}` is no placeholder", "did you mean `{files.script}`?"),
            ("{output.reslt}", "`{output.reslt}` is no placeholder", "did you mean `{outputs.result}`?"),
            ("{inputs.script}", "`{inputs.script}` stands for nothing", "did you mean `{files.script}`?"),
            ("{inputs.table/x", "`{inputs.table` has no `}`", "did you mean `{inputs.table}`?"),
            ("--in={files.images}", "`{files.images}` stands for 2 files", "several files need"),
            ("{inputs.zzz}", "`{inputs.zzz}` stands for nothing", "there are `{files.images}`, `{files.script}`"),
        ] {
            let (message, help) = said(text).unwrap_or_else(|| panic!("{text}: no problem"));
            assert_eq!(message, wrong);
            assert!(help.starts_with(meant), "{text}: {help}");
        }
    }

    #[test]
    fn braces_of_shells_and_scripts_are_left_alone() {
        for text in [
            "awk '{print $1}'",
            "{}",
            "find . -exec cat {} +",
            "print(f'{x} {file} {files_seen} {result.n}')",
            "${HOME}/{a,b}",
            "{\"inputs\": 1}",
            "{{x}}",
            "{a.b}",
            "{files.images}",
            "{inputs.table}/cells.csv",
        ] {
            assert_eq!(said(text), None, "{text}");
        }
    }
}
