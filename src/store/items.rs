//! Results of single items: a cell's features, a cell's aligned image.

use super::{
    Digest, Store, StoreError, Tree,
    disk::sharded,
    fs::{self, Mode},
};

impl Store {
    pub(super) fn item_path(&self, key: &Digest) -> std::path::PathBuf {
        sharded(&self.root().join("items"), key)
    }

    /// The files of an item's result. `None`: there is no result, it is torn, or a blob of it is not there.
    #[must_use]
    pub fn item(&self, key: &Digest) -> Option<Tree> {
        let path = self.item_path(key);
        let tree = read(&path)?;
        let there = tree.entries().iter().all(|entry| self.has(&entry.digest, entry.size));
        if there {
            fs::touch_path(&path);
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
        fs::publish(fs::stage(&self.tmp(), &bytes, Mode::Writable)?, &self.item_path(key))
    }
}

/// An item's result: the digest of the tree's bytes, then the tree. `None`: none, or torn.
pub(super) fn read(path: &std::path::Path) -> Option<Tree> {
    let bytes = fs::read(path).ok()??;
    let (check, encoded) = bytes.split_at_checked(65)?;
    let right = check == format!("{}\n", Digest::of(encoded)).as_bytes();
    if right { Tree::decode(encoded).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Blobs, TreeEntry};

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
        let path = store.item_path(&key);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 30, 65, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.item(&key), None);
        }
        store.put_item(&key, &tree).unwrap();
        std::fs::remove_file(store.blob_path(&digest)).unwrap();
        assert_eq!(store.item(&key), None);
    }
}
