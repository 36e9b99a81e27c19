use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

struct Setting {
    folder: tempfile::TempDir,
    store: Store,
}

fn graph(project: &Path) -> Graph {
    Graph::new("p".to_owned(), Vec::new()).of_file(project)
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        std::fs::write(folder.path().join("p.toml"), "").unwrap();
        Self { folder, store }
    }

    fn open_with(&self, force: bool) -> Results {
        Results::open(&self.path("results"), &graph(&self.path("p.toml")), force).unwrap()
    }

    fn open(&self) -> Results {
        self.open_with(false)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A file beneath the results of instance `one`.
    fn at(&self, path: &str) -> PathBuf {
        self.path("results/p/one").join(path)
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }

    fn copy(&self, results: &mut Results, instance: &str, files: &[(&str, &str)]) -> (Digest, Vec<Kept>) {
        let version = Digest::of(format!("{files:?}").as_bytes());
        let file = |(path, text): &(&str, &str)| ResultFile {
            path: format!("{instance}/{path}"),
            contents: Contents::Blob(self.store.put(text.as_bytes()).unwrap()),
        };
        let files: Vec<ResultFile> = files.iter().map(file).collect();
        (version, results.publish(&self.store, instance, version, &files).unwrap())
    }

    /// A whole run: opens, copies, saves.
    fn run(&self, force: bool, files: &[(&str, &str)]) -> Vec<Kept> {
        let mut results = self.open_with(force);
        let (_, kept) = self.copy(&mut results, "one", files);
        results.save().unwrap();
        kept
    }
}

#[test]
fn names_are_safe_and_do_not_meet() {
    assert_eq!(safe_name("sweep[beta=0.5]"), "sweep-beta=0.5");
    assert_eq!(safe_name("../a b"), "_.._a_b");
    let names = folder_names(&["a", "b[x]", "b-x", "A"]);
    let distinct: BTreeSet<String> = names.values().map(|name| name.to_lowercase()).collect();
    assert_eq!(distinct.len(), 4, "{names:?}");
}

#[test]
fn files_are_restored_and_stale_ones_go_but_not_those_of_others() {
    let it = Setting::new();
    let mut results = it.open();
    let (version, _) = it.copy(&mut results, "one", &[("figures/a.svg", "a"), ("figures/old/b.svg", "b")]);
    results.save().unwrap();
    assert_eq!(it.read("figures/a.svg"), "a");
    assert!(results.is_current("one", &version));

    let results = it.open();
    assert!(results.is_current("one", &version), "the list is read again");
    std::fs::remove_file(it.at("figures/a.svg")).unwrap();
    assert!(!results.is_current("one", &version));
    let mut results = it.open();
    it.copy(&mut results, "one", &[("figures/a.svg", "a"), ("figures/old/b.svg", "b")]);
    assert!(it.at("figures/a.svg").exists());

    std::fs::write(it.at("figures/notes.txt"), "mine").unwrap();
    let (newer, kept) = it.copy(&mut results, "one", &[("figures/a.svg", "A")]);
    assert_eq!((it.read("figures/a.svg").as_str(), kept), ("A", Vec::new()));
    assert!(!it.at("figures/old").exists(), "the stale file and its folder are gone");
    assert!(results.is_current("one", &newer) && !results.is_current("one", &version));
    results.save().unwrap();

    let mut results = it.open();
    assert_eq!(results.remove_others(&graph(&it.path("p.toml"))), []);
    assert!(!it.at("figures/a.svg").exists());
    assert_eq!(it.read("figures/notes.txt"), "mine");
}

#[test]
fn what_the_user_put_there_or_changed_is_kept_and_named_until_forced() {
    let it = Setting::new();
    std::fs::create_dir_all(it.at("")).unwrap();
    std::fs::write(it.at("table.csv"), "MY PHD").unwrap();
    let files = [("table.csv", "result"), ("other.csv", "fine")];
    let kept = it.run(false, &files);
    assert_eq!(kept, [Kept { path: it.at("table.csv"), what: "was not written by statcell" }]);
    assert_eq!((it.read("table.csv").as_str(), it.read("other.csv").as_str()), ("MY PHD", "fine"));
    let note = kept_note(&kept).unwrap();
    assert!(note.contains("table.csv") && note.contains("--force-results"), "{note}");
    // As long as it is there, every run says so; once it is gone, the result takes its place.
    assert_eq!(it.run(false, &files), kept);
    std::fs::remove_file(it.at("table.csv")).unwrap();
    assert_eq!(it.run(false, &files), []);
    assert_eq!(it.read("table.csv"), "result");

    // An edited result: neither restored, nor replaced by a newer one, nor removed with its instance.
    std::fs::write(it.at("table.csv"), "result, and my notes").unwrap();
    let edited = [Kept { path: it.at("table.csv"), what: "was changed since statcell wrote it" }];
    assert_eq!(it.run(false, &files), edited);
    assert_eq!(it.run(false, &[("table.csv", "newer")]).len(), 1);
    assert_eq!(it.run(false, &[("another.csv", "x")]).len(), 0, "it is not statcell's any more");
    assert_eq!(it.read("table.csv"), "result, and my notes");
    assert_eq!(it.run(true, &files), []);
    assert_eq!(it.read("table.csv"), "result");
    // An edit that keeps the size and the time of the file is not seen as long as the result is the same, but never lost.
    let modified = std::fs::metadata(it.at("table.csv")).unwrap().modified().unwrap();
    std::fs::write(it.at("table.csv"), "RESULT").unwrap();
    std::fs::File::options().append(true).open(it.at("table.csv")).unwrap().set_modified(modified).unwrap();
    assert_eq!(it.run(false, &[("another.csv", "x")]).len(), 1);
    assert_eq!(it.read("table.csv"), "RESULT");
}

#[test]
fn a_touched_file_and_one_with_the_right_bytes_are_statcells_own() {
    let it = Setting::new();
    std::fs::create_dir_all(it.at("")).unwrap();
    std::fs::write(it.at("a.csv"), "a").unwrap();
    assert_eq!(it.run(false, &[("a.csv", "a")]), []);
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(9);
    std::fs::File::options().append(true).open(it.at("a.csv")).unwrap().set_modified(later).unwrap();
    assert_eq!(it.run(false, &[("a.csv", "newer")]), []);
    assert_eq!(it.read("a.csv"), "newer");
}

#[test]
fn a_link_is_left_alone_wherever_it_is() {
    let it = Setting::new();
    std::fs::create_dir_all(it.path("elsewhere/deep")).unwrap();
    std::fs::write(it.path("elsewhere/table.csv"), "theirs").unwrap();
    let files = [("port/table.csv", "result"), ("port/deep/x.csv", "x"), ("own.csv", "own")];
    it.run(false, &files);
    std::fs::remove_dir_all(it.at("port")).unwrap();
    // A port's folder.
    symlink(it.path("elsewhere"), it.at("port")).unwrap();
    let kept = it.run(false, &files);
    assert_eq!(kept, [Kept { path: it.at("port"), what: "is a link" }]);
    // The instance is gone: still nothing behind the link is touched.
    let mut results = it.open();
    results.remove_others(&graph(&it.path("p.toml")));
    assert_eq!(std::fs::read_to_string(it.path("elsewhere/table.csv")).unwrap(), "theirs");
    assert_eq!(std::fs::read_dir(it.path("elsewhere/deep")).unwrap().count(), 0);
    // A single file.
    symlink(it.path("elsewhere/table.csv"), it.at("table.csv")).unwrap();
    assert_eq!(it.run(false, &[("table.csv", "result")])[0].what, "is a link");
    // Forced: the link is replaced, never what it leads to.
    assert_eq!(it.run(true, &[("table.csv", "result"), ("port/table.csv", "result")]), []);
    assert_eq!(it.read("port/table.csv"), "result");
    assert_eq!(std::fs::read_to_string(it.path("elsewhere/table.csv")).unwrap(), "theirs");
    assert!(!it.at("port").is_symlink() && !it.at("table.csv").is_symlink());
    // A folder where a file would go is kept even so.
    std::fs::remove_file(it.at("table.csv")).unwrap();
    std::fs::create_dir_all(it.at("table.csv/mine")).unwrap();
    assert_eq!(it.run(true, &[("table.csv", "result")])[0].what, IS_FOLDER);

    std::fs::rename(it.path("results/p"), it.path("moved")).unwrap();
    symlink(it.path("moved"), it.path("results/p")).unwrap();
    let error = Results::open(&it.path("results"), &graph(&it.path("p.toml")), false).err().unwrap();
    assert!(error.to_string().contains("results/p") && error.to_string().contains("is a link"), "{error}");
}

#[test]
fn a_forged_list_reaches_nothing() {
    let it = Setting::new();
    std::fs::create_dir_all(it.path("victim")).unwrap();
    it.run(false, &[("a.csv", "a")]);
    symlink(it.path("victim"), it.at("link")).unwrap();
    let victims = [it.path("victim/f"), it.path("results/f"), it.path("results/p/f"), it.at("notes")];
    for victim in &victims {
        std::fs::write(victim, "v").unwrap();
    }
    let list = it.path("results/p/.statcell.json");
    let text = std::fs::read_to_string(&list).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&text).unwrap();
    let stamp = |path: &Path| {
        let modified = std::fs::metadata(path).unwrap().modified().unwrap();
        modified.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
    };
    let absolute = victims[0].to_str().unwrap();
    let paths = ["../../victim/f", "one/link/f", "../f", "f", absolute, "one/../../../victim/f", "one//notes", ""];
    for (number, path) in paths.iter().enumerate() {
        let victim = it.path("results/p").join(path);
        let modified = if victim.is_file() { stamp(&victim) } else { 0 };
        // With the right digest, size and time.
        // Closing brackets are left out of names of folders: all these instances have the folder `o…`.
        forged["instances"][format!("o{}", "]".repeat(number))] = serde_json::json!({
            "version": Digest::of(b""),
            "files": { *path: { "digest": Digest::of(b"v"), "size": 1, "modified_ns": modified } },
        });
    }
    // With the wrong digest, in the folder of an instance.
    forged["instances"]["one]"] = serde_json::json!({
        "version": Digest::of(b""),
        "files": { "one/notes": { "digest": Digest::of(b"w"), "size": 1, "modified_ns": stamp(&victims[3]) } },
    });
    std::fs::write(&list, forged.to_string()).unwrap();
    let mut results = it.open();
    results.remove_others(&graph(&it.path("p.toml")));
    results.save().unwrap();
    for victim in &victims {
        assert_eq!(std::fs::read_to_string(victim).unwrap(), "v", "{}", victim.display());
    }
    assert!(!it.at("a.csv").exists(), "an instance that is gone has no results");
}

#[test]
fn pipelines_of_one_name_have_a_folder_each() {
    let it = Setting::new();
    std::fs::write(it.path("q.toml"), "").unwrap();
    it.run(false, &[("a.csv", "a")]);
    let mut other = Results::open(&it.path("results"), &graph(&it.path("q.toml")), false).unwrap();
    assert_ne!(other.folder(), it.path("results/p"));
    it.copy(&mut other, "two", &[("b.csv", "b")]);
    other.save().unwrap();
    assert!(it.at("a.csv").exists());
    let again = Results::open(&it.path("results"), &graph(&it.path("q.toml")), false).unwrap();
    assert_eq!(again.folder(), other.folder());
    assert_eq!(it.open().folder(), it.path("results/p"));
    // Pipeline and results, moved or copied together, still belong together; so does what is left of a pipeline that is gone.
    std::fs::create_dir(it.path("copy")).unwrap();
    std::fs::copy(it.path("p.toml"), it.path("copy/p.toml")).unwrap();
    std::fs::create_dir_all(it.path("copy/results/p")).unwrap();
    std::fs::copy(it.path("results/p/.statcell.json"), it.path("copy/results/p/.statcell.json")).unwrap();
    let copied = Results::open(&it.path("copy/results"), &graph(&it.path("copy/p.toml")), false).unwrap();
    assert_eq!(copied.folder(), it.path("copy/results/p"));
    std::fs::rename(it.path("p.toml"), it.path("renamed.toml")).unwrap();
    let renamed = Results::open(&it.path("results"), &graph(&it.path("renamed.toml")), false).unwrap();
    assert_eq!(renamed.folder(), it.path("results/p"));
}

#[test]
fn what_a_killed_run_wrote_is_statcells_own() {
    let it = Setting::new();
    let mut results = it.open();
    it.copy(&mut results, "one", &[("a.csv", "first"), ("b.csv", "first")]);
    drop(results); // Without saving.
    let kept = it.run(false, &[("a.csv", "second")]);
    assert_eq!(kept, []);
    assert_eq!(it.read("a.csv"), "second");
    assert!(!it.path("results/p/.statcell.journal").exists());
}

#[test]
fn two_runs_at_once_keep_both_lists() {
    let it = Setting::new();
    let (mut one, mut two) = (it.open(), it.open());
    let (first, _) = it.copy(&mut one, "one", &[("a.csv", "a")]);
    let (second, _) = it.copy(&mut two, "two", &[("b.csv", "b")]);
    two.save().unwrap();
    one.save().unwrap();
    let both = it.open();
    assert!(both.is_current("one", &first) && both.is_current("two", &second));
}

#[test]
fn nothing_is_left_behind_and_modes_are_the_umasks() {
    let it = Setting::new();
    it.run(false, &[("a.csv", "a")]);
    let damaged = it.store.put(b"damaged").unwrap();
    let mut results = it.open();
    let name = damaged.to_string();
    let blob = it.store.root().join("blobs").join(&name[..2]).join(&name[2..]);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "damagex").unwrap();
    let file = ResultFile { path: "one/b.csv".to_owned(), contents: Contents::Blob(damaged) };
    let error = results.publish(&it.store, "one", damaged, &[file]).unwrap_err();
    assert!(matches!(error, ResultsError::Store(StoreError::Damaged(found)) if found == damaged));
    results.save().unwrap();
    let plain = it.path("plain");
    std::fs::write(&plain, "").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let mut found = Vec::new();
    for folder in ["results/p", "results/p/one"] {
        for entry in std::fs::read_dir(it.path(folder)).unwrap() {
            let entry = entry.unwrap();
            found.push(entry.file_name().into_string().unwrap());
            assert!(entry.path().is_dir() || mode(&entry.path()) == mode(&plain), "{found:?}");
        }
    }
    found.sort();
    assert_eq!(found, [".statcell.json", "a.csv", "one"]);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let it = Setting::new();
    std::fs::write(it.path("file"), "").unwrap();
    for results in ["file", "file/below"] {
        let error = Results::open(&it.path(results), &graph(&it.path("p.toml")), false).err().unwrap();
        assert!(error.to_string().contains("file"), "{error}");
        assert!(error.advice().unwrap().contains("--results"), "{error}");
        assert_eq!(ExitCode::from(&error), ExitCode::BadPipeline);
    }
}

#[test]
fn a_tree_is_copied_to_where_nothing_is() {
    let it = Setting::new();
    let digest = it.store.put(b"a").unwrap();
    let entry = |name: &str| crate::store::TreeEntry { name: name.to_owned(), digest, size: 1 };
    let tree = Tree::new(vec![entry("a"), entry("b/c")]).unwrap();
    copy_tree(&it.store, &tree, &it.path("out/new")).unwrap();
    assert_eq!(std::fs::read_to_string(it.path("out/new/b/c")).unwrap(), "a");
    let error = copy_tree(&it.store, &tree, &it.path("out/new")).unwrap_err().to_string();
    assert!(error.contains("out/new/a") && error.contains("there already"), "{error}");
}
