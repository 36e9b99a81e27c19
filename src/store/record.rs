//! Small JSON files that can tell when they are torn.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};
use tempfile::NamedTempFile;

use super::{
    Digest,
    fs::{self, Mode},
};

// {"check":"<64 digits>","record":
// <the record>}
const HEAD: &[u8] = b"{\"check\":\"";
const MIDDLE: &[u8] = b"\",\"record\":\n";
const TAIL: &[u8] = b"}\n";

/// Stages a record in `folder`. The check is over the record's bytes as they are written, so that a later version of the program
/// with more fields still reads it.
pub(super) fn stage<T: Serialize>(folder: &Path, record: &T) -> fs::Result<NamedTempFile> {
    let body = serde_json::to_vec_pretty(record).expect("records are plain data");
    let check = Digest::of(&body).to_string();
    fs::stage(folder, &[HEAD, check.as_bytes(), MIDDLE, &body, TAIL].concat(), Mode::Writable)
}

/// Reads a record. `None`: there is none, or it was torn or changed, which is the same: what it says is not to be trusted.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> fs::Result<Option<T>> {
    Ok(fs::read(path)?.and_then(|bytes| parse(&bytes)))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (check, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(64)?;
    let body = rest.strip_prefix(MIDDLE)?.strip_suffix(TAIL)?;
    if Digest::of(body).to_string().as_bytes() != check {
        return None;
    }
    serde_json::from_slice(body).ok()
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
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(read::<Vec<f64>>(&path).unwrap(), None, "{length} bytes");
        }
        serde_json::from_slice::<serde_json::Value>(&whole).expect("other programs can read it too");
        let changed = String::from_utf8(whole).unwrap().replace("0.1", "0.2");
        std::fs::write(&path, changed).unwrap();
        assert_eq!(read::<Vec<f64>>(&path).unwrap(), None);
    }
}
