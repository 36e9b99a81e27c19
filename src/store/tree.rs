//! Trees: named blobs, in one canonical order.

use super::{Digest, StoreError};

/// One named blob of a [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Relative path with `/` between its parts, such as `images/cell-0001.ome.tif`.
    pub name: String,
    /// The blob.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
}

/// A list of named blobs, sorted by name, no name twice. Its encoding is canonical: equal trees have equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<TreeEntry>,
}

const HEADER: &str = "statcell-tree 1";

impl Tree {
    /// A tree of these entries.
    ///
    /// # Errors
    /// [`StoreError::Name`] when [`Tree::check_name`] refuses a name, or a name stands twice.
    pub fn new(mut entries: Vec<TreeEntry>) -> Result<Self, StoreError> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in &entries {
            Self::check_name(&entry.name)?;
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(StoreError::Name { name: pair[0].name.clone(), reason: "two files have this name" });
        }
        Ok(Self { entries })
    }

    /// Whether a file of a tree may have this name: a relative path that every system can hold.
    ///
    /// # Errors
    /// [`StoreError::Name`] when it is empty or absolute, or holds `.` or `..` as a part, a backslash or a control character.
    pub fn check_name(name: &str) -> Result<(), StoreError> {
        let reason = if name.is_empty() {
            "a name has at least one letter"
        } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "a name is a relative path, without `.`, `..` and empty parts"
        } else if name.contains('\\') {
            "it holds a backslash, which other systems take for a folder"
        } else if name.chars().any(char::is_control) {
            "it holds a control character, such as a line break or a tabulator"
        } else {
            return Ok(());
        };
        Err(StoreError::Name { name: name.to_owned(), reason })
    }

    /// The entries, sorted by name.
    #[must_use]
    pub fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    /// The entry of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&TreeEntry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        Some(&self.entries[at])
    }

    /// The sizes of all blobs together, in bytes.
    #[must_use]
    pub fn total_size(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).sum()
    }

    /// The canonical bytes: a header line, then `digest size name` a line.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use std::fmt::Write;
        let mut text = format!("{HEADER}\n");
        for entry in &self.entries {
            writeln!(text, "{} {} {}", entry.digest, entry.size, entry.name).expect("writing to a string");
        }
        text.into_bytes()
    }

    /// The digest of the canonical bytes: the name of the tree.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads what [`Tree::encode`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let malformed = |reason: &str| StoreError::Malformed { what: "tree", reason: reason.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(malformed("unknown header"));
        }
        let entries = lines.map(|line| {
            let mut parts = line.splitn(3, ' ');
            let digest = parts.next()?.parse().ok()?;
            let size = parts.next()?.parse().ok()?;
            Some(TreeEntry { name: parts.next()?.to_owned(), digest, size })
        });
        let entries = entries.collect::<Option<_>>().ok_or_else(|| malformed("a broken line"))?;
        let tree = Self::new(entries).map_err(|error| malformed(&error.to_string()))?;
        if tree.encode() == bytes { Ok(tree) } else { Err(malformed("not in canonical form")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> TreeEntry {
        TreeEntry { name: name.to_owned(), digest: Digest::of(name.as_bytes()), size: name.len() as u64 }
    }

    #[test]
    fn order_does_not_matter_and_bytes_round_trip() {
        let one = Tree::new(vec![entry("b c"), entry("a/x")]).unwrap();
        let two = Tree::new(vec![entry("a/x"), entry("b c")]).unwrap();
        assert_eq!(one.digest(), two.digest());
        assert_eq!(Tree::decode(&one.encode()).unwrap(), one);
        assert_eq!(one.get("b c").unwrap().size, 3);
    }

    #[test]
    fn bad_names_and_bytes_are_refused() {
        for name in ["", "/a", "a/../b", "a\nb", "a//b", "a\\b", "a/", "\u{7f}", "."] {
            let error = Tree::new(vec![entry(name)]).unwrap_err();
            assert!(matches!(&error, StoreError::Name { .. }) && error.advice().is_none(), "{name:?}: {error}");
        }
        assert!(Tree::new(vec![entry("a"), entry("a")]).is_err());
        assert!(Tree::decode(b"statcell-tree 1\nzz 1 a\n").is_err());
    }
}
