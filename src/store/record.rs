//! Small JSON files that can tell when they are torn.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use super::{
    Digest,
    fs::{self, Mode},
};

/// A record and the digest of its compact JSON.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    check: Digest,
    record: T,
}

fn check<T: Serialize>(record: &T) -> Digest {
    Digest::of(&serde_json::to_vec(record).expect("records are plain data"))
}

/// Stages a record in `folder`.
pub(super) fn stage<T: Serialize>(folder: &Path, record: &T) -> fs::Result<NamedTempFile> {
    let sealed = Sealed { check: check(record), record };
    let mut bytes = serde_json::to_vec_pretty(&sealed).expect("records are plain data");
    bytes.push(b'\n');
    fs::stage(folder, &bytes, Mode::Writable)
}

/// Reads a record. `None`: there is none, or it was torn or changed, which is the same: what it says is not to be trusted.
pub(super) fn read<T: Serialize + DeserializeOwned>(path: &Path) -> fs::Result<Option<T>> {
    let Some(bytes) = fs::read(path)? else { return Ok(None) };
    let sealed: Option<Sealed<T>> = serde_json::from_slice(&bytes).ok();
    Ok(sealed.filter(|sealed| check(&sealed.record) == sealed.check).map(|sealed| sealed.record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_changed_record_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert_eq!(read::<Vec<f64>>(&path).unwrap(), None);
        fs::publish(stage(folder.path(), &vec![0.1, 2.0]).unwrap(), &path).unwrap();
        assert_eq!(read::<Vec<f64>>(&path).unwrap(), Some(vec![0.1, 2.0]));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() - 2 {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read::<Vec<f64>>(&path).unwrap(), None, "{length} bytes");
        }
        let changed = String::from_utf8(whole).unwrap().replace("0.1", "0.2");
        std::fs::write(&path, changed).unwrap();
        assert_eq!(read::<Vec<f64>>(&path).unwrap(), None);
    }
}
