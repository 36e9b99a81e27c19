//! What the store, garbage collection and the results folder owe the user, tried with the whole program.

mod place;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use place::{Place, text};
use serde_json::{Value, json};
use statcell::store::Digest;

/// One program that writes one file.
const ONE: &str = r#"
[pipeline]
name = "p"
[stages.c]
uses = "command"
argv = ["sh", "-c", "echo result > outputs/o/table.csv"]
version = "1"
outputs = { o = "files" }
"#;

fn told(output: &Output) -> String {
    text(output).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    let told = told(output);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for word in words {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

fn run(place: &Place, more: &[&str]) -> Output {
    place.call(&[&["run", "small.toml"], more].concat())
}

/// The files in a folder of the store.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A record with the right check.
fn record(value: &Value) -> Vec<u8> {
    let body = serde_json::to_vec_pretty(value).unwrap();
    let check = Digest::of(&body).to_string();
    [b"{\"check\":\"", check.as_bytes(), b"\",\"record\":\n", &body, b"}\n"].concat()
}

fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice::<Value>(bytes).unwrap()["record"].clone()
}

// --- The results folder ---------------------------------------------------------------------------------------------------

#[test]
fn results_of_the_user_are_kept_and_named_until_forced() {
    let place = Place::new(ONE);
    let table = place.path("results/p/c/o/table.csv");
    fs::create_dir_all(table.parent().unwrap()).unwrap();
    fs::write(&table, "MY PHD").unwrap();
    ends(&run(&place, &[]), 0, &["results/p/c/o/table.csv", "not written by statcell", "--force-results"]);
    assert_eq!(fs::read_to_string(&table).unwrap(), "MY PHD");
    ends(&run(&place, &["--force-results"]), 0, &[]);
    assert_eq!(fs::read_to_string(&table).unwrap(), "result\n");
    fs::write(&table, "result\nand my notes").unwrap();
    ends(&run(&place, &[]), 0, &["table.csv", "was changed since"]);
    assert_eq!(fs::read_to_string(&table).unwrap(), "result\nand my notes");
    // The stage is gone from the pipeline: what was edited stays.
    fs::write(place.path("small.toml"), ONE.replace("stages.c", "stages.d")).unwrap();
    ends(&run(&place, &[]), 0, &[]);
    assert!(table.exists() && place.path("results/p/d/o/table.csv").exists());
    // A port's folder that became a link.
    fs::create_dir(place.path("mine")).unwrap();
    fs::remove_dir_all(place.path("results/p/d/o")).unwrap();
    symlink(place.path("mine"), place.path("results/p/d/o")).unwrap();
    ends(&run(&place, &[]), 0, &["results/p/d/o", "is a link"]);
    assert_eq!(files(&place.path("mine")), Vec::<PathBuf>::new());
}

#[test]
fn a_forged_list_of_results_reaches_nothing_outside() {
    let place = Place::new(ONE);
    ends(&run(&place, &[]), 0, &[]);
    let victim = place.path("victim/f");
    fs::create_dir(place.path("victim")).unwrap();
    fs::write(&victim, "v").unwrap();
    let list = place.path("results/p/.statcell.json");
    let mut forged: Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let modified = victim.metadata().unwrap().modified().unwrap();
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    for path in ["../../victim/f", victim.to_str().unwrap()] {
        forged["instances"][format!("ghost {path}")] = json!({
            "version": Digest::of(b""),
            "files": { path: { "digest": Digest::of(b"v"), "size": 1, "modified_ns": modified } },
        });
    }
    fs::write(&list, forged.to_string()).unwrap();
    ends(&run(&place, &[]), 0, &[]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "v");
}

#[test]
fn pipelines_of_one_name_do_not_remove_each_others_results() {
    let place = Place::new(ONE);
    ends(&run(&place, &[]), 0, &[]);
    fs::write(place.path("other.toml"), ONE.replace("stages.c", "stages.d")).unwrap();
    ends(&place.call(&["run", "other.toml"]), 0, &[]);
    assert!(place.path("results/p/c/o/table.csv").exists());
    assert_eq!(files(&place.path("results")).iter().filter(|path| path.ends_with("d/o/table.csv")).count(), 1);
    for pipeline in ["small.toml", "other.toml"] {
        let output = place.call(&["run", pipeline, "--events", "events.jsonl"]);
        ends(&output, 0, &[]);
        assert!(!fs::read_to_string(place.path("events.jsonl")).unwrap().contains("\"started\""));
    }
}

#[test]
fn what_people_get_has_the_umasks_mode() {
    let place = Place::new(ONE);
    let statcell = env!("CARGO_BIN_EXE_statcell");
    let script = format!("umask 002; {statcell} run small.toml && {statcell} get small.toml c.o --out got");
    let output = Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
    ends(&output, 0, &[]);
    for path in ["results/p/c/o/table.csv", "results/p/.statcell.json", "got/table.csv"] {
        assert_eq!(fs::metadata(place.path(path)).unwrap().permissions().mode() & 0o777, 0o664, "{path}");
    }
}

#[test]
fn results_that_cannot_be_written_are_told_as_such() {
    let place = Place::new(ONE);
    fs::write(place.path("file"), "").unwrap();
    let output = run(&place, &["--results", "file/below"]);
    ends(&output, 2, &["file", "--results"]);
    assert!(!told(&output).contains("--store") && !told(&output).contains("cache verify"), "{}", told(&output));
}

// --- Garbage collection and verification ----------------------------------------------------------------------------------

fn gc(place: &Place, more: &[&str]) -> Output {
    place.call(&[&["cache", "gc", "--grace", "0"], more].concat())
}

#[test]
fn collection_stops_where_it_is_not_known_what_is_needed() {
    let damages: [(&str, fn(&Path)); 6] = [
        ("empty", |path| replace(path, b"")),
        ("half", |path| replace(path, &fs::read(path).unwrap()[..100])),
        ("one byte", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[150] ^= 1;
            replace(path, &bytes);
        }),
        ("newer", |path| {
            let mut value = body(&fs::read(path).unwrap());
            value["version"] = json!(2);
            replace(path, &record(&value));
        }),
        ("unknown", |path| {
            let mut value = body(&fs::read(path).unwrap());
            value["instances"]["c"]["more"] = json!([]);
            replace(path, &record(&value));
        }),
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let place = Place::new(ONE);
        ends(&run(&place, &[]), 0, &[]);
        let roots = files(&place.path(".statcell/roots"));
        assert_eq!(roots.len(), 1);
        damage(&roots[0]);
        let before = files(&place.path(".statcell/blobs"));
        let shown = roots[0].file_name().unwrap().to_str().unwrap();
        ends(&place.call(&["cache", "verify"]), 4, &[shown]);
        ends(&gc(&place, &[]), 4, &["nothing was removed", shown, "run the whole pipeline"]);
        assert_eq!(files(&place.path(".statcell/blobs")), before, "{name}");
        // The next run writes the record anew; then all is well.
        assert!(place.executed(&[]).is_empty(), "{name}");
        ends(&gc(&place, &[]), 0, &["kept"]);
        ends(&place.call(&["cache", "verify"]), 0, &["sound"]);
        assert!(place.executed(&[]).is_empty(), "{name}");
    }
}

#[test]
fn a_damaged_entry_that_is_needed_stops_collection() {
    let place = Place::new(ONE);
    ends(&run(&place, &[]), 0, &[]);
    let entries = files(&place.path(".statcell/actions"));
    let entry = entries.iter().find(|path| !path.to_str().unwrap().contains("facts")).unwrap();
    replace(entry, b"");
    ends(&gc(&place, &[]), 4, &["nothing was removed", "cache verify"]);
    ends(&place.call(&["cache", "verify"]), 4, &["sound again"]);
    assert_eq!(place.executed(&[]), ["c"]);
    ends(&gc(&place, &[]), 0, &["kept"]);
    assert!(place.executed(&[]).is_empty());
}

#[test]
fn changes_from_the_command_line_do_not_lose_the_results_of_others() {
    let place = Place::new(ONE);
    let variants: [&[&str]; 3] = [&[], &["--set", "c.version=\"one\""], &["--set", "c.version=\"two\""]];
    for variant in variants {
        assert_eq!(place.executed(variant), ["c"]);
    }
    ends(&gc(&place, &[]), 0, &["--set c.version=\"one\""]);
    for variant in variants {
        assert!(place.executed(variant).is_empty(), "{variant:?}");
    }
    ends(&gc(&place, &["--forget-variants"]), 0, &["forgot"]);
    assert!(place.executed(variants[0]).is_empty());
    assert_eq!(place.executed(variants[1]), ["c"]);
}

#[test]
fn a_torn_format_is_made_anew_and_told_by_verification() {
    let place = Place::new(ONE);
    ends(&run(&place, &[]), 0, &[]);
    replace(&place.path(".statcell/format"), b"");
    ends(&place.call(&["cache", "verify"]), 4, &["`format` was damaged"]);
    ends(&place.call(&["cache", "verify"]), 0, &["sound"]);
    replace(&place.path(".statcell/format"), b"statcell-sto");
    assert!(place.executed(&[]).is_empty());
}

#[test]
fn folders_that_a_program_left_read_only_do_not_block_collection() {
    let script = "mkdir -p x/y; echo > x/y/z; echo result > outputs/o/t; chmod -R a-w x outputs/o";
    let place = Place::new(&ONE.replace("echo result > outputs/o/table.csv", script));
    let place = unprivileged(place);
    ends(&place.output(&["run", "small.toml"]), 0, &[]);
    assert_eq!(fs::read_dir(place.place.path(".statcell/tmp")).unwrap().count(), 0, "its folder is gone");
    // One that a killed run left.
    let left = place.place.path(".statcell/tmp/scratch-left");
    fs::create_dir_all(left.join("a/b")).unwrap();
    fs::write(left.join("a/b/c"), "").unwrap();
    give_away(&left);
    for folder in ["a/b", "a", ""] {
        fs::set_permissions(left.join(folder), fs::Permissions::from_mode(0o500)).unwrap();
    }
    fs::File::open(&left).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    ends(&place.output(&["cache", "gc"]), 0, &["leftovers"]);
    assert!(!left.exists());
}

// --- What an entry is good for --------------------------------------------------------------------------------------------

#[test]
fn an_entry_with_other_ports_or_types_is_no_result() {
    let change: [fn(&mut Value); 3] = [
        |outputs| outputs["o"]["type"] = json!("tables"),
        |outputs| {
            let output = outputs["o"].take();
            *outputs = json!({ "other": output });
        },
        |outputs| outputs["more"] = outputs["o"].clone(),
    ];
    let two = format!(
        "{ONE}\n[stages.d]\nuses = \"command\"\nargv = [\"sh\", \"-c\", \"cat {{inputs.i}}/* > outputs/o/copy\"]\n\
         version = \"1\"\ninputs = {{ i = \"c.o\" }}\noutputs = {{ o = \"files\" }}\n"
    );
    for change in change {
        let place = Place::new(&two);
        ends(&run(&place, &[]), 0, &[]);
        let digests = place.digests();
        for entry in files(&place.path(".statcell/actions")) {
            if !entry.to_str().unwrap().contains("facts") {
                let mut value = body(&fs::read(&entry).unwrap());
                change(&mut value["outputs"]);
                replace(&entry, &record(&value));
            }
        }
        assert_eq!(place.executed(&[]), ["c", "d"]);
        assert_eq!(place.digests(), digests);
    }
}

#[test]
fn names_that_an_artifact_cannot_hold_are_told_with_the_stage() {
    for name in [r"a\\b", r"a\tb", r"a\nb", r"a\033b"] {
        let argv = format!("argv = [\"sh\", \"-c\", '''echo > \"outputs/o/$(printf '{name}')\"''']");
        let place = Place::new(&ONE.replace("argv = [\"sh\", \"-c\", \"echo result > outputs/o/table.csv\"]", &argv));
        let shown = name.replace(r"\033", r"\u{1b}");
        let output = run(&place, &[]);
        ends(&output, 1, &["output `o`", &shown, "c "]);
        assert!(!told(&output).contains("cache verify"), "{}", told(&output));
    }
}

#[test]
fn many_damaged_blobs_are_recovered_from_at_once() {
    let write = "for i in $(seq 30); do echo $i > outputs/o/$i; done";
    let pipeline = format!(
        "{}\n[stages.d]\nuses = \"command\"\nargv = [\"sh\", \"-c\", \"cat {{inputs.i}}/* > outputs/o/all\"]\n\
         version = \"1\"\ninputs = {{ i = \"c.o\" }}\noutputs = {{ o = \"files\" }}\n",
        ONE.replace("echo result > outputs/o/table.csv", write)
    );
    let place = Place::new(&pipeline);
    ends(&run(&place, &[]), 0, &[]);
    let digests = place.digests();
    for blob in files(&place.path(".statcell/blobs")) {
        let mut bytes = fs::read(&blob).unwrap();
        // The trees stay: then the damage shows only when the files are read.
        if !bytes.starts_with(b"statcell-tree") {
            bytes[0] ^= 1;
            replace(&blob, &bytes);
        }
    }
    fs::remove_dir_all(place.path("results")).unwrap();
    ends(&run(&place, &[]), 0, &[]);
    assert_eq!(place.digests(), digests);
    ends(&place.call(&["cache", "verify"]), 0, &["sound"]);
    assert_eq!(fs::read_to_string(place.path("results/p/c/o/30")).unwrap(), "30\n");
}

#[test]
fn a_folder_where_a_record_belongs_is_moved_aside() {
    let place = Place::new(ONE);
    ends(&run(&place, &[]), 0, &[]);
    for path in files(&place.path(".statcell")) {
        let name = path.strip_prefix(place.path(".statcell")).unwrap().to_str().unwrap().to_owned();
        if name == "CACHEDIR.TAG" || name == ".gitignore" || name.starts_with("quarantine") || !path.exists() {
            continue;
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("more")).unwrap();
        ends(&run(&place, &[]), 0, &[]);
        assert!(place.executed(&[]).is_empty(), "{name}");
        place.call(&["cache", "verify"]);
        ends(&gc(&place, &[]), 0, &["kept"]);
        assert!(place.executed(&[]).is_empty(), "{name}");
    }
}

// --- Rights and room ------------------------------------------------------------------------------------------------------

/// A place whose program runs without the rights of root, which may write everywhere.
struct Unprivileged {
    place: Place,
}

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn unprivileged(place: Place) -> Unprivileged {
    let place = Unprivileged { place };
    give_away(&place.place.path(""));
    if is_root() {
        // The program itself must be within reach.
        fs::copy(env!("CARGO_BIN_EXE_statcell"), place.place.path("program")).unwrap();
        fs::set_permissions(place.place.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    }
    place
}

/// Gives a path, and all that is below it, to a user without rights; nothing where there is nobody to give it to.
fn give_away(path: &Path) {
    if !is_root() {
        return;
    }
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_away(&entry.unwrap().path());
        }
    }
}

impl Unprivileged {
    fn output(&self, arguments: &[&str]) -> Output {
        use std::os::unix::process::CommandExt;
        let mut command = self.place.command(arguments);
        if is_root() {
            let mut other = Command::new(self.place.path("program"));
            other.current_dir(self.place.path("")).args(arguments).env_remove("STATCELL_STORE").uid(NOBODY).gid(NOBODY);
            command = other;
        }
        command.output().unwrap()
    }
}

fn set_rights(folder: &Path, mode: u32) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            set_rights(&path, mode);
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_store_that_may_only_be_read_serves_hits_and_plans() {
    let pipeline = format!("{ONE}files = {{ f = \"in.txt\" }}\n");
    let it = unprivileged(Place::new(&pipeline));
    fs::write(it.place.path("in.txt"), "input").unwrap();
    ends(&it.output(&["run", "small.toml"]), 0, &[]);
    // Copies, which the index of the store does not know.
    fs::create_dir(it.place.path("copy")).unwrap();
    for name in ["small.toml", "in.txt"] {
        fs::copy(it.place.path(name), it.place.path("copy").join(name)).unwrap();
        let file = fs::File::options().append(true).open(it.place.path("copy").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    }
    give_away(&it.place.path("copy"));
    std::thread::sleep(Duration::from_millis(2300));
    set_rights(&it.place.path(".statcell"), 0o555);
    for torn in [false, true] {
        if torn {
            set_rights(&it.place.path(".statcell"), 0o755);
            replace(&it.place.path(".statcell/format"), b"");
            set_rights(&it.place.path(".statcell"), 0o555);
        }
        ends(&it.output(&["plan", "copy/small.toml", "--store", ".statcell"]), 0, &["c hit"]);
        let output = it.output(&["run", "copy/small.toml", "--store", ".statcell", "--results", "elsewhere"]);
        ends(&output, 0, &[]);
        assert_eq!(fs::read_to_string(it.place.path("elsewhere/p/c/o/table.csv")).unwrap(), "result\n");
        ends(&it.output(&["explain", "copy/small.toml", "c", "--store", ".statcell"]), 0, &["hit"]);
        ends(
            &it.output(&["get", "copy/small.toml", "c", "--store", ".statcell", "--out", &format!("got-{torn}")]),
            0,
            &[],
        );
    }
    // What is not there cannot be computed, and the store is named, not the results.
    let output = it.output(&["run", "small.toml", "--set", "c.version=\"2\""]);
    ends(&output, 4, &[".statcell", "--store"]);
    assert!(!told(&output).contains("cache verify"), "{}", told(&output));
    set_rights(&it.place.path(".statcell"), 0o755);
}

#[test]
fn no_room_for_a_programs_inputs_is_told_as_such() {
    let pipeline = format!(
        "{}\n[stages.d]\nuses = \"command\"\nargv = [\"sh\", \"-c\", \"wc -c {{inputs.i}}/* > outputs/o/n\"]\n\
         version = \"1\"\ninputs = {{ i = \"c.o\" }}\noutputs = {{ o = \"files\" }}\n",
        ONE.replace("echo result > outputs/o/table.csv", "head -c 200000 /dev/zero > outputs/o/big")
    );
    let place = Place::new(&pipeline);
    ends(&run(&place, &["c"]), 0, &[]);
    let statcell = env!("CARGO_BIN_EXE_statcell");
    let script = format!("trap '' XFSZ; ulimit -f 64; exec {statcell} run small.toml d");
    let output = Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
    ends(&output, 4, &["cannot write", "make room"]);
    assert!(!told(&output).contains("cache verify"), "{}", told(&output));
    assert_eq!(place.executed(&[]), ["d"]);
}
