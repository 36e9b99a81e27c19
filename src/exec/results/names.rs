//! What files and folders of results are called.

use std::collections::BTreeMap;

use crate::store::Digest;

/// A name that is a file name everywhere: `sweep[beta=0.5]` becomes `sweep-beta=0.5`.
pub(in super::super) fn safe_name(name: &str) -> String {
    let mut safe = String::new();
    for letter in name.chars().filter(|letter| *letter != ']').take(120) {
        safe.push(match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-' | '=' | '+' | ',' => letter,
            '[' => '-',
            _ => '_',
        });
    }
    if safe.is_empty() || safe.starts_with('.') {
        safe.insert(0, '_');
    }
    safe
}

/// A folder for each instance. Names that would meet, also where upper and lower case are the same, get a digest behind them.
pub(super) fn folder_names(instances: &[&str]) -> BTreeMap<String, String> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for name in instances {
        *count.entry(safe_name(name).to_lowercase()).or_default() += 1;
    }
    let folder = |name: &str| {
        let safe = safe_name(name);
        let meets = count[&safe.to_lowercase()] > 1;
        if meets { format!("{safe}-{}", &Digest::of(name.as_bytes()).short()[..8]) } else { safe }
    };
    instances.iter().map(|name| ((*name).to_owned(), folder(name))).collect()
}
