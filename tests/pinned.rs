//! Every stage kind gives the bytes that are written down for its version: a result that changes must raise its `VERSION`.
//!
//! `tests/pinned/digests.tsv` holds a line for each output of `tests/pinned/every-kind.toml`. When a version was raised on purpose, write the
//! file anew with `STATCELL_PIN=1 cargo test --test pinned`, and look at what changed in it.

mod place;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use place::{Place, text};

/// (instance, kind, version, port) and digest of every output.
type Lines = BTreeMap<[String; 4], String>;

fn read(text: &str) -> Lines {
    let lines = text.lines().filter(|line| !line.is_empty()).map(|line| {
        let [instance, kind, version, port, digest]: [&str; 5] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("not five columns: {line}"));
        ([instance, kind, version, port].map(str::to_owned), digest.to_owned())
    });
    lines.collect()
}

#[test]
fn every_stage_kind_gives_the_bytes_of_its_version() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/pinned");
    let pipeline = fs::read_to_string(folder.join("every-kind.toml")).unwrap();
    let pipeline = pipeline
        .replace("FOLDER", &folder.display().to_string())
        .replace("FIELD", &root.join("pipelines/data/hipsc-fov/cells3d2ch.tiff").display().to_string())
        .replace("CHECKPOINTS", &root.join("tests/fixtures/checkpoints").display().to_string());
    let place = Place::new(&pipeline);
    let output = place.call(&["run", "small.toml"]);
    assert!(output.status.success(), "{}", text(&output));

    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = place.call(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
    };
    let kinds = json(&["stages", "--json"]);
    let versions: BTreeMap<&str, u64> = kinds
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| (kind["name"].as_str().unwrap(), kind["version"].as_u64().unwrap()))
        .collect();
    let plan = json(&["plan", "small.toml", "--json"]);
    let mut found = Lines::new();
    for step in plan["steps"].as_array().unwrap() {
        let [instance, kind] = ["instance", "kind"].map(|key| step[key].as_str().unwrap());
        let outputs = step["decision"]["outputs"].as_object().unwrap_or_else(|| panic!("not cached: {step}"));
        for (port, output) in outputs {
            let line = [instance, kind, &versions[kind].to_string(), port].map(str::to_owned);
            found.insert(line, output["tree"].as_str().unwrap().to_owned());
        }
    }
    let missing: Vec<&&str> = versions.keys().filter(|&kind| found.keys().all(|line| line[1] != **kind)).collect();
    assert!(missing.is_empty(), "add these stage kinds to tests/pinned/every-kind.toml: {missing:?}");

    let path = folder.join("digests.tsv");
    if std::env::var_os("STATCELL_PIN").is_some() {
        let mut all = String::new();
        for (line, digest) in &found {
            writeln!(all, "{}\t{digest}", line.join("\t")).unwrap();
        }
        fs::write(&path, all).unwrap();
    }
    let pinned = read(&fs::read_to_string(&path).unwrap());
    let mut complaints = String::new();
    for (line, digest) in &found {
        let [instance, kind, version, port] = line;
        match pinned.get(line) {
            Some(pinned) if pinned == digest => {}
            Some(_) => writeln!(
                complaints,
                "`{instance}.{port}`: other bytes than `{kind}` version {version} gave: raise its VERSION, or find out why"
            )
            .unwrap(),
            None => writeln!(complaints, "`{instance}.{port}` (`{kind}` version {version}) is not pinned").unwrap(),
        }
    }
    for line in pinned.keys().filter(|&line| !found.contains_key(line)) {
        writeln!(complaints, "pinned, but no longer there: {}", line.join(" ")).unwrap();
    }
    assert!(complaints.is_empty(), "{complaints}");
}
