//! Which file belongs to which field: by name, never by place in a sorted list.
//!
//! A mask belongs to the field whose name it holds as a whole word: Cellpose's `s1_cp_masks.tif`, StarDist's `s1.stardist.tif`, the
//! Segmenter's `s1_struct_segmentation.tiff`, `mask-s1.tif` all belong to `s1.tif` and not to `s10.tif`; of several names the longest
//! one counts (`s1_b` before `s1`). Where no mask holds a name, what differs among the names decides: `img_001_ch1` and `mask_001`.
//! Everything else is an error.

use std::collections::BTreeMap;

/// Suffixes of image files, the longest first.
const SUFFIXES: [&str; 10] =
    [".ome.tiff", ".ome.tif", ".ome.zarr.zip", ".ome.zarr", ".zarr.zip", ".zarr", ".tiff", ".tif", ".stk", ".ozx"];

/// The name without the suffix of an image.
pub(super) fn stem(name: &str) -> &str {
    let lower = name.to_lowercase();
    let suffix = SUFFIXES.into_iter().find(|suffix| lower.ends_with(suffix) && lower.len() > suffix.len());
    &name[..name.len() - suffix.map_or(0, str::len)]
}

/// Whether `stem` stands in `name` with no letter or digit beside it.
fn holds(name: &str, stem: &str) -> bool {
    let bounded = |at: usize| {
        let before = name[..at].chars().next_back();
        let behind = name[at + stem.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !behind.is_some_and(char::is_alphanumeric)
    };
    !stem.is_empty() && name.match_indices(stem).any(|(at, _)| bounded(at))
}

/// What is left of each name when what all have in common at both ends is taken off.
fn differing(names: &[&str]) -> Vec<String> {
    let chars: Vec<Vec<char>> = names.iter().map(|name| name.chars().collect()).collect();
    let Some(first) = chars.first() else { return Vec::new() };
    let common = |at: &dyn Fn(&[char], usize) -> Option<char>, most: usize| {
        (0..most).take_while(|&i| chars.iter().all(|name| at(name, i).is_some() && at(name, i) == at(first, i))).count()
    };
    let start = common(&|name, i| name.get(i).copied(), first.len());
    let shortest = chars.iter().map(Vec::len).min().unwrap_or(0);
    let end = common(&|name, i| name.len().checked_sub(i + 1).map(|at| name[at]), shortest - start);
    chars.iter().map(|name| name[start..name.len() - end].iter().collect()).collect()
}

/// A short list for a message.
fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.len() {
        0..=6 => names.join(", "),
        count => format!("{} and {} more", names[..6].join(", "), count - 6),
    }
}

/// For each field the position of its file among `others`; all are names of files. `what`: what the others are, plural.
///
/// # Errors
/// What does not fit, in words.
pub(super) fn pair(fields: &[&str], others: &[&str], what: &str) -> Result<Vec<usize>, String> {
    // One of each: there is nothing to mistake.
    if let ([_], [_]) = (fields, others) {
        return Ok(vec![0]);
    }
    let stems: Vec<&str> = fields.iter().map(|name| stem(name)).collect();
    let mut same = BTreeMap::<&str, usize>::new();
    stems.iter().for_each(|stem| *same.entry(stem).or_default() += 1);
    if let Some((name, _)) = same.iter().find(|(_, count)| **count > 1) {
        return Err(format!(
            "several fields are called `{name}`, so that {what} cannot be matched by name; rename them"
        ));
    }
    let mut of_field: Vec<Vec<usize>> = vec![Vec::new(); fields.len()];
    let mut strays = Vec::new();
    for (other, name) in others.iter().enumerate() {
        let candidates: Vec<usize> = (0..stems.len()).filter(|&field| holds(stem(name), stems[field])).collect();
        let longest = candidates.iter().map(|&field| stems[field].len()).max();
        let best: Vec<usize> = candidates.into_iter().filter(|&field| Some(stems[field].len()) == longest).collect();
        match best[..] {
            [field] => of_field[field].push(other),
            _ => strays.push(other),
        }
    }
    let whole = strays.is_empty() && of_field.iter().all(|others| others.len() == 1);
    if whole {
        return Ok(of_field.into_iter().map(|others| others[0]).collect());
    }
    // No name stands in another: then what differs among the names must be the same on both sides.
    if strays.len() == others.len()
        && let Some(pairs) = by_difference(&stems, others)
    {
        return Ok(pairs);
    }
    let mut complaints = Vec::new();
    let without: Vec<usize> = (0..fields.len()).filter(|&field| of_field[field].is_empty()).collect();
    if !without.is_empty() {
        complaints
            .push(format!("none of the {what} has the name of {}", listed(without.iter().map(|&field| fields[field]))));
    }
    if let Some(field) = (0..fields.len()).find(|&field| of_field[field].len() > 1) {
        let several = listed(of_field[field].iter().map(|&other| others[other]));
        complaints.push(format!("several {what} have the name of `{}`: {several}", fields[field]));
    }
    if !strays.is_empty() {
        complaints.push(format!("no field has the name of {}", listed(strays.iter().map(|&other| others[other]))));
    }
    Err(complaints.join("; "))
}

fn by_difference(stems: &[&str], others: &[&str]) -> Option<Vec<usize>> {
    if stems.len() != others.len() {
        return None;
    }
    let theirs: Vec<&str> = others.iter().map(|name| stem(name)).collect();
    let keys: BTreeMap<String, usize> = differing(&theirs).into_iter().enumerate().map(|(at, key)| (key, at)).collect();
    if keys.len() != others.len() {
        return None;
    }
    differing(stems).iter().map(|key| keys.get(key).copied()).collect()
}

/// Files of several groups (one per channel) that belong together: for each field, in the order of the first group, the position in
/// every group.
///
/// # Errors
/// What does not fit, in words.
pub(super) fn groups(groups: &[(&str, Vec<&str>)]) -> Result<Vec<Vec<usize>>, String> {
    let Some(((first_name, first), rest)) = groups.split_first() else { return Ok(Vec::new()) };
    let mut rows: Vec<Vec<usize>> = (0..first.len()).map(|at| vec![at]).collect();
    for (name, files) in rest {
        if files.len() != first.len() {
            let counts: Vec<String> =
                groups.iter().map(|(name, files)| format!("{} of `{name}`", files.len())).collect();
            return Err(format!("each field needs one file per channel, and there are {}", counts.join(", ")));
        }
        let stems: Vec<&str> = first.iter().map(|name| stem(name)).collect();
        let pairs = if first.len() == 1 { Some(vec![0]) } else { by_difference(&stems, files) };
        let Some(pairs) = pairs else {
            let (ours, theirs) = (listed(first.iter().copied()), listed(files.iter().copied()));
            return Err(format!(
                "the files of `{first_name}` and `{name}` cannot be matched by the rest of their names: {ours} and {theirs}"
            ));
        };
        rows.iter_mut().zip(pairs).for_each(|(row, at)| row.push(at));
    }
    Ok(rows)
}

/// The name of a field whose channels lie in these files: what the names have in common, else that of the first.
pub(super) fn common_name(names: &[&str]) -> String {
    let stems: Vec<Vec<char>> = names.iter().map(|name| stem(name).chars().collect()).collect();
    let first = &stems[0];
    let same = |i: usize, from_end: bool| {
        let at = |name: &Vec<char>| {
            if from_end { name.len().checked_sub(i + 1).map(|at| name[at]) } else { name.get(i).copied() }
        };
        stems.iter().all(|name| at(name).is_some() && at(name) == at(first))
    };
    let shortest = stems.iter().map(Vec::len).min().unwrap_or(0);
    let start = (0..shortest).take_while(|&i| same(i, false)).count();
    let end = (0..shortest - start).take_while(|&i| same(i, true)).count();
    let edge = |c: char| !c.is_alphanumeric();
    let head: String = first[..start].iter().collect();
    // `s1_ch` of `s1_ch1` and `s1_ch2`: a word that goes on differently is no part of the name.
    let cut =
        first.get(start).is_some_and(|c| c.is_alphanumeric()) || stems.iter().any(|name| name.len() > start + end);
    let head = if cut && head.chars().next_back().is_some_and(char::is_alphanumeric) {
        head.rfind(edge).map_or("", |at| &head[..at])
    } else {
        &head
    };
    let tail: String = first[first.len() - end..].iter().collect();
    let tail = tail.find(edge).map_or(String::new(), |at| tail[at..].to_owned());
    let name = format!("{}{tail}", head.trim_end_matches(edge));
    let name = name.trim_matches(edge);
    if name.is_empty() { stem(names[0]).to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_go_by_name() {
        let fields = ["s1.tif", "s10.tif", "s2.ome.tif"];
        for masks in [
            // Cellpose, in its sorted order, which is not that of the images.
            ["s10_cp_masks.tif", "s1_cp_masks.tif", "s2_cp_masks.tif"],
            // StarDist's plugins, and people's scripts.
            ["s1.stardist.tif", "s10.stardist.tif", "s2.stardist.tif"],
            ["s1_labels.tif", "s10_labels.tif", "s2_labels.tif"],
            // The Allen Cell Segmenter.
            ["s1_struct_segmentation.tiff", "s10_struct_segmentation.tiff", "s2_struct_segmentation.tiff"],
            ["mask-s1.tif", "mask-s10.tif", "mask-s2.tif"],
            ["s1.tif", "s10.tif", "s2.tif"],
        ] {
            let mut sorted = masks;
            for _ in 0..3 {
                sorted.rotate_left(1);
                let pairs = pair(&fields, &sorted, "masks").unwrap_or_else(|error| panic!("{masks:?}: {error}"));
                let own: Vec<&str> = pairs.iter().map(|&at| sorted[at]).collect();
                for (field, mask) in fields.iter().zip(own) {
                    assert!(holds(stem(mask), stem(field)), "{field} {mask}");
                }
            }
        }
    }

    #[test]
    fn the_longest_name_counts_and_differences_help() {
        assert_eq!(pair(&["s1.tif", "s1_b.tif"], &["s1_b_cp_masks.tif", "s1_cp_masks.tif"], "masks").unwrap(), [1, 0]);
        assert_eq!(
            pair(&["img_001_ch1.tif", "img_002_ch1.tif"], &["mask_002.tif", "mask_001.tif"], "masks").unwrap(),
            [1, 0]
        );
        assert_eq!(pair(&["a.tif"], &["anything.tif"], "masks").unwrap(), [0]);
    }

    #[test]
    fn what_is_ambiguous_is_an_error() {
        let error = |fields: &[&str], masks: &[&str]| pair(fields, masks, "masks").unwrap_err();
        assert!(error(&["a.tif", "b.tif"], &["a_cp_masks.tif"]).contains("has the name of `b.tif`"));
        assert!(error(&["a.tif", "b.tif"], &["x.tif", "y.tif"]).contains("no field has the name of `x.tif`, `y.tif`"));
        let twice = error(&["a.tif", "b.tif"], &["a_cp_masks.tif", "a_labels.tif", "b_labels.tif"]);
        assert!(twice.contains("several masks have the name of `a.tif`: `a_cp_masks.tif`, `a_labels.tif`"), "{twice}");
        assert!(error(&["a.tif", "a.tiff"], &["a_x.tif", "a_y.tif"]).contains("several fields are called `a`"));
        // A name that two fields have a right to.
        assert!(!error(&["aa.tif", "bb.tif"], &["aa_bb.tif", "bb_x.tif"]).is_empty());
    }

    #[test]
    fn one_file_per_channel() {
        let rows = |a: &[&str], b: &[&str]| groups(&[("dna", a.to_vec()), ("membrane", b.to_vec())]);
        assert_eq!(
            rows(&["s1_ch1.tif", "s10_ch1.tif", "s2_ch1.tif"], &["s10_ch2.tif", "s1_ch2.tif", "s2_ch2.tif"]).unwrap(),
            [[0, 1], [1, 0], [2, 2]]
        );
        assert_eq!(rows(&["dapi.tif"], &["cellmask.tif"]).unwrap(), [[0, 0]]);
        assert!(
            rows(&["s1_ch1.tif", "s2_ch1.tif"], &["s1_ch2.tif"]).unwrap_err().contains("2 of `dna`, 1 of `membrane`")
        );
        assert!(
            rows(&["s1_ch1.tif", "s2_ch1.tif"], &["s1_ch2.tif", "s3_ch2.tif"])
                .unwrap_err()
                .contains("cannot be matched")
        );
        assert_eq!(common_name(&["s1_ch1.tif", "s1_ch2.tif"]), "s1");
        assert_eq!(common_name(&["C1-field.tif", "C2-field.tif"]), "field");
        assert_eq!(common_name(&["pos3_dna_a.tif", "pos3_membrane_a.tif"]), "pos3_a");
        assert_eq!(common_name(&["dapi.tif", "cellmask.tif"]), "dapi");
    }
}
