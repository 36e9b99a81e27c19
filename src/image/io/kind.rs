//! What a file is, by its first bytes: forms that are not read here, and the way out of each.

use super::super::ImageError;

/// How a form is known.
enum Sign {
    /// Bytes at this place.
    At(usize, &'static [u8]),
    /// Anything else.
    Test(fn(&[u8]) -> bool),
}

/// Bio-Formats reads nearly all microscopes' files.
const CONVERT: &str = "convert it with Bio-Formats (`bfconvert FILE OUT.ome.tif`), by hand or in a `command` stage whose output \
                       `import-fields` takes, or save it as OME-TIFF in the program that wrote it";
const TO_TIFF: &str = "save it as TIFF; by hand or in a `command` stage whose output `import-fields` takes (in Python: \
                       `tifffile.imwrite(\"out.tif\", array)`)";

/// (sign, what the file is, what to do). The first that fits counts.
const FORMS: [(Sign, &str, &str); 41] = [
    (Sign::Test(<[u8]>::is_empty), "an empty file (it does not begin like any image)", "copy or download it again"),
    (
        Sign::At(0, b"version https://git-lfs.github.com/spec/"),
        "a Git LFS pointer, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    (
        Sign::At(0, b"/annex/objects/"),
        "a git-annex pointer, not the file itself",
        "fetch the file with `git annex get`",
    ),
    (Sign::Test(annex_pointer), "a git-annex pointer, not the file itself", "fetch the file with `git annex get`"),
    (Sign::Test(dvc_pointer), "a DVC pointer, not the file itself", "fetch the file with `dvc pull`"),
    (Sign::At(0, b"ZISRAWFILE"), "a Zeiss CZI file", CONVERT),
    (Sign::At(0, b"\xda\xce\xbe\x0a"), "a Nikon ND2 file", CONVERT),
    (Sign::Test(jpeg2000), "a JPEG 2000 file, or an old Nikon ND2 file", CONVERT),
    (Sign::Test(leica), "a Leica LIF or LOF file", CONVERT),
    (
        Sign::At(0, b"\x89HDF\r\n\x1a\n"),
        "an HDF5 file (Imaris, ilastik, BigDataViewer, …)",
        "export it as OME-TIFF or OME-Zarr, by hand or in a `command` stage whose output `import-fields` takes (Imaris files: \
         convert it with Bio-Formats, `bfconvert FILE OUT.ome.tif`; others in Python with h5py and tifffile)",
    ),
    (Sign::At(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an Olympus OIB, Zeiss ZVI or other OLE2 file", CONVERT),
    (Sign::At(0, b"SIS\0"), "an Olympus ETS file", CONVERT),
    (Sign::Test(oif), "an Olympus OIF file", CONVERT),
    (Sign::At(0, b"ics_version"), "an ICS file", CONVERT),
    (Sign::At(0, b"\tics_version"), "an ICS file", CONVERT),
    (Sign::At(0, b"NRRD"), "an NRRD file", CONVERT),
    (Sign::At(128, b"DICM"), "a DICOM file", CONVERT),
    (Sign::At(208, b"MAP "), "an MRC file", CONVERT),
    (Sign::At(0, b"SIMPLE  ="), "a FITS file", CONVERT),
    (Sign::At(344, b"n+1\0"), "a NIfTI file", CONVERT),
    (Sign::Test(digital_micrograph), "a Gatan DM3 or DM4 file", CONVERT),
    (Sign::At(0, b"\x93NUMPY"), "a NumPy file", TO_TIFF),
    (Sign::At(0, b"\x89PNG\r\n\x1a\n"), "a PNG picture", TO_TIFF),
    (
        Sign::At(0, b"\xff\xd8\xff"),
        "a JPEG picture, whose pixels are not those of the camera",
        "take the camera's own file",
    ),
    (Sign::At(0, b"GIF8"), "a GIF picture", TO_TIFF),
    (Sign::Test(bitmap), "a BMP picture", TO_TIFF),
    (Sign::Test(webp), "a WebP picture", TO_TIFF),
    (Sign::At(0, b"%PDF"), "a PDF", "take the microscope's own file"),
    (Sign::At(0, b"\x1f\x8b"), "a gzip archive", "unpack it: `gunzip FILE`, `tar xzf FILE`"),
    (Sign::At(0, b"7z\xbc\xaf"), "a 7z archive", "unpack it: `7z x FILE`"),
    (Sign::At(0, b"Rar!"), "a RAR archive", "unpack it"),
    (Sign::At(0, b"\xfd7zXZ\0"), "an xz archive", "unpack it: `unxz FILE`"),
    (Sign::At(0, b"BZh"), "a bzip2 archive", "unpack it: `bunzip2 FILE`"),
    (Sign::At(0, b"\x28\xb5\x2f\xfd"), "a ZSTD archive", "unpack it: `unzstd FILE`"),
    (Sign::At(257, b"ustar"), "a tar archive", "unpack it: `tar xf FILE`"),
    (
        Sign::At(0, b"PK\x03\x04"),
        "a zip archive without an OME-Zarr image in it",
        "unpack it, and name the images in it",
    ),
    (Sign::At(0, b"PK\x05\x06"), "an empty zip archive", "copy or download it again"),
    (Sign::Test(web_page), "a web page (a login or an error in place of the file?)", "download it again"),
    (Sign::Test(json_or_xml), "a text of metadata", "name the images that it speaks of"),
    (Sign::Test(zeros), "a file of zeros, not written or not downloaded to its end", "copy or download it again"),
    (Sign::Test(text), "a text", "name the images themselves"),
];

fn begins(bytes: &[u8], at: usize, sign: &[u8]) -> bool {
    bytes.get(at..at + sign.len()) == Some(sign)
}

fn annex_pointer(bytes: &[u8]) -> bool {
    bytes.len() < 1024 && text(bytes) && String::from_utf8_lossy(bytes).contains(".git/annex/objects/")
}

fn dvc_pointer(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    head.starts_with("outs:") && (head.contains("md5:") || head.contains("hash:"))
}

fn jpeg2000(bytes: &[u8]) -> bool {
    begins(bytes, 0, b"\0\0\0\x0cjP  ") || begins(bytes, 0, b"\xff\x4f\xff\x51")
}

fn leica(bytes: &[u8]) -> bool {
    begins(bytes, 0, b"\x70\0\0\0") && begins(bytes, 8, b"\x2a")
}

fn oif(bytes: &[u8]) -> bool {
    let start: Vec<u8> = bytes.iter().take(80).copied().filter(|byte| *byte != 0).collect();
    let start = start.strip_prefix(b"\xff\xfe").unwrap_or(&start);
    start.starts_with(b"[FileInformation]") || start.starts_with(b"[ProfileSaveInfo]")
}

fn digital_micrograph(bytes: &[u8]) -> bool {
    (begins(bytes, 0, b"\0\0\0\x03") || begins(bytes, 0, b"\0\0\0\x04")) && bytes.len() > 16
}

fn bitmap(bytes: &[u8]) -> bool {
    let length = bytes.get(2..6).map(|length| u32::from_le_bytes(length.try_into().expect("four bytes")));
    begins(bytes, 0, b"BM") && length == u32::try_from(bytes.len()).ok()
}

fn webp(bytes: &[u8]) -> bool {
    begins(bytes, 0, b"RIFF") && begins(bytes, 8, b"WEBP")
}

fn web_page(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).to_lowercase();
    head.trim_start().starts_with("<!doctype html") || head.trim_start().starts_with("<html")
}

fn json_or_xml(bytes: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
    text(bytes) && (head.trim_start().starts_with(['{', '[', '<']))
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().take(4096).all(|&byte| byte == 0)
}

fn text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1024)];
    head.iter().all(|&byte| byte >= 0x20 && byte != 0x7f || matches!(byte, b'\n' | b'\r' | b'\t'))
}

/// Why a file that no reader knows is not read.
pub(super) fn refusal(bytes: &[u8]) -> ImageError {
    let fits = |sign: &Sign| match sign {
        Sign::At(at, sign) => begins(bytes, *at, sign),
        Sign::Test(test) => test(bytes),
    };
    match FORMS.iter().find(|(sign, _, _)| fits(sign)) {
        Some((_, name, way_out)) => ImageError::Foreign { name, way_out },
        None => {
            ImageError::Damaged("it does not begin like a TIFF, or like any other image that is known here".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_name() {
        let padded = |start: &[u8]| [start, &[1; 500]].concat();
        for (bytes, name, way_out) in [
            (Vec::new(), "an empty file", "again"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
                "Git LFS",
                "git lfs pull",
            ),
            (b"/annex/objects/SHA256E-s1--00.tif\n".to_vec(), "git-annex", "git annex get"),
            (b"../.git/annex/objects/ab/cd/SHA256E-s1--00.tif".to_vec(), "git-annex", "git annex get"),
            (b"outs:\n- md5: 00\n  path: a.tif\n".to_vec(), "DVC", "dvc pull"),
            (padded(b"ZISRAWFILE"), "CZI", "bfconvert"),
            (padded(b"\xda\xce\xbe\x0a"), "ND2", "bfconvert"),
            (padded(b"\x70\0\0\0\x10\0\0\0\x2a"), "LIF", "bfconvert"),
            (padded(b"\x89HDF\r\n\x1a\n"), "HDF5", "command"),
            (padded(b"\x89PNG\r\n\x1a\n"), "PNG", "tifffile"),
            (padded(b"\x93NUMPY"), "NumPy", "tifffile"),
            (padded(b"\xff\xd8\xff\xe0"), "JPEG", "camera"),
            (padded(b"PK\x03\x04"), "zip", "unpack"),
            (b"<!DOCTYPE html><html><title>Sign in".to_vec(), "web page", "download"),
            (vec![0; 500], "zeros", "again"),
            (b"a,b\n1,2\n".to_vec(), "a text", "images"),
        ] {
            let told = refusal(&bytes).to_string();
            assert!(told.contains(name) && told.contains(way_out), "{name}: {told}");
        }
        assert!(refusal(&[1; 500]).to_string().contains("does not begin"));
    }
}
