//! Garbage collection: removes what no pipeline needs any more.
//!
//! **Kept**: the latest action of every instance of every pipeline that ran with this store, with its blobs, its item results and
//! its checkpoints; everything younger than a grace period, or than the oldest lease that is held, so that running processes lose
//! nothing; and with a size limit, as many other actions as fit, the last used first.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde::Serialize;

use super::{
    ActionEntry, Amount, Blobs, Digest, Project, RunFacts, Store, StoreError,
    actions::{self, ActionListed},
    backend::Meta,
    base::blob,
    disk::{QUARANTINE, TMP},
    items,
    record::Found,
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
    /// Forget runs with changes from the command line (`--set`, `--profile`).
    pub forget_variants: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            max_size: None,
            grace: Duration::from_secs(3600),
            forget_missing: false,
            forget_variants: false,
        }
    }
}

/// A pipeline whose results are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeptPipeline {
    /// Its name.
    pub pipeline: String,
    /// Its file.
    pub project: String,
    /// Changes from the command line.
    pub variant: String,
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
    /// A list of items is damaged: every item stays.
    all_items: bool,
}

impl Store {
    /// Removes what no pipeline needs any more. Safe beside running processes.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was removed before stays removed, and the store stays whole.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let mut report = GcReport { dry_run: options.dry_run, ..GcReport::default() };
        // Leases are looked at before the roots and entries: what a process publishes later is younger than its lease.
        let now = self.backend.now();
        let mut young = now.saturating_sub(options.grace);
        if let Some(since) = self.oldest_lease()? {
            young = young.min(since);
        }
        let mut live = Live::default();
        self.mark_roots(options, &mut live, &mut report)?;
        let (rest, blobs) = self.mark_young(young, &mut live)?;
        let removed = self.mark_what_fits(options, rest, &blobs, &mut live)?;

        // Entries go first: a reader that finds an entry finds its blobs, but for the moment in between.
        for ActionListed { kind, key, used, .. } in removed {
            let entry = self.recorded(&kind, &key)?;
            let bytes = entry.as_ref().map_or(0, |entry| entry.outputs.values().map(|output| output.bytes).sum());
            if !options.dry_run {
                if !self.backend.delete_unused(&actions::action(&kind, &key), young)? {
                    // Somebody has found it in the meantime and relies on it.
                    match entry.as_ref().map_or(Ok(()), |entry| self.mark_action(entry, &mut live)) {
                        Ok(()) => {}
                        Err(StoreError::NeedsUnknown { .. }) => live.all_items = true,
                        Err(error) => return Err(error),
                    }
                    continue;
                }
                self.backend.delete(&actions::facts(&kind, &key))?;
            }
            report.actions.push(RemovedAction { kind, key, used_unix_seconds: used.as_secs(), bytes });
        }
        self.sweep_items(options, young, &live, &mut report)?;
        self.sweep_blobs(options, young, &live, &blobs, &mut report)?;
        self.sweep_checkpoints(options, young, &live, &mut report)?;
        // A file on its way to a name is nobody's yet: without any grace, somebody would miss it a moment later.
        let on_its_way = young.min(now.saturating_sub(ON_ITS_WAY));
        report.leftovers = self.backend.sweep(QUARANTINE, young, options.dry_run)?
            + self.backend.sweep(TMP, on_its_way, options.dry_run)?;
        if !options.dry_run {
            self.clear_leases()?;
            self.prune_file_digests();
        }
        Ok(report)
    }

    fn mark_roots(&self, options: &GcOptions, live: &mut Live, report: &mut GcReport) -> Result<(), StoreError> {
        let mut forgotten = Vec::new();
        let mut kept: BTreeMap<Project, KeptPipeline> = BTreeMap::new();
        for (name, record) in self.all_roots()? {
            let record = record.map_err(|reason| StoreError::NeedsUnknown {
                path: self.backend.place(&name),
                reason,
                advice: "run the whole pipeline of that name again, which writes the record anew; if its results are not \
                         needed any more, remove the record",
            })?;
            let of = record.of();
            let file_exists = Path::new(&of.project).exists();
            let forget =
                (options.forget_missing && !file_exists) || (options.forget_variants && !of.variant.is_empty());
            let pipeline = kept.entry(of).or_insert_with_key(|of| KeptPipeline {
                pipeline: of.pipeline.clone(),
                project: of.project.clone(),
                variant: of.variant.clone(),
                file_exists,
                instances: 0,
            });
            pipeline.instances = pipeline.instances.max(record.instances.len());
            if forget {
                forgotten.push((name, record.of()));
                continue;
            }
            for root in record.instances.into_values() {
                live.checkpoints.extend(root.checkpoints);
                if let Some(key) = root.key {
                    self.mark_root(&root.kind, &key, live)?;
                }
            }
        }
        for (name, of) in forgotten {
            if !options.dry_run {
                self.backend.delete(&name)?;
            }
            report.forgotten.extend(kept.remove(&of));
        }
        report.pipelines.extend(kept.into_values());
        Ok(())
    }

    /// Marks what a pipeline needs. Where damage hides what that is, nothing may be removed.
    fn mark_root(&self, kind: &str, key: &Digest, live: &mut Live) -> Result<(), StoreError> {
        let name = actions::action(kind, key);
        match self.inspect::<ActionEntry>(&name) {
            Found::Whole(entry) => {
                for output in entry.outputs.values() {
                    match self.tree(&output.tree) {
                        Ok(_) => {}
                        Err(error @ StoreError::Io { .. }) => return Err(error),
                        Err(_) => return Err(self.unknown(&name, "names a list of files that is damaged or missing")),
                    }
                }
                self.mark_action(&entry, live)
            }
            Found::Nothing => {
                // Its item results are worth keeping: most of them will serve again.
                live.actions.insert((kind.to_owned(), *key));
                self.mark_items_of(kind, key, live)
            }
            Found::Torn => Err(self.unknown(&name, "is damaged")),
            Found::Strange => Err(self.unknown(&name, "was written by another version of statcell")),
            Found::Unreadable(error) => Err(error),
        }
    }

    fn unknown(&self, name: &str, reason: &str) -> StoreError {
        StoreError::NeedsUnknown {
            path: self.backend.place(name),
            reason: reason.to_owned(),
            advice: "run `statcell cache verify`, then the pipeline again, and then collect",
        }
    }

    /// An action stays: its trees, their blobs, its item results.
    fn mark_action(&self, entry: &ActionEntry, live: &mut Live) -> Result<(), StoreError> {
        if !live.actions.insert((entry.kind.clone(), entry.key)) {
            return Ok(());
        }
        live.checkpoints.extend(entry.checkpoints);
        live.blobs.extend(self.needs(entry)?);
        self.mark_items_of(&entry.kind, &entry.key, live)
    }

    fn mark_items_of(&self, kind: &str, key: &Digest, live: &mut Live) -> Result<(), StoreError> {
        let name = actions::facts(kind, key);
        let list = match self.inspect::<RunFacts>(&name) {
            Found::Whole(facts) => facts.items,
            Found::Nothing => None,
            Found::Torn | Found::Strange => return Err(self.unknown(&name, "is damaged")),
            Found::Unreadable(error) => return Err(error),
        };
        let Some(list) = list else { return Ok(()) };
        live.blobs.insert(list);
        match self.get(&list) {
            Ok(keys) => {
                for key in keys.chunks_exact(32) {
                    self.mark_item(Digest::from_bytes(key.try_into().expect("32 bytes")), live);
                }
            }
            Err(error @ StoreError::Io { .. }) => return Err(error),
            // Which items are needed is not known: all of them stay.
            Err(_) => live.all_items = true,
        }
        Ok(())
    }

    fn mark_item(&self, key: Digest, live: &mut Live) {
        if live.items.insert(key)
            && let Some(tree) = self.item_tree(&items::item(&key))
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

    /// Marks young actions and items. Gives the other actions, and what is known of all blobs.
    fn mark_young(
        &self,
        young: Duration,
        live: &mut Live,
    ) -> Result<(Vec<ActionListed>, BTreeMap<Digest, Meta>), StoreError> {
        let blobs = self.list_by_digest("blobs")?.into_iter().map(|(digest, object)| (digest, object.meta)).collect();
        let mut rest = Vec::new();
        for listed in self.list_actions()? {
            match self.recorded(&listed.kind, &listed.key)? {
                Some(entry) if listed.used >= young => self.mark_action(&entry, live)?,
                _ if live.actions.contains(&(listed.kind.clone(), listed.key)) => {}
                _ => rest.push(listed),
            }
        }
        for (key, object) in self.list_by_digest("items")? {
            if live.all_items || object.meta.used >= young {
                self.mark_item(key, live);
            }
        }
        Ok((rest, blobs))
    }

    /// Of the actions that nothing needs, marks those that fit under the size limit; gives the others.
    fn mark_what_fits(
        &self,
        options: &GcOptions,
        mut rest: Vec<ActionListed>,
        blobs: &BTreeMap<Digest, Meta>,
        live: &mut Live,
    ) -> Result<Vec<ActionListed>, StoreError> {
        // What was used last comes first.
        rest.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| (&a.kind, a.key).cmp(&(&b.kind, b.key))));
        let Some(limit) = options.max_size else { return Ok(rest) };
        let size_of = |digest: &Digest| blobs.get(digest).map_or(0, |meta| meta.size);
        let mut total: u64 = live.blobs.iter().map(size_of).sum();
        total += self.backend.amount("checkpoints")?.bytes;
        let mut removed = Vec::new();
        let mut full = false;
        for listed in rest {
            let entry = if full { None } else { self.recorded(&listed.kind, &listed.key)? };
            let Some(entry) = entry else {
                removed.push(listed);
                continue;
            };
            let more: u64 = self.needs(&entry)?.iter().filter(|blob| !live.blobs.contains(blob)).map(size_of).sum();
            if total + more <= limit {
                total += more;
                self.mark_action(&entry, live)?;
            } else {
                full = true;
                removed.push(listed);
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
        for (key, object) in self.list_by_digest("items")? {
            let stays = live.all_items || live.items.contains(&key) || object.meta.used >= young;
            if stays || (!options.dry_run && !self.backend.delete_unused(&object.name, young)?) {
                report.kept.add(object.meta.size);
            } else {
                report.items.add(object.meta.size);
            }
        }
        Ok(())
    }

    fn sweep_blobs(
        &self,
        options: &GcOptions,
        young: Duration,
        live: &Live,
        blobs: &BTreeMap<Digest, Meta>,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for (digest, meta) in blobs {
            let stays = live.blobs.contains(digest) || meta.used >= young;
            if stays || (!options.dry_run && !self.backend.delete_unused(&blob(digest), young)?) {
                report.kept.add(meta.size);
            } else {
                report.blobs.add(meta.size);
            }
        }
        Ok(())
    }

    fn sweep_checkpoints(
        &self,
        options: &GcOptions,
        young: Duration,
        live: &Live,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for object in self.backend.list("checkpoints")? {
            let of = object.name.split('/').nth(1).and_then(|of| of.parse().ok());
            let stays = of.is_some_and(|of| live.checkpoints.contains(&of)) || object.meta.used >= young;
            if stays || (!options.dry_run && !self.backend.delete_unused(&object.name, young)?) {
                report.kept.add(object.meta.size);
            } else {
                report.checkpoints.add(object.meta.size);
            }
        }
        Ok(())
    }
}
