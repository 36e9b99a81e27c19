//! The files of a zip archive.

use std::{
    collections::BTreeSet,
    io::{Cursor, Read},
};

use serde_json::Value;
use zip::ZipArchive;

use super::super::super::ImageError;

fn damaged(reason: impl Into<String>) -> ImageError {
    ImageError::Damaged(reason.into())
}

/// The files of an archive.
pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    pub(super) names: BTreeSet<String>,
    room: usize,
}

/// Memory that an archive may always fill, and how much more for each of its bytes.
const ALWAYS: usize = 64 << 20;
const PER_BYTE: usize = 2048;

impl<'a> Archive<'a> {
    pub(super) fn open(bytes: &'a [u8]) -> Option<Self> {
        let zip = ZipArchive::new(Cursor::new(bytes)).ok()?;
        // A name that is no text belongs to no image.
        let names = zip.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
        Some(Self { zip, names, room: bytes.len().saturating_mul(PER_BYTE).saturating_add(ALWAYS) })
    }

    pub(super) fn check_room(&self, bytes: usize) -> Result<(), ImageError> {
        if bytes > self.room {
            return Err(damaged(format!("it says {bytes} bytes of pixels, more than it can hold")));
        }
        Ok(())
    }

    /// The bytes of a file; `None`: there is none.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        if !self.names.contains(name) {
            return Ok(None);
        }
        let broken =
            |error: &dyn std::fmt::Display| damaged(format!("`{name}` in the archive cannot be read: {error}"));
        let mut file = self.zip.by_name(name).map_err(|error| broken(&error))?;
        let mut bytes = Vec::new();
        let most = self.room as u64;
        (&mut file).take(most).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
        Ok(Some(bytes))
    }

    pub(super) fn json(&mut self, name: &str) -> Result<Option<Value>, ImageError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        // Python writes numbers that JSON does not have.
        let text = String::from_utf8_lossy(&bytes).replace(": NaN", ": \"NaN\"");
        serde_json::from_str(&text).map(Some).map_err(|error| damaged(format!("`{name}` is no JSON: {error}")))
    }
}
