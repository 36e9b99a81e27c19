//! A thousand variants of TIFF, read exactly or refused; made by `tests/fixtures/tiff/matrix.py`, which needs Python.

use std::{fs, path::Path};

use statcell::image::io::{self, Asked};

#[test]
#[ignore = "its files are made by tests/fixtures/tiff/matrix.py"]
fn variants_are_read_exactly_or_refused() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tiff-matrix");
    let list = fs::read_to_string(folder.join("expected.tsv"))
        .expect("python3 tests/fixtures/tiff/matrix.py target/tiff-matrix");
    let (mut exact, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for line in list.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let bytes = fs::read(folder.join(fields[0])).unwrap();
        let stack = match io::read_one(&bytes, &Asked::default()) {
            Ok(found) => found.stack,
            Err(error) => {
                refused.push(format!("{}: {error}", fields[0]));
                continue;
            }
        };
        let values: Vec<f64> =
            (0..stack.channels.len()).flat_map(|channel| stack.channel_f32(channel).data).map(f64::from).collect();
        let place = |(at, value): (usize, &f64)| (at % 1013) as f64 * value;
        let sums = [values.iter().sum::<f64>(), values.iter().enumerate().map(place).sum::<f64>()];
        let close = |own: f64, theirs: &str| {
            let theirs: f64 = theirs.parse().unwrap();
            // 64 bit real numbers are read as 32 bit.
            (own - theirs).abs() <= 0.1 + 1e-7 * theirs.abs()
        };
        let size = [stack.channels.len().to_string(), stack.size[0].to_string()];
        if size == [fields[1], fields[2]] && close(sums[0], fields[3]) && close(sums[1], fields[4]) {
            exact += 1;
        } else {
            wrong.push(format!("{}: {size:?} {sums:?}, not {:?}", fields[0], &fields[1..]));
        }
    }
    let report =
        format!("{exact} read exactly, {} refused, {} wrong\n{}\n", refused.len(), wrong.len(), refused.join("\n"));
    fs::write(folder.join("report.txt"), &report).unwrap();
    assert!(wrong.is_empty(), "{report}{}", wrong.join("\n"));
    assert!(exact >= 900, "{report}");
}
