//! Whatever the bytes: an image or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use statcell::image::ome_tiff;

fuzz_target!(|bytes: &[u8]| {
    let _ = ome_tiff::read(bytes);
});
