//! Reading through the door: every form, what is refused, what is said by those who know.

use super::{
    super::Pixels,
    testing::{SIZES, Tag, flat, longs, ome, plane8, plane16, resolution, short, text, tiff},
    *,
};

fn sample(pixels: Pixels) -> Stack {
    Stack {
        channels: vec!["membrane".to_owned(), "DNA <&\"> µ".to_owned()],
        size: [3, 4, 5],
        voxel_um: Some([0.29, 0.26, 0.26]),
        pixels,
    }
}

#[test]
fn round_trip() {
    let labels = (0..120_u32).map(|i| i * 70_000).collect();
    let real = (0..120_u16).map(|i| f32::from(i) / 7.0).collect();
    for pixels in
        [Pixels::U8((0..120).collect()), Pixels::U16((500..620).collect()), Pixels::U32(labels), Pixels::F32(real)]
    {
        let stack = sample(pixels);
        let bytes = write(&stack).unwrap();
        assert_eq!(read(&bytes).unwrap(), stack);
        assert_eq!(bytes, write(&stack).unwrap(), "stable bytes");
    }
    let mut short = sample(Pixels::U8(vec![0; 119]));
    assert!(write(&short).is_err());
    short.voxel_um = None;
    short.pixels = Pixels::U8(vec![0; 120]);
    assert_eq!(read(&write(&short).unwrap()).unwrap().voxel_um, None);
}

/// Files that tifffile wrote, with what they hold: see `tests/fixtures/tiff/make.py`.
#[test]
fn variants() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiff"));
    let list = std::fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let mut count = 0;
    for line in list.lines().skip(1) {
        let [name, verdict, channels, size, voxel, sum, weighted]: [&str; 7] =
            line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let result = read(&std::fs::read(folder.join(name)).unwrap());
        count += 1;
        if verdict != "read" {
            let error = result.expect_err(name).to_string();
            assert!(error.contains(verdict), "{name}: {error}");
            continue;
        }
        let stack = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(stack.channels.join(","), channels, "{name}");
        assert_eq!(format!("{:?}", stack.size), size, "{name}");
        let told = stack.voxel_um.map_or("none".to_owned(), |v| format!("{:.3} {:.3} {:.3}", v[0], v[1], v[2]));
        assert_eq!(told, voxel, "{name}");
        let values: Vec<f64> =
            (0..stack.channels.len()).flat_map(|channel| stack.channel_f32(channel).data).map(f64::from).collect();
        let place = |(at, value): (usize, &f64)| (at % 1013) as f64 * value;
        assert_eq!(format!("{:.1}", values.iter().sum::<f64>()), sum, "{name}");
        assert_eq!(format!("{:.1}", values.iter().enumerate().map(place).sum::<f64>()), weighted, "{name}");
    }
    assert!(count >= 60, "{count} files");
}

#[test]
fn hints_say_what_the_file_does_not() {
    let stack = Stack { channels: vec!["0".into()], voxel_um: None, ..sample(Pixels::U8((0..120).collect())) };
    let stack = Stack { size: [6, 4, 5], ..stack };
    let bytes = write(&stack).unwrap();
    let read = |channels, order| {
        let asked = Asked { channels: Some(channels), axes: Some(order), ..Asked::default() };
        read_one(&bytes, &asked).map(|found| found.stack)
    };
    assert_eq!(read(2, PageOrder::Czyx).unwrap().pixels, stack.pixels);
    let zcyx = read(2, PageOrder::Zcyx).unwrap();
    assert_eq!((zcyx.size, zcyx.channels.len()), ([3, 4, 5], 2));
    assert_eq!(zcyx.channel_f32(1).data[0], 20.0);
    assert!(read(4, PageOrder::Czyx).is_err());
}

/// Whatever bytes are changed: an image or an error, quickly and in little memory.
#[test]
fn mutations_do_no_harm() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiff"));
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|suffix| suffix == "tif") && !path.ends_with("empty.tif"));
    names.sort();
    let mut state = 1_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % below
    };
    let mut refused = 0;
    for round in 0..400 {
        let mut bytes = std::fs::read(&names[round % names.len()]).unwrap();
        for _ in 0..=random(4) {
            // Mostly in the header and the directory, which lie at the beginning.
            let at = if random(3) > 0 { random(bytes.len().min(600)) } else { random(bytes.len()) };
            match random(4) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = 0xFF,
                2 => bytes.truncate(at.max(1)),
                _ => bytes[at] = random(256) as u8,
            }
        }
        let limit = (16 << 20) + 2048 * bytes.len();
        match read(&bytes) {
            Ok(stack) => assert!(stack.pixels.len() <= limit),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused}");
}

/// First values of the planes, channel after channel.
fn firsts(bytes: &[u8], asked: &Asked) -> Result<Vec<f32>, String> {
    let found = read_one(bytes, asked).map_err(|error| error.to_string())?;
    let plane = found.stack.size[1] * found.stack.size[2];
    let channels = 0..found.stack.channels.len();
    Ok(channels.flat_map(|channel| found.stack.channel_f32(channel).data.into_iter().step_by(plane)).collect())
}

fn as_said() -> Asked {
    Asked::default()
}

#[test]
fn micro_manager_with_two_descriptions() {
    let pages: Vec<_> = [0, 1, 2, 100, 101, 102].map(flat).to_vec();
    let lines =
        text(270, "ImageJ=1.52p\nimages=6\nchannels=2\nslices=3\nhyperstack=true\norder=zct\nunit=um\nspacing=0.3\n");
    let due = Ok(vec![0.0, 1.0, 2.0, 100.0, 101.0, 102.0]);
    let tags = [vec![lines.clone()], resolution(10)].concat();
    assert_eq!(firsts(&tiff(&pages, [4, 5], &tags, &[]), &as_said()), due);
    let runs: String = (0..6)
        .map(|page| {
            format!("<TiffData FirstC=\"{}\" FirstZ=\"{}\" IFD=\"{page}\" PlaneCount=\"1\"/>", page / 3, page % 3)
        })
        .collect();
    let xml = text(270, &ome(&["a", "b"], 3, 1, SIZES, &runs));
    let both = tiff(&pages, [4, 5], &[vec![xml.clone(), lines], resolution(10)].concat(), &[]);
    assert_eq!(firsts(&both, &as_said()), due);
    assert_eq!(read(&both).unwrap().channels, ["a", "b"]);
    // Without either of them it is no plain TIFF.
    let private = (51123, 2, 3, b"{}\0".to_vec());
    assert!(firsts(&tiff(&pages, [4, 5], &[private], &[]), &as_said()).unwrap_err().contains("Micro-Manager"));
}

#[test]
fn metamorph_stacks() {
    let stack = |each: [u32; 6], last: [u32; 6], more: &[Tag]| {
        // One directory; its strip covers the first plane, and the others follow it.
        let all = plane16((0..3).flat_map(|value| [value; 20]));
        let numbers = [each, each, last].concat();
        let mut tags = vec![longs(33629, 5, 3, &numbers), longs(279, 4, 1, &[40])];
        tags.extend_from_slice(more);
        tiff(&[all], [4, 5], &tags, &[])
    };
    let same = [1, 1, 0, 0, 0, 0];
    assert_eq!(firsts(&stack(same, same, &[]), &as_said()), Ok(vec![0.0, 1.0, 2.0]));
    let times = stack([0, 1, 7, 0, 0, 0], [0, 1, 7, 5, 0, 0], &[]);
    assert!(firsts(&times, &as_said()).unwrap_err().contains("3 time points"));
    assert_eq!(firsts(&times, &Asked { time: Pick::At(2), ..as_said() }), Ok(vec![2.0]));
    let waves = stack(same, same, &[longs(33630, 5, 3, &[405, 1, 488, 1, 640, 1])]);
    assert!(firsts(&waves, &as_said()).unwrap_err().contains("MetaMorph"));
    let three = Asked { channels: Some(3), axes: Some(PageOrder::Czyx), ..as_said() };
    assert_eq!(read_one(&waves, &three).unwrap().stack.channels.len(), 3);
    let closed = tiff(&[flat(1)], [4, 5], &[(34412, 7, 8, vec![0; 8])], &[]);
    assert!(firsts(&closed, &three).unwrap_err().contains("LSM"));
}

#[test]
fn what_is_said_counts_more_than_the_file() {
    let pages: Vec<_> = [0, 1, 2].map(flat).to_vec();
    let imagej = tiff(&pages, [4, 5], &[text(270, "ImageJ=1.54f\nimages=3\nframes=3\nunit=um\n")], &[]);
    let xml = tiff(&pages, [4, 5], &[text(270, &ome(&["a"], 1, 3, SIZES, "<TiffData/>"))], &[]);
    let broken = tiff(&pages, [4, 5], &[text(270, "<OME><Image><Pixels SizeX=\"5\"")], &[]);
    let ifd = tiff(&pages, [4, 5], &[text(270, &ome(&["a"], 3, 1, SIZES, "<TiffData IFD=\"1\"/>"))], &[]);
    let planes = Asked { channels: Some(1), axes: Some(PageOrder::Czyx), ..as_said() };
    for (name, bytes, reason) in [
        ("ImageJ", imagej, "3 time points"),
        ("OME", xml, "3 time points"),
        ("broken XML", broken, "OME-XML"),
        ("one page of three", ifd, "places 1 of its 3 planes"),
    ] {
        let refused = firsts(&bytes, &as_said()).unwrap_err();
        assert!(refused.contains(reason), "{name}: {refused}");
        assert_eq!(firsts(&bytes, &planes), Ok(vec![0.0, 1.0, 2.0]), "{name}");
    }
    let plain = tiff(&pages, [4, 5], &[], &[]);
    assert_eq!(read_one(&plain, &Asked { channels: Some(3), ..as_said() }).unwrap().stack.channels.len(), 3);
    let shaped = tiff(&[pages.clone(), pages].concat(), [4, 5], &[text(270, "{\"shape\": [2, 3, 4, 5]}")], &[]);
    assert!(matches!(read_one(&shaped, &as_said()), Err(ImageError::Unclear(Unclear::Order, _))));
    let two = Asked { channels: Some(2), axes: Some(PageOrder::Zcyx), ..as_said() };
    assert_eq!(firsts(&shaped, &two), Ok(vec![0.0, 2.0, 1.0, 1.0, 0.0, 2.0]));
}

#[test]
fn voxels_in_every_dialect() {
    let pages: Vec<_> = [0, 1].map(flat).to_vec();
    let voxel = |description: &str| {
        let tags = [vec![text(270, description)], resolution(10)].concat();
        read_one(&tiff(&pages, [4, 5], &tags, &[]), &as_said()).unwrap().voxel
    };
    let xml = |sizes: &str| voxel(&ome(&["DAPI & GFP"], 2, 1, sizes, "<TiffData/>"));
    let xy = "PhysicalSizeX=\"0.1\" PhysicalSizeY=\"0.1\"";
    assert_eq!(
        xml(&format!("{xy} PhysicalSizeZ=\"3E-6\" PhysicalSizeZUnit=\"dm\"")).um[0].map(|z| (z * 1e9).round()),
        Some(3e8)
    );
    assert!(xml(xy).missing().unwrap().contains("in y, x, not in z"));
    assert!(xml(&format!("{xy} PhysicalSizeZ=\"0\"")).missing().unwrap().contains("`PhysicalSizeZ` is `0`"));
    assert_eq!(voxel("ImageJ=1.54f\nimages=2\nslices=2\nunit=micron\n").whole(), Some([1.0, 0.1, 0.1]));
    let scifio = "SCIFIO=0.46.0\naxes=X,Y,Z\nlengths=5,4,2\nscales=0.2,0.2,0.5\nunits=micron,micron,micron\nimages=2\n";
    assert_eq!(voxel(scifio).whole(), Some([0.5, 0.2, 0.2]));
}

#[test]
fn palettes() {
    let values: Vec<u8> = (0..20).map(|value| value % 3).collect();
    let with = |map: Vec<u16>| {
        let bytes = map.iter().flat_map(|value| value.to_le_bytes()).collect();
        tiff(&[plane8(values.clone())], [4, 5], &[], &[short(262, 3), (320, 3, 768, bytes)])
    };
    let grey: Vec<u16> = (0..3).flat_map(|_| (0..256).map(|value| value * 257)).collect();
    let green: Vec<u16> = [vec![0; 256], (0..256).map(|value| value * 257).collect(), vec![0; 256]].concat();
    let colours: Vec<u16> = (0..768).map(|value| value * 7919).map(|value: u32| value as u16).collect();
    for ramp in [grey, green] {
        assert_eq!(read(&with(ramp)).unwrap().channel_u32(0).unwrap().data[..3], [0, 1, 2]);
    }
    assert!(read(&with(colours.clone())).unwrap_err().to_string().contains("palette"));
    let labels = read_one(&with(colours), &Asked { labels: true, ..as_said() }).unwrap().stack;
    assert_eq!(labels.channel_u32(0).unwrap().data[..3], [0, 1, 2]);
}

#[test]
fn what_the_crate_would_read_wrong_is_refused() {
    // A strip that is shorter than its plane does not run on into the next one.
    let short_strip = tiff(&[flat(7), flat(8)], [4, 5], &[longs(279, 4, 1, &[20])], &[]);
    assert!(read(&short_strip).unwrap_err().to_string().contains("too short"));
    // A page without a photometric interpretation is read all the same.
    let mut none = tiff(&[flat(7)], [4, 5], &[], &[]);
    let at = none.windows(4).position(|tag| tag == [6, 1, 3, 0]).unwrap();
    none[at..at + 2].copy_from_slice(&[0, 0x80]);
    assert_eq!(firsts(&none, &as_said()), Ok(vec![7.0]));
}

#[test]
fn scenes_and_times() {
    let pages: Vec<_> = [0, 1, 2, 3].map(flat).to_vec();
    let one = ome(&["a"], 2, 1, SIZES, "<TiffData IFD=\"0\" PlaneCount=\"2\"/>")
        .replace("ID=\"Image:0\"", "ID=\"Image:0\" Name=\"left\"");
    let other = ome(&["a"], 2, 1, SIZES, "<TiffData IFD=\"2\" PlaneCount=\"2\"/>");
    let other = &other[other.find("<Image").unwrap()..other.find("</OME>").unwrap()];
    let both = tiff(&pages, [4, 5], &[text(270, &one.replace("</OME>", &format!("{other}</OME>")))], &[]);
    assert!(firsts(&both, &as_said()).unwrap_err().contains("2 images in one file"));
    assert_eq!(firsts(&both, &Asked { scene: Pick::At(1), ..as_said() }), Ok(vec![2.0, 3.0]));
    assert_eq!(firsts(&both, &Asked { scene: Pick::Named("left".into()), ..as_said() }), Ok(vec![0.0, 1.0]));
    let each = read_all(&both, &Asked { scene: Pick::Each, ..as_said() }).unwrap();
    assert_eq!(each.iter().map(|found| found.scene).collect::<Vec<_>>(), [Some(0), Some(1)]);
    let series = tiff(&pages, [4, 5], &[text(270, &ome(&["a"], 2, 2, SIZES, "<TiffData/>"))], &[]);
    assert_eq!(firsts(&series, &Asked { time: Pick::At(1), ..as_said() }), Ok(vec![2.0, 3.0]));
    assert_eq!(read_all(&series, &Asked { time: Pick::Each, ..as_said() }).unwrap().len(), 2);
    assert!(firsts(&series, &Asked { time: Pick::At(2), ..as_said() }).unwrap_err().contains("from 0 to 1"));
}
