//! Garbage collection: removes what no pipeline needs any more.
//!
//! **Kept**: the latest action of every instance of every pipeline that ran with this store, with its blobs, its item results and
//! its checkpoints; everything younger than a grace period, or than the oldest lease that is held, so that running processes lose
//! nothing; and with a size limit, as many other actions as fit, the last used first.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    ActionEntry, Amount, Blobs, Digest, Store, StoreError,
    disk::{list_sharded, now},
    fs, items,
};

/// What to remove.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Only tell what would be removed.
    pub dry_run: bool,
    /// Beyond what is needed, keep results up to this size of the whole store in bytes, the last used first.
    pub max_size: Option<u64>,
    /// What is younger stays.
    pub grace: Duration,
    /// Forget pipelines whose file is gone: their results are then no longer needed.
    pub forget_missing: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { dry_run: false, max_size: None, grace: Duration::from_secs(3600), forget_missing: false }
    }
}

/// A pipeline whose results are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptPipeline {
    /// Its name.
    pub pipeline: String,
    /// Its file.
    pub project: String,
    /// Whether that file is there.
    pub file_exists: bool,
    /// Instances whose latest results are kept.
    pub instances: usize,
}

/// An action that is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedAction {
    /// Its stage kind.
    pub kind: String,
    /// Its key.
    pub key: Digest,
    /// When it was last used, in seconds since 1970.
    pub used_unix_seconds: u64,
    /// Bytes of its outputs, also those that other actions share.
    pub bytes: u64,
}

/// What was removed (or would be) and what stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Whether nothing was removed in fact.
    pub dry_run: bool,
    /// Actions that no pipeline needs.
    pub actions: Vec<RemovedAction>,
    /// Blobs that nothing needs.
    pub blobs: Amount,
    /// Item results that nothing needs.
    pub items: Amount,
    /// Checkpoints that nothing needs.
    pub checkpoints: Amount,
    /// What killed processes left, and damaged files.
    pub leftovers: Amount,
    /// What stays.
    pub kept: Amount,
    /// Pipelines whose results are kept.
    pub pipelines: Vec<KeptPipeline>,
    /// Pipelines that were forgotten because their file is gone.
    pub forgotten: Vec<KeptPipeline>,
}

impl GcReport {
    /// Everything that was removed, or would be.
    #[must_use]
    pub fn removed(&self) -> Amount {
        self.blobs + self.items + self.checkpoints + self.leftovers
    }
}

/// Temporary files that are younger may be somebody's.
const ON_ITS_WAY: Duration = Duration::from_secs(600);

/// What stays.
#[derive(Default)]
struct Live {
    actions: BTreeSet<(String, Digest)>,
    items: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
    checkpoints: BTreeSet<Digest>,
}

impl Store {
    /// Removes what no pipeline needs any more. Safe beside running processes.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was removed before stays removed, and the store stays whole.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        // Leases are looked at before the roots and entries: what a process publishes later is younger than its lease.
        let mut young = now().saturating_sub(options.grace);
        if let Some(since) = self.oldest_lease()? {
            young = young.min(since);
        }
        let mut live = Live::default();
        self.mark_roots(options, &mut live, &mut report)?;
        let (rest, sizes) = self.mark_young(young, &mut live)?;
        let removed = self.mark_what_fits(options, rest, &sizes, &mut live)?;

        // Entries go first: a reader that finds an entry finds its blobs, but for the moment in between.
        for (kind, key, used) in removed {
            let entry = self.action(&kind, &key)?;
            let bytes = entry.map_or(0, |entry| entry.outputs.values().map(|output| output.bytes).sum());
            if !options.dry_run {
                self.drop_action(&kind, &key)?;
            }
            report.actions.push(RemovedAction { kind, key, used_unix_seconds: used.as_secs(), bytes });
        }
        self.sweep_items(options, young, &live, &mut report)?;
        self.sweep_blobs(options, young, &live, &sizes, &mut report)?;
        self.sweep_checkpoints(options, young, &live, &mut report)?;
        sweep_leftovers(options, young, &self.root().join("quarantine"), &mut report)?;
        // A file on its way to a name is nobody's yet: without any grace, somebody would miss it a moment later.
        sweep_leftovers(options, young.min(now().saturating_sub(ON_ITS_WAY)), &self.tmp(), &mut report)?;
        if !options.dry_run {
            self.clear_leases()?;
            self.prune_file_digests()?;
        }
        Ok(report)
    }

    fn mark_roots(&self, options: &GcOptions, live: &mut Live, report: &mut GcReport) -> Result<(), StoreError> {
        for (path, roots) in self.all_roots()? {
            let Some(roots) = roots else { continue };
            let file_exists = Path::new(&roots.project).exists();
            let kept = KeptPipeline {
                pipeline: roots.pipeline,
                project: roots.project,
                file_exists,
                instances: roots.instances.len(),
            };
            if options.forget_missing && !file_exists {
                if !options.dry_run {
                    fs::remove_file(&path)?;
                }
                report.forgotten.push(kept);
                continue;
            }
            report.pipelines.push(kept);
            for root in roots.instances.into_values() {
                live.checkpoints.extend(root.checkpoints);
                if let Some(key) = root.key
                    && let Some(entry) = self.action(&root.kind, &key)?
                {
                    self.mark_action(&entry, live)?;
                }
            }
        }
        Ok(())
    }

    /// An action stays: its trees, their blobs, its item results.
    fn mark_action(&self, entry: &ActionEntry, live: &mut Live) -> Result<(), StoreError> {
        if !live.actions.insert((entry.kind.clone(), entry.key)) {
            return Ok(());
        }
        live.checkpoints.extend(entry.checkpoints);
        live.blobs.extend(self.needs(entry)?);
        if let Some(list) = self.facts(&entry.kind, &entry.key)?.and_then(|facts| facts.items) {
            live.blobs.insert(list);
            // A damaged list costs item results, nothing else.
            let keys = self.get(&list).unwrap_or_default();
            for key in keys.chunks_exact(32) {
                self.mark_item(Digest::from_bytes(key.try_into().expect("32 bytes")), live);
            }
        }
        Ok(())
    }

    fn mark_item(&self, key: Digest, live: &mut Live) {
        if live.items.insert(key)
            && let Some(tree) = items::read(&self.item_path(&key))
        {
            live.blobs.extend(tree.entries().iter().map(|file| file.digest));
        }
    }

    /// The trees and blobs of an entry; those that cannot be read need nothing.
    fn needs(&self, entry: &ActionEntry) -> Result<BTreeSet<Digest>, StoreError> {
        let mut needed = BTreeSet::new();
        for output in entry.outputs.values() {
            match self.tree(&output.tree) {
                Ok(tree) => {
                    needed.insert(output.tree);
                    needed.extend(tree.entries().iter().map(|file| file.digest));
                }
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(needed)
    }

    /// Marks young actions and items. Gives the other actions, and the sizes and ages of all blobs.
    #[expect(clippy::type_complexity, reason = "a private pair of lists")]
    fn mark_young(
        &self,
        young: Duration,
        live: &mut Live,
    ) -> Result<(Vec<(String, Digest, Duration)>, BTreeMap<Digest, (PathBuf, u64, Duration)>), StoreError> {
        let mut sizes = BTreeMap::new();
        for (digest, path) in list_sharded(&self.root().join("blobs"))? {
            if let Some(metadata) = fs::metadata(&path)? {
                sizes.insert(digest, (path, metadata.len(), fs::modified(&metadata)));
            }
        }
        let mut rest = Vec::new();
        for (kind, key, used) in self.list_actions()? {
            match self.action(&kind, &key)? {
                Some(entry) if used >= young => self.mark_action(&entry, live)?,
                _ if live.actions.contains(&(kind.clone(), key)) => {}
                _ => rest.push((kind, key, used)),
            }
        }
        for (key, path) in list_sharded(&self.root().join("items"))? {
            if fs::metadata(&path)?.is_some_and(|metadata| fs::modified(&metadata) >= young) {
                self.mark_item(key, live);
            }
        }
        Ok((rest, sizes))
    }

    /// Of the actions that nothing needs, marks those that fit under the size limit; gives the others.
    fn mark_what_fits(
        &self,
        options: &GcOptions,
        mut rest: Vec<(String, Digest, Duration)>,
        sizes: &BTreeMap<Digest, (PathBuf, u64, Duration)>,
        live: &mut Live,
    ) -> Result<Vec<(String, Digest, Duration)>, StoreError> {
        rest.sort_by(|a, b| b.2.cmp(&a.2).then_with(|| (&a.0, a.1).cmp(&(&b.0, b.1))));
        let Some(limit) = options.max_size else { return Ok(rest) };
        let size_of = |digest: &Digest| sizes.get(digest).map_or(0, |(_, bytes, _)| *bytes);
        let mut total: u64 = live.blobs.iter().map(size_of).sum();
        total += super::stats::amount(&self.root().join("checkpoints"))?.bytes;
        let mut removed = Vec::new();
        let mut full = false;
        for (kind, key, used) in rest {
            let entry = if full { None } else { self.action(&kind, &key)? };
            let Some(entry) = entry else {
                removed.push((kind, key, used));
                continue;
            };
            let more: u64 = self.needs(&entry)?.iter().filter(|blob| !live.blobs.contains(blob)).map(size_of).sum();
            if total + more <= limit {
                total += more;
                self.mark_action(&entry, live)?;
            } else {
                full = true;
                removed.push((kind, key, used));
            }
        }
        Ok(removed)
    }

    fn sweep_items(
        &self,
        options: &GcOptions,
        young: Duration,
        live: &Live,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for (key, path) in list_sharded(&self.root().join("items"))? {
            let Some(metadata) = fs::metadata(&path)? else { continue };
            if live.items.contains(&key) || fs::modified(&metadata) >= young {
                report.kept.add(metadata.len());
                continue;
            }
            if !options.dry_run {
                fs::remove_file(&path)?;
            }
            report.items.add(metadata.len());
        }
        Ok(())
    }

    fn sweep_blobs(
        &self,
        options: &GcOptions,
        young: Duration,
        live: &Live,
        sizes: &BTreeMap<Digest, (PathBuf, u64, Duration)>,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for (digest, (path, bytes, used)) in sizes {
            if live.blobs.contains(digest) || *used >= young {
                report.kept.add(*bytes);
                continue;
            }
            if !options.dry_run && !self.remove_blob(digest, path, young)? {
                report.kept.add(*bytes);
                continue;
            }
            report.blobs.add(*bytes);
        }
        Ok(())
    }

    /// Moves a blob away, and brings it back if it was used since it was looked at. `false`: it stays.
    fn remove_blob(&self, digest: &Digest, path: &Path, young: Duration) -> Result<bool, StoreError> {
        let aside = self.tmp().join(format!("gc-{digest}"));
        fs::create_folder(&self.tmp())?;
        if !fs::rename(path, &aside)? {
            return Ok(true);
        }
        let used = fs::metadata(&aside)?.map(|metadata| fs::modified(&metadata));
        if used.is_some_and(|used| used >= young) {
            fs::rename(&aside, path)?;
            return Ok(false);
        }
        fs::remove_file(&aside)?;
        Ok(true)
    }

    fn sweep_checkpoints(
        &self,
        options: &GcOptions,
        young: Duration,
        live: &Live,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let folder = self.root().join("checkpoints");
        for of in fs::list(&folder)? {
            let needed = of.parse().is_ok_and(|of| live.checkpoints.contains(&of));
            for name in fs::list(&folder.join(&of))? {
                let path = folder.join(&of).join(&name);
                let Some(metadata) = fs::metadata(&path)? else { continue };
                if needed || fs::modified(&metadata) >= young {
                    report.kept.add(metadata.len());
                    continue;
                }
                if !options.dry_run {
                    fs::remove_file(&path)?;
                }
                report.checkpoints.add(metadata.len());
            }
            if !options.dry_run {
                // Only an empty folder goes; one that just got a checkpoint stays.
                let _ = std::fs::remove_dir(folder.join(&of));
            }
        }
        Ok(())
    }
}

/// Removes old files and folders right under `folder`.
fn sweep_leftovers(
    options: &GcOptions,
    young: Duration,
    folder: &Path,
    report: &mut GcReport,
) -> Result<(), StoreError> {
    for name in fs::list(folder)? {
        let path = folder.join(name);
        let Some(metadata) = fs::metadata(&path)? else { continue };
        if fs::modified(&metadata) >= young {
            continue;
        }
        let amount =
            if metadata.is_dir() { super::stats::amount(&path)? } else { Amount { files: 1, bytes: metadata.len() } };
        if !options.dry_run {
            if metadata.is_dir() {
                fs::remove_folder(&path)?
            } else {
                fs::remove_file(&path)?
            };
        }
        report.leftovers = report.leftovers + amount;
    }
    Ok(())
}
