//! Whatever the bytes: an image or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use statcell::image::io;

fuzz_target!(|bytes: &[u8]| {
    let _ = io::read(bytes);
});
