//! The one door for images: every form that is read, behind [`read`] and [`read_all`]; OME-TIFF written by [`write()`].
//!
//! A form is a file (or folder) of this module: a test of the first bytes and a function that gives [`Found`], both listed in
//! `READERS`. What a file leaves open, or says wrongly, is [`Asked`] by those who know; `kind` names files of other forms.
//! What programs write about planes is read by `ome`, `imagej` and `shaped`, whatever form it stands in.

mod asked;
mod imagej;
mod kind;
mod layout;
mod ome;
mod shaped;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tiff;
mod unit;
mod zarr;

use super::{ImageError, Stack, Unclear};

pub use asked::{Asked, Found};
pub use layout::{PageOrder, Pick, Voxel};
pub use tiff::write;

/// How a form of image is known and read.
struct Reader {
    knows: fn(&[u8]) -> bool,
    read: fn(&[u8], &Asked) -> Result<Vec<Found>, ImageError>,
}

const READERS: [Reader; 2] =
    [Reader { knows: tiff::is_tiff, read: tiff::read }, Reader { knows: zarr::is_zarr, read: zarr::read }];

/// Every image that is asked for in the bytes of a file: one, unless [`Pick::Each`] is.
///
/// # Errors
/// [`ImageError::Damaged`], [`ImageError::Unsupported`] or [`ImageError::Foreign`] with the reason; [`ImageError::Unclear`] with what is
/// to be asked for.
pub fn read_all(bytes: &[u8], asked: &Asked) -> Result<Vec<Found>, ImageError> {
    match READERS.iter().find(|reader| (reader.knows)(bytes)) {
        Some(reader) => (reader.read)(bytes, asked),
        None => Err(kind::refusal(bytes)),
    }
}

/// [`read_all`] of a file that holds one image, or of which one is asked for.
///
/// # Errors
/// As there.
pub fn read_one(bytes: &[u8], asked: &Asked) -> Result<Found, ImageError> {
    let mut found = read_all(bytes, asked)?;
    match found.len() {
        1 => Ok(found.remove(0)),
        count => Err(ImageError::Unclear(Unclear::Scenes, format!("{count} images in one file"))),
    }
}

/// The image of a file that says everything of itself.
///
/// # Errors
/// As [`read_all`].
pub fn read(bytes: &[u8]) -> Result<Stack, ImageError> {
    read_one(bytes, &Asked::default()).map(|found| found.stack)
}
