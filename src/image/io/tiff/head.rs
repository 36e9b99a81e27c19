//! The header and one directory of a TIFF, in either byte order: what the `tiff` crate is given to read, in place of a file's own.

/// Whole numbers of four or eight bytes, as the file's offsets are; the crate takes either for any of the tags that are written here.
const LONG: u16 = 4;
const LONG8: u16 = 16;

/// A header and a directory of these tags, in ascending order.
pub(super) fn head(big_endian: bool, big: bool, tags: &[(u16, Vec<u64>)]) -> Vec<u8> {
    let length = if big { 8 } else { 4 };
    let mut bytes = Vec::new();
    let put = |bytes: &mut Vec<u8>, value: u64, length: usize| {
        let little = value.to_le_bytes();
        let number = little[..length].iter();
        if big_endian { bytes.extend(number.rev()) } else { bytes.extend(number) }
    };
    bytes.extend_from_slice(if big_endian { b"MM" } else { b"II" });
    if big {
        [43, 8, 0].iter().for_each(|&word| put(&mut bytes, word, 2));
        put(&mut bytes, 16, 8);
        put(&mut bytes, tags.len() as u64, 8);
    } else {
        put(&mut bytes, 42, 2);
        put(&mut bytes, 8, 4);
        put(&mut bytes, tags.len() as u64, 2);
    }
    let mut behind = bytes.len() + tags.len() * (4 + 2 * length) + length;
    for (tag, values) in tags {
        put(&mut bytes, u64::from(*tag), 2);
        put(&mut bytes, u64::from(if big { LONG8 } else { LONG }), 2);
        put(&mut bytes, values.len() as u64, length);
        if let [value] = values[..] {
            put(&mut bytes, value, length);
        } else {
            put(&mut bytes, behind as u64, length);
            behind += values.len() * length;
        }
    }
    put(&mut bytes, 0, length);
    for (_, values) in tags.iter().filter(|(_, values)| values.len() != 1) {
        values.iter().for_each(|&value| put(&mut bytes, value, length));
    }
    bytes
}
