//! A folder in which a test calls the whole program.

#![allow(dead_code, reason = "every test uses its part")]

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// A folder with a pipeline in it, a store and results beside it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A new folder with this pipeline as `small.toml`.
    pub(crate) fn new(pipeline: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(place.path("small.toml"), pipeline).unwrap();
        place
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A call of the program, to be started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_statcell"));
        command
            .current_dir(self.folder.path())
            .args(arguments)
            .env_remove("STATCELL_STORE")
            .env_remove("STATCELL_INSTRUCTIONS")
            .stdin(Stdio::null());
        command
    }

    /// A call of the program that has ended.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs, which must succeed; the names of the instances that were executed.
    pub(crate) fn executed(&self, arguments: &[&str]) -> Vec<String> {
        let mut all = vec!["run", "small.toml", "--events", "events.jsonl"];
        all.extend(arguments);
        let output = self.call(&all);
        assert!(output.status.success(), "{}", text(&output));
        let events = fs::read_to_string(self.path("events.jsonl")).unwrap();
        let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let started = events.filter(|event| event["event"] == "started");
        started.map(|event| event["instance"].as_str().unwrap().to_owned()).collect()
    }

    /// The digest of every output of every instance, all of which must be cached.
    pub(crate) fn digests(&self) -> BTreeMap<String, serde_json::Value> {
        let output = self.call(&["plan", "small.toml", "--json"]);
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = plan["steps"].as_array().unwrap().iter();
        let digest = |step: &serde_json::Value| {
            assert_eq!(step["decision"]["decision"], "hit", "{step}");
            (step["instance"].as_str().unwrap().to_owned(), step["decision"]["outputs"].clone())
        };
        steps.map(digest).collect()
    }
}

/// What a call wrote, both outputs.
pub(crate) fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
