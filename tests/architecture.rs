//! The layers of `src/lib.rs` hold: a module imports only modules that stand below it in the crate's table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            found.push(path);
        }
    }
}

/// The layers in order, the highest first, from the table in the crate's documentation.
fn layers(root: &Path) -> Vec<String> {
    let text = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`")?.split('`').next());
    rows.map(str::to_owned).collect()
}

/// The first names behind a `crate::`, be it a path or a list in braces.
fn first_names(rest: &str) -> Vec<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(list) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut name, mut names) = (0, String::new(), Vec::new());
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&std::mem::take(&mut name))),
            _ if depth == 0 => name.push(letter),
            _ => {}
        }
    }
    names.push(word(&name));
    names
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let layers = layers(root);
    assert_eq!(layers.len(), 15, "{layers:?}");
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let (mut upward, mut seen) = (Vec::new(), 0);
    for file in files {
        let relative = file.strip_prefix(root.join("src")).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let Some(own) = layers.iter().position(|layer| layer == module) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n");
        for (at, matched) in code.match_indices("crate::") {
            for name in first_names(&code[at + matched.len()..]) {
                seen += 1;
                if layers.iter().position(|layer| *layer == name).is_some_and(|other| other < own) {
                    upward.push(format!("{}: {module} imports {name}", relative.display()));
                }
            }
        }
    }
    assert!(seen > 30, "only {seen} imports found: is the pattern right?");
    assert!(upward.is_empty(), "imports that point up:\n{}", upward.join("\n"));
}

/// Which file of a module each file of it imports, by names without suffix. What `mod.rs` passes on counts as its origin.
fn imports_within(module: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    let files: Vec<String> = fs::read_dir(module)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    let mut origin: BTreeMap<String, String> = files.iter().map(|file| (file.clone(), file.clone())).collect();
    let passed_on = text(&module.join("mod.rs"));
    for statement in passed_on.split(';').filter_map(|statement| statement.split_once("use ").map(|(_, rest)| rest)) {
        let Some((file, names)) = statement.trim().split_once("::") else { continue };
        origin.extend(first_names(names).into_iter().map(|name| (name, file.to_owned())));
    }
    let imports = |file: &String| {
        let code = text(&module.join(format!("{file}.rs")));
        let names = code.match_indices("super::").flat_map(|(at, found)| first_names(&code[at + found.len()..]));
        let from: BTreeSet<String> = names.filter_map(|name| origin.get(&name).cloned()).collect();
        (file.clone(), from.into_iter().filter(|other| other != file).collect())
    };
    files.iter().map(imports).collect()
}

#[test]
fn no_circle_between_the_files_of_the_store() {
    let mut imports = imports_within(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store"));
    assert!(imports["gc"].contains("base") && imports["base"].contains("disk"), "{imports:?}");
    // Files that import nothing that is left are taken away, until nothing is left.
    while !imports.is_empty() {
        let free: Vec<String> =
            imports.iter().filter(|(_, from)| from.is_empty()).map(|(file, _)| file.clone()).collect();
        assert!(!free.is_empty(), "a circle among {imports:#?}");
        for file in free {
            imports.remove(&file);
            for from in imports.values_mut() {
                from.remove(&file);
            }
        }
    }
}

#[test]
fn the_tree_and_the_documents_name_the_same_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let architecture = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    for layer in layers(root) {
        assert!(root.join("src").join(&layer).join("mod.rs").exists(), "no folder for `{layer}`");
        assert!(architecture.contains(&format!("`src/{layer}`")), "docs/architecture.md does not name `src/{layer}`");
    }
}
