//! Results of single items: a cell's features, a cell's aligned image.

use super::{Digest, Store, StoreError, Tree, backend::Put, base::by_digest};

/// The name of the object that holds an item's result.
pub(super) fn item(key: &Digest) -> String {
    by_digest("items", key)
}

impl Store {
    /// The files of an item's result. `None`: there is no result, it is torn, or a blob of it is not there.
    #[must_use]
    pub fn item(&self, key: &Digest) -> Option<Tree> {
        let name = item(key);
        let tree = self.item_tree(&name)?;
        let there = tree.entries().iter().all(|entry| self.has(&entry.digest, entry.size));
        if there {
            // Where it cannot be touched, it may be collected: then it is computed again.
            let _ = self.backend.touch(&name);
        }
        there.then_some(tree)
    }

    /// Keeps an item's result, whose blobs the store has.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_item(&self, key: &Digest, result: &Tree) -> Result<(), StoreError> {
        let encoded = result.encode();
        let mut bytes = format!("{}\n", Digest::of(&encoded)).into_bytes();
        bytes.extend_from_slice(&encoded);
        self.write(&item(key), &bytes, Put { replace: true, durable: false }).map(drop)
    }

    /// An item's result: the digest of the tree's bytes, then the tree. `None`: none, or torn.
    pub(super) fn item_tree(&self, name: &str) -> Option<Tree> {
        let bytes = self.read(name).ok()??;
        let (check, encoded) = bytes.split_at_checked(65)?;
        let right = check == format!("{}\n", Digest::of(encoded)).as_bytes();
        if right { Tree::decode(encoded).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Blobs, TreeEntry, base::blob};

    #[test]
    fn an_item_is_there_only_with_its_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let digest = store.put(b"volume").unwrap();
        let tree = Tree::new(vec![TreeEntry { name: "row".to_owned(), digest, size: 6 }]).unwrap();
        let key = Digest::of(b"item");
        assert_eq!(store.item(&key), None);
        store.put_item(&key, &tree).unwrap();
        assert_eq!(store.item(&key), Some(tree.clone()));
        let path = folder.path().join(item(&key));
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 30, 65, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.item(&key), None);
        }
        store.put_item(&key, &tree).unwrap();
        std::fs::remove_file(folder.path().join(blob(&digest))).unwrap();
        assert_eq!(store.item(&key), None);
    }
}
