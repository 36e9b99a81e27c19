//! The layers of `src/lib.rs` hold: a module imports only modules that stand below it in the crate's table, and no two files need each
//! other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The segments of a path in the crate, `crate` itself left out.
type Module = Vec<String>;

/// A source file as imports see it.
struct Source {
    /// The paths of other modules that it names.
    uses: Vec<Module>,
    /// What it gives on under a name of its own: `pub use child::Thing`.
    passed_on: BTreeMap<String, Module>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            found.push(path);
        }
    }
}

/// The layers in order, the highest first, from the table in the crate's documentation.
fn layers() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// The code without comments, texts and the tests at the end of the file.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        if line.starts_with("#[cfg(test)]") && text[text.find(line).unwrap()..].contains("mod tests") {
            // A file's tests stand at its end.
            if text[text.find(line).unwrap()..].trim_start_matches(line).trim_start().starts_with("mod tests {")
                || text[text.find(line).unwrap()..].contains("\npub(super) mod tests {")
            {
                break;
            }
        }
        let trimmed = line.trim_start();
        if !trimmed.starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Every path of a tree of imports, `a::{b, c::{d as e, self}}`, with the name that it gets.
fn tree(prefix: &[String], text: &str, found: &mut Vec<(Module, String)>) {
    let text = text.trim();
    if let Some(list) = text.strip_prefix('{').and_then(|list| list.strip_suffix('}')) {
        let (mut depth, mut start) = (0, 0);
        for (at, letter) in list.char_indices().chain([(list.len(), ',')]) {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    if !list[start..at].trim().is_empty() {
                        tree(prefix, &list[start..at], found);
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let first = word(text).to_owned();
    let rest = text[first.len()..].trim_start();
    let mut path = prefix.to_vec();
    if first != "self" || path.is_empty() {
        path.push(first.clone());
    }
    if let Some(rest) = rest.strip_prefix("::") {
        tree(&path, rest, found);
    } else {
        let name = rest
            .strip_prefix("as ")
            .map_or_else(|| path.last().cloned().unwrap_or_default(), |name| word(name.trim()).to_owned());
        found.push((path, name));
    }
}

/// A path from the crate's root: `super`, `self` and `crate` in front are resolved; `None`: it is of another crate.
fn absolute(module: &[String], path: &[String], children: &BTreeSet<String>) -> Option<Module> {
    let mut at: Module = module.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        first if children.contains(first) => {}
        _ => return None,
    }
    at.extend(rest.iter().cloned());
    Some(at)
}

fn read(module: &Module, text: &str) -> Source {
    let code = code(text);
    let mut source = Source { uses: Vec::new(), passed_on: BTreeMap::new() };
    let children: BTreeSet<String> = code
        .lines()
        .filter_map(|line| {
            let line =
                line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
            Some(word(line.strip_prefix("mod ")?).to_owned()).filter(|_| line.ends_with(';'))
        })
        .collect();
    let mut rest = code.as_str();
    let mut without = String::new();
    while let Some(at) = rest.find("use ") {
        let line = rest[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = rest[line..at].trim();
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if !before.is_empty() && !before.starts_with("pub") {
            without.push_str(&rest[..at + 4]);
            rest = &rest[at + 4..];
            continue;
        }
        without.push_str(&rest[..line]);
        let mut paths = Vec::new();
        tree(&[], &rest[at + 4..end], &mut paths);
        for (path, name) in paths {
            let Some(path) = absolute(module, &path, &children) else { continue };
            if before.starts_with("pub") {
                source.passed_on.insert(name, path);
            } else {
                source.uses.push(path);
            }
        }
        rest = &rest[end..];
    }
    without.push_str(rest);
    for start in ["crate::", "super::"] {
        for (at, _) in without.match_indices(start) {
            if without[..at].ends_with("::") || without[..at].ends_with(|c: char| c.is_alphanumeric()) {
                continue;
            }
            let path: Vec<String> = without[at..]
                .split("::")
                .map_while(|part| {
                    let name = word(part);
                    (!name.is_empty()).then(|| (name.to_owned(), name.len() == part.len()))
                })
                .scan(true, |go, (name, whole)| {
                    let now = *go;
                    *go = whole;
                    now.then_some(name)
                })
                .collect();
            source.uses.extend(absolute(module, &path, &children));
        }
    }
    source
}

fn sources() -> BTreeMap<Module, Source> {
    let folder = root().join("src");
    let mut paths = Vec::new();
    files(&folder, &mut paths);
    let mut sources = BTreeMap::new();
    for path in paths {
        let relative = path.strip_prefix(&folder).unwrap().with_extension("");
        let mut module: Module = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if ["main", "lib"].contains(&module[0].as_str())
            || module.last().is_some_and(|last| last == "tests" || last == "testing")
        {
            continue;
        }
        module.retain(|part| part != "mod");
        let source = read(&module, &fs::read_to_string(&path).unwrap());
        sources.insert(module, source);
    }
    sources
}

/// The file in which a path ends: what a module passes on is looked for where it comes from.
fn file(sources: &BTreeMap<Module, Source>, path: &Module) -> Option<Module> {
    let mut path = path.clone();
    for _ in 0..8 {
        let module =
            (0..=path.len()).rev().map(|length| path[..length].to_vec()).find(|part| sources.contains_key(part))?;
        match path.get(module.len()).and_then(|name| sources[&module].passed_on.get(name)) {
            Some(origin) => path = origin.iter().chain(&path[module.len() + 1..]).cloned().collect(),
            None => return Some(module),
        }
    }
    None
}

#[test]
fn imports_point_down() {
    let layers = layers();
    assert_eq!(layers.len(), 16, "{layers:?}");
    let place = |name: &str| layers.iter().position(|layer| layer == name);
    let (mut upward, mut seen) = (BTreeSet::new(), 0);
    for (module, source) in &sources() {
        let Some(own) = place(&module[0]) else { continue };
        for path in source.uses.iter().chain(source.passed_on.values()) {
            let Some(other) = path.first().and_then(|first| place(first)) else { continue };
            seen += 1;
            if other < own {
                upward.insert(format!("{} imports {}", module.join("::"), path.join("::")));
            }
        }
    }
    assert!(seen > 300, "only {seen} imports found: are they read right?");
    assert!(upward.is_empty(), "imports that point up:\n{}", upward.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn no_two_files_need_each_other() {
    let sources = sources();
    let mut edges: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, source) in &sources {
        let used = source.uses.iter().filter_map(|path| file(&sources, path)).filter(|other| other != module);
        edges.insert(module, used.collect());
    }
    let reaches = |from: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(at) = open.pop() {
            open.extend(edges[&at].iter().filter(|next| seen.insert((*next).clone())).cloned());
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = sources.keys().map(|module| (module, reaches(module))).collect();
    let mut circles = BTreeSet::new();
    for module in sources.keys() {
        let circle: Vec<String> = reached[module]
            .iter()
            .filter(|other| reached[*other].contains(module) && reached[module].contains(module))
            .map(|other| other.join("::"))
            .collect();
        if !circle.is_empty() {
            circles.insert(circle.join(", "));
        }
    }
    // Known, and to be taken apart.
    circles.remove("exec::host, exec::local, exec::run");
    assert!(circles.is_empty(), "files that need each other:\n{}", circles.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn imports_are_read_right() {
    let text = "//! use super::no;\nmod child;\npub use child::{Thing, other as Renamed};\nuse crate::{a::{self, B, c::D}, e};\nuse super::f;\nuse std::fmt;\nfn x() { let because = super::g::call(); crate::h::I::new(); use_it(); }\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    let source = read(&vec!["top".to_owned(), "own".to_owned()], text);
    let paths: Vec<String> = source.uses.iter().map(|path| path.join("::")).collect();
    assert_eq!(paths, ["a", "a::B", "a::c::D", "e", "top::f", "h::I::new", "top::g::call"]);
    assert_eq!(source.passed_on["Renamed"].join("::"), "top::own::child::other");
}

#[test]
fn the_tree_and_the_documents_name_the_same_layers() {
    let architecture = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for layer in layers() {
        assert!(root().join("src").join(&layer).join("mod.rs").exists(), "no folder for `{layer}`");
        assert!(architecture.contains(&format!("`src/{layer}`")), "docs/architecture.md does not name `src/{layer}`");
    }
}

#[test]
fn candles_storages_are_opened_in_three_files_only() {
    let source = root().join("src");
    let allowed = ["nn/storage.rs", "nn/maps.rs", "nn/cpu/mod.rs"].map(|name| source.join(name));
    let (mut all, mut opened) = (Vec::new(), Vec::new());
    files(&source, &mut all);
    for file in all {
        let text = fs::read_to_string(&file).unwrap();
        let opens = ["CpuStorage", "CudaStorage", "storage_and_layout", "from_storage", "inplace_op"];
        if opens.iter().any(|name| text.contains(name)) {
            opened.push(file);
        }
    }
    opened.sort();
    let mut wanted = allowed.to_vec();
    wanted.sort();
    assert_eq!(opened, wanted);
}
