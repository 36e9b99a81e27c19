//! Small JSON files that can tell when they are torn.

use serde::{Serialize, de::DeserializeOwned};

use super::{Digest, StoreError};

// {"check":"<64 digits>","record":
// <the record>}
const HEAD: &[u8] = b"{\"check\":\"";
const MIDDLE: &[u8] = b"\",\"record\":\n";
const TAIL: &[u8] = b"}\n";

/// The bytes of a record. The check is over the record's bytes as they are written, so that a later version of the program with more
/// fields still reads it.
pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let body = serde_json::to_vec_pretty(record).expect("records are plain data");
    let check = Digest::of(&body).to_string();
    [HEAD, check.as_bytes(), MIDDLE, &body, TAIL].concat()
}

/// What is where a record belongs.
pub(super) enum Found<T> {
    /// Nothing.
    Nothing,
    /// A record.
    Whole(T),
    /// Something that was torn or changed, or is no file.
    Torn,
    /// A whole record that this version does not understand.
    Strange,
    /// The operating system does not let it be read.
    Unreadable(StoreError),
}

/// What the bytes of a record say.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Found<T> {
    let body = || {
        let (check, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(64)?;
        let body = rest.strip_prefix(MIDDLE)?.strip_suffix(TAIL)?;
        (Digest::of(body).to_string().as_bytes() == check).then_some(body)
    };
    let Some(body) = body() else { return Found::Torn };
    serde_json::from_slice(body).map_or(Found::Strange, Found::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Vec<f64>> {
        match parse(bytes) {
            Found::Whole(record) => Some(record),
            _ => None,
        }
    }

    #[test]
    fn a_torn_or_changed_record_is_none() {
        let whole = encode(&vec![0.1, 2.0]);
        assert_eq!(read(&whole), Some(vec![0.1, 2.0]));
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(read(&flipped), None, "bit {bit} of byte {at}");
            }
        }
        serde_json::from_slice::<serde_json::Value>(&whole).expect("other programs can read it too");
        assert!(matches!(parse::<Vec<String>>(&whole), Found::Strange));
    }
}
