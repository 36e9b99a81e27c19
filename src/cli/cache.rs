//! `statcell cache`: looks after the store.

use std::{io::Write, time::Duration};

use clap::{Args, Subcommand};

use super::{Failure, args::StoreArgs};
use crate::{
    console::words,
    exec::ExitCode,
    store::{Amount, GcOptions, KeptPipeline, Store},
};

/// Look after the store: what it holds, whether it is sound, what can go
#[derive(Args, Debug)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand, Debug)]
enum CacheCommand {
    /// What the store holds
    Stats {
        #[command(flatten)]
        store: StoreArgs,

        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Read every blob and check it against its name; what is damaged is set aside and computed anew by the next run
    Verify {
        #[command(flatten)]
        store: StoreArgs,

        /// Read only a random part, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
        sample: f64,
    },
    /// Remove what no pipeline needs any more: everything but the latest results of every pipeline that ran here
    Gc {
        #[command(flatten)]
        store: StoreArgs,

        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,

        /// Beyond what is needed, keep older results up to this size of the whole store: `20GiB`, `500MiB`
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_size: Option<u64>,

        /// Forget pipelines whose file is gone; their results can then go
        #[arg(long)]
        forget_missing: bool,

        /// Forget runs with `--set` or `--profile`; their results can then go
        #[arg(long)]
        forget_variants: bool,

        /// What is younger stays, in minutes
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        grace: u64,
    },
}

fn parse_size(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return Err(format!("unknown unit `{unit}`; use KiB, MiB, GiB or TiB")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no size such as `20GiB`"))?;
    Ok((number * 1024f64.powi(factor)) as u64)
}

fn amount(amount: Amount, noun: &str) -> String {
    format!("{}, {}", words::count(amount.files as usize, noun), words::size(amount.bytes))
}

/// Does what the arguments ask; reports go to `out`.
pub(super) fn cache(args: &CacheArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let text = match &args.command {
        CacheCommand::Stats { store, json } => stats(store, *json)?,
        CacheCommand::Verify { store, sample } => return verify(store, *sample, out),
        CacheCommand::Gc { store, dry_run, max_size, forget_missing, forget_variants, grace } => {
            let options = GcOptions {
                dry_run: *dry_run,
                max_size: *max_size,
                grace: Duration::from_secs(60 * grace),
                forget_missing: *forget_missing,
                forget_variants: *forget_variants,
            };
            gc(store, &options)?
        }
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)
}

fn stats(args: &StoreArgs, json: bool) -> Result<String, Failure> {
    let stats = Store::open_existing(&args.store)?.stats()?;
    if json {
        return Ok(serde_json::to_string_pretty(&stats).expect("plain data") + "\n");
    }
    let mut text = format!("total        {}\n", amount(stats.total(), "file"));
    text += &format!("blobs        {}\n", amount(stats.blobs, "file"));
    text += &format!("items        {}\n", amount(stats.items, "result"));
    text += &format!("checkpoints  {}\n", amount(stats.checkpoints, "file"));
    if stats.quarantine.files > 0 {
        text += &format!("damaged      {}, kept aside\n", amount(stats.quarantine, "file"));
    }
    for (kind, number) in &stats.actions {
        text += &format!("actions      {number:5} {kind}\n");
    }
    for (name, file) in &stats.pipelines {
        text += &format!("pipeline     {name}  {file}\n");
    }
    Ok(text)
}

fn verify(args: &StoreArgs, percent: f64, out: &mut dyn Write) -> Result<(), Failure> {
    if !(percent > 0.0 && percent <= 100.0) {
        let message = format!("`--sample {percent}`: a part in percent is above 0 and at most 100");
        return Err(Failure::new(ExitCode::BadPipeline, message, None));
    }
    let found = Store::open_existing(&args.store)?.verify(percent / 100.0)?;
    let mut text = format!("checked {}\n", amount(found.checked, "blob"));
    for digest in &found.damaged {
        text += &format!("damaged blob {digest}: set aside\n");
    }
    for (kind, key) in &found.dropped {
        text += &format!("result of `{kind}` {} is incomplete: the next run computes it anew\n", key.short());
    }
    if found.dropped_items > 0 {
        let number = words::count(found.dropped_items as usize, "item result");
        text += &format!("{number} incomplete: the next run computes what it needs anew\n");
    }
    if found.damaged_checkpoints > 0 {
        let number = words::count(found.damaged_checkpoints as usize, "damaged checkpoint");
        text += &format!("{number}: set aside; training continues from an earlier one\n");
    }
    if found.format_rebuilt {
        text += "`format` was damaged: made anew\n";
    }
    for name in &found.records {
        text += &format!("record `{name}` was damaged: removed, nothing is lost but time\n");
    }
    for (path, reason) in &found.roots {
        text += &format!("what a pipeline needs: `{}` {reason}\n", path.display());
    }
    text += if found.is_clean() {
        "the store is sound\n"
    } else if found.roots.is_empty() {
        "the store is sound again; `statcell run` recomputes\n"
    } else {
        "`cache gc` removes nothing until those pipelines have run again as a whole, or their records are removed\n"
    };
    out.write_all(text.as_bytes()).map_err(Failure::output)?;
    if found.is_clean() { Ok(()) } else { Err(Failure::told(ExitCode::Store.number())) }
}

fn gc(args: &StoreArgs, options: &GcOptions) -> Result<String, Failure> {
    let report = Store::open_existing(&args.store)?.gc(options)?;
    let mut text = String::new();
    for pipeline in &report.pipelines {
        let gone = if pipeline.file_exists { "" } else { " (its file is gone: --forget-missing lets go of it)" };
        let number = words::count(pipeline.instances, "result");
        text += &format!("kept     {number} of {}{gone}\n", named(pipeline));
    }
    for pipeline in &report.forgotten {
        text += &format!("forgot   {}\n", named(pipeline));
    }
    let verb = if report.dry_run { "would go" } else { "removed" };
    for action in &report.actions {
        text += &format!("{verb}  result of `{}` {}, {}\n", action.kind, action.key.short(), words::size(action.bytes));
    }
    for (what, found) in [
        ("blobs", report.blobs),
        ("item results", report.items),
        ("checkpoints", report.checkpoints),
        ("leftovers", report.leftovers),
    ] {
        if found.files > 0 {
            text += &format!("{verb}  {what}: {}\n", amount(found, "file"));
        }
    }
    text +=
        &format!("{verb} {} in all; {} stay\n", words::size(report.removed().bytes), words::size(report.kept.bytes));
    Ok(text)
}

/// A pipeline, its file and its changes from the command line.
fn named(pipeline: &KeptPipeline) -> String {
    let KeptPipeline { pipeline, project, variant, .. } = pipeline;
    let variant = if variant.is_empty() { String::new() } else { format!(" ({variant})") };
    format!("`{pipeline}`{variant}, {project}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("20GiB"), Ok(20 << 30));
        assert_eq!(parse_size("1.5 mb"), Ok(3 << 19));
        assert_eq!(parse_size("7"), Ok(7));
        assert!(parse_size("many").is_err() && parse_size("3 bananas").is_err());
    }
}
