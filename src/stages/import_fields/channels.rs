//! Channels of a file under our names.

use std::collections::BTreeSet;

use super::params::{Channels, FileChannel};
use crate::image::{ImageError, Stack, io::Found};

fn wrong(reason: String) -> ImageError {
    ImageError::Shape(reason)
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Stains and dyes of the two channels that cells are found with: the beginnings of what people call them.
const KNOWN: [(&str, &[&str]); 2] = [
    ("dna", &["dna", "dapi", "hoechst", "draq", "nuclei", "nucleus", "nuclear", "sir-dna", "h2b"]),
    ("membrane", &["membrane", "memb", "cellmask", "wga", "caax"]),
];

/// Which of our channels a file's name of one speaks of.
fn role<'a>(name: &str, ours: &'a [String]) -> Option<&'a String> {
    let name = name.trim().to_lowercase();
    let exact = ours.iter().find(|our| our.to_lowercase() == name);
    exact.or_else(|| {
        let known = KNOWN.iter().find(|(_, words)| words.iter().any(|word| name.starts_with(word)));
        known.and_then(|(role, _)| ours.iter().find(|our| our.as_str() == *role))
    })
}

/// The image with its channels named as asked.
///
/// # Errors
/// [`ImageError::Shape`] when the names do not fit those of the file.
pub(super) fn named(found: Found, channels: Option<&Channels>) -> Result<Stack, ImageError> {
    let Found { stack, named, .. } = found;
    match channels {
        None => {
            let distinct: BTreeSet<&String> = stack.channels.iter().collect();
            if distinct.len() < stack.channels.len() {
                let names = listed(&stack.channels);
                return Err(wrong(format!("several of its channels have one name ({names}); name them by `channels`")));
            }
            Ok(stack)
        }
        Some(Channels::List(names)) => by_order(stack, names, named),
        Some(Channels::Table(table)) => {
            let mut order = Vec::new();
            let mut names = Vec::new();
            for (ours, theirs) in table {
                let at = find(&stack, theirs)?;
                if order.contains(&at) {
                    return Err(wrong(format!("`channels` names `{}` twice", stack.channels[at])));
                }
                order.push(at);
                names.push(ours.clone());
            }
            for (at, name) in
                stack.channels.iter().enumerate().filter(|(at, _)| !order.contains(at)).collect::<Vec<_>>()
            {
                if names.contains(name) {
                    let message = format!(
                        "`channels` calls another channel `{name}`, and the file has one of this name too; say which it is in \
                         `channels`"
                    );
                    return Err(wrong(message));
                }
                order.push(at);
                names.push(name.clone());
            }
            Ok(stack.select(&order, names))
        }
    }
}

fn by_order(mut stack: Stack, names: &[String], file_names: bool) -> Result<Stack, ImageError> {
    let depth = stack.size[0];
    if names.len() != stack.channels.len() {
        return Err(wrong(format!(
            "it holds {} of {depth} planes each, and `channels` names {}; where the file is wrong, give `axes`",
            if stack.channels.len() == 1 {
                "one channel".to_owned()
            } else {
                format!("{} channels", stack.channels.len())
            },
            names.len()
        )));
    }
    if file_names {
        let roles: Vec<Option<&String>> = stack.channels.iter().map(|name| role(name, names)).collect();
        for (at, name) in stack.channels.iter().enumerate() {
            // The file says that this channel is another one of ours, and does not say so of the one that we call by its name.
            let Some(other) = roles[at].filter(|role| **role != names[at]) else { continue };
            let theirs = names.iter().position(|name| name == other).expect("a role is one of the names");
            if roles[theirs] != Some(other) {
                return Err(wrong(format!(
                    "`channels` calls channel {at} `{}`, and the file calls it `{name}` (its channels are {}); name them by a table, \
                     `channels = {{ {other} = \"{name}\" }}`, or by position where the file is wrong, `{{ {} = {at} }}`",
                    names[at],
                    listed(&stack.channels),
                    names[at],
                )));
            }
        }
    }
    stack.channels = names.to_vec();
    Ok(stack)
}

fn find(stack: &Stack, theirs: &FileChannel) -> Result<usize, ImageError> {
    let names = || format!("its channels are {}", listed(&stack.channels));
    match theirs {
        FileChannel::At(at) if *at < stack.channels.len() => Ok(*at),
        FileChannel::At(at) => Err(wrong(format!("it has no channel {at} (the first one is 0); {}", names()))),
        FileChannel::Name(name) => {
            let among = |same: &dyn Fn(&str) -> bool| {
                let found: Vec<usize> = (0..stack.channels.len()).filter(|&at| same(&stack.channels[at])).collect();
                found
            };
            let exact = among(&|other| other == name);
            let found =
                if exact.is_empty() { among(&|other| other.trim().eq_ignore_ascii_case(name.trim())) } else { exact };
            match found[..] {
                [at] => Ok(at),
                [] => Err(wrong(format!("it has no channel `{name}`; {}", names()))),
                _ => Err(wrong(format!("several of its channels are called `{name}`; give a position; {}", names()))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Pixels, io::Voxel};

    fn found(names: &[&str], named: bool) -> Found {
        let channels: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let pixels = Pixels::U8((0..channels.len() as u8).flat_map(|channel| [channel; 4]).collect());
        let stack = Stack { channels, size: [1, 2, 2], voxel_um: None, pixels };
        Found { stack, voxel: Voxel::default(), named, scene: None, time: None }
    }

    fn list(names: &[&str]) -> Channels {
        Channels::List(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn tables_map_names_and_positions() {
        let table = |pairs: &[(&str, FileChannel)]| {
            Channels::Table(pairs.iter().map(|(ours, theirs)| ((*ours).to_owned(), theirs.clone())).collect())
        };
        let name = |name: &str| FileChannel::Name(name.to_owned());
        let asked = table(&[("membrane", name("cellmask")), ("dna", FileChannel::At(2))]);
        let stack = named(found(&["x", "CellMask", "DAPI"], true), Some(&asked)).unwrap();
        assert_eq!(stack.channels, ["dna", "membrane", "x"]);
        assert_eq!(stack.pixels, Pixels::U8([[2; 4], [1; 4], [0; 4]].concat()));
        let wrong = |asked: &Channels| named(found(&["a", "b", "b"], true), Some(asked)).unwrap_err().to_string();
        assert!(wrong(&table(&[("dna", name("c"))])).contains("its channels are `a`, `b`, `b`"));
        assert!(wrong(&table(&[("dna", name("b"))])).contains("several"));
        assert!(wrong(&table(&[("dna", FileChannel::At(3))])).contains("no channel 3"));
        assert!(wrong(&table(&[("dna", FileChannel::At(1)), ("x", FileChannel::At(1))])).contains("twice"));
        assert!(wrong(&table(&[("a", FileChannel::At(1))])).contains("calls another channel `a`"));
        assert!(named(found(&["a", "a"], true), None).unwrap_err().to_string().contains("one name"));
    }

    #[test]
    fn a_list_that_contradicts_the_files_names_is_an_error() {
        let asked = list(&["membrane", "dna"]);
        for names in [["dna", "membrane"], ["DAPI", "CellMask"], ["Hoechst 33342", "mystery"], ["x", "Membrane"]] {
            let error = named(found(&names, true), Some(&asked)).unwrap_err().to_string();
            assert!(error.contains("channels = {"), "{names:?}: {error}");
        }
        for names in [["membrane", "dna"], ["CellMask DR", "DAPI"], ["c0", "c1"], ["405", "640"]] {
            assert!(named(found(&names, true), Some(&asked)).is_ok(), "{names:?}");
        }
        // A histone may be the structure, when there is a dye of DNA besides.
        let three = list(&["membrane", "dna", "structure"]);
        assert!(named(found(&["CellMask", "DAPI", "H2B-GFP"], true), Some(&three)).is_ok());
        let count = named(found(&["a"], true), Some(&asked)).unwrap_err().to_string();
        assert!(count.contains("one channel of 1 planes") && count.contains("`axes`"), "{count}");
    }
}
