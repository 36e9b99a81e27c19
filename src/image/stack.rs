//! Several channels of one field or cell, as they stand in a file.

use super::{ImageError, Volume};

/// The pixels of a [`Stack`], channel after channel, each Z, Y, X.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// 8 bit.
    U8(Vec<u8>),
    /// 16 bit.
    U16(Vec<u16>),
    /// 32 bit real numbers.
    F32(Vec<f32>),
    /// 32 bit whole numbers: label images.
    U32(Vec<u32>),
}

impl Pixels {
    /// The number of pixels.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(pixels) => pixels.len(),
            Self::U16(pixels) => pixels.len(),
            Self::F32(pixels) => pixels.len(),
            Self::U32(pixels) => pixels.len(),
        }
    }

    /// Whether there is no pixel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Named channels of one size: C, Z, Y, X.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// Channel names, in order.
    pub channels: Vec<String>,
    /// Size of each channel in voxels: Z, Y, X.
    pub size: [usize; 3],
    /// Size of a voxel in µm: Z, Y, X; `None` when the file does not say.
    pub voxel_um: Option<[f64; 3]>,
    /// The pixels: channels × Z × Y × X.
    pub pixels: Pixels,
}

impl Stack {
    /// The position of the channel of this name.
    ///
    /// # Errors
    /// [`ImageError::Shape`] naming the channels that there are.
    pub fn position(&self, channel: &str) -> Result<usize, ImageError> {
        self.channels.iter().position(|name| name == channel).ok_or_else(|| {
            ImageError::Shape(format!("no channel `{channel}`; the image has {}", self.channels.join(", ")))
        })
    }

    /// One channel as real numbers, values unchanged.
    #[must_use]
    pub fn channel_f32(&self, index: usize) -> Volume<f32> {
        let length: usize = self.size.iter().product();
        let range = index * length..(index + 1) * length;
        let data = match &self.pixels {
            Pixels::U8(pixels) => pixels[range].iter().map(|&v| f32::from(v)).collect(),
            Pixels::U16(pixels) => pixels[range].iter().map(|&v| f32::from(v)).collect(),
            Pixels::F32(pixels) => pixels[range].to_vec(),
            Pixels::U32(pixels) => pixels[range].iter().map(|&v| v as f32).collect(),
        };
        Volume::new(self.size, data)
    }

    /// One channel as label numbers or a mask. Real numbers count when they are whole: some programs save labels as 32 bit real.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a number is not whole, below 0, or so large that real numbers do not tell it from the next one.
    pub fn channel_u32(&self, index: usize) -> Result<Volume<u32>, ImageError> {
        let length: usize = self.size.iter().product();
        let range = index * length..(index + 1) * length;
        let whole = |(at, &value): (usize, &f32)| {
            if value.fract() == 0.0 && (0.0..=LARGEST_WHOLE).contains(&value) {
                return Ok(value as u32);
            }
            let [z, y, x] = self.place(at);
            let told = if value > LARGEST_WHOLE { "is too large to be exact" } else { "is no label" };
            Err(ImageError::Shape(format!(
                "labels must be whole numbers from 0 on: {value} {told} (channel `{}`, z {z}, y {y}, x {x})",
                self.channels[index]
            )))
        };
        let data = match &self.pixels {
            Pixels::U8(pixels) => pixels[range].iter().map(|&v| u32::from(v)).collect(),
            Pixels::U16(pixels) => pixels[range].iter().map(|&v| u32::from(v)).collect(),
            Pixels::U32(pixels) => pixels[range].to_vec(),
            Pixels::F32(pixels) => pixels[range].iter().enumerate().map(whole).collect::<Result<_, _>>()?,
        };
        Ok(Volume::new(self.size, data))
    }

    /// Z, Y, X of a position in one channel.
    fn place(&self, at: usize) -> [usize; 3] {
        let [_, height, width] = self.size;
        [at / (height * width), at / width % height, at % width]
    }

    /// The channels at these positions, in this order, under these names.
    ///
    /// # Panics
    /// When a position is none, or there are not as many names.
    #[must_use]
    pub fn select(self, order: &[usize], names: Vec<String>) -> Self {
        assert_eq!(order.len(), names.len(), "one name per channel");
        let length: usize = self.size.iter().product();
        macro_rules! selected {
            ($pixels:expr, $kind:ident) => {{
                let pixels = $pixels;
                Pixels::$kind(order.iter().flat_map(|&at| pixels[at * length..][..length].iter().copied()).collect())
            }};
        }
        let pixels = match self.pixels {
            pixels if order.iter().copied().eq(0..self.channels.len()) => pixels,
            Pixels::U8(pixels) => selected!(pixels, U8),
            Pixels::U16(pixels) => selected!(pixels, U16),
            Pixels::U32(pixels) => selected!(pixels, U32),
            Pixels::F32(pixels) => selected!(pixels, F32),
        };
        Self { channels: names, pixels, ..self }
    }

    /// Channels of several images as one image, all of one size: 8 bit, 16 bit or 32 bit whole numbers as the widest of them, real
    /// numbers when one of them is.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when the sizes differ.
    pub fn joined(parts: Vec<Self>) -> Result<Self, ImageError> {
        let Some(first) = parts.first() else { return Err(ImageError::Shape("there is no channel".to_owned())) };
        let (size, voxel_um) = (first.size, first.voxel_um);
        if let Some(other) = parts.iter().find(|part| part.size != size) {
            return Err(ImageError::Shape(format!(
                "channel `{}` is {:?} voxels large, channel `{}` {size:?} (z, y, x)",
                other.channels.join(", "),
                other.size,
                first.channels.join(", "),
            )));
        }
        let rank = |pixels: &Pixels| match pixels {
            Pixels::U8(_) => 0,
            Pixels::U16(_) => 1,
            Pixels::U32(_) => 2,
            Pixels::F32(_) => 3,
        };
        let widest = parts.iter().map(|part| rank(&part.pixels)).max().unwrap_or(0);
        let channels = parts.iter().flat_map(|part| part.channels.clone()).collect();
        macro_rules! all {
            ($kind:ident, $number:ty) => {
                Pixels::$kind(
                    parts
                        .iter()
                        .flat_map(|part| match &part.pixels {
                            Pixels::U8(pixels) => pixels.iter().map(|&v| v as $number).collect::<Vec<_>>(),
                            Pixels::U16(pixels) => pixels.iter().map(|&v| v as $number).collect(),
                            Pixels::U32(pixels) => pixels.iter().map(|&v| v as $number).collect(),
                            Pixels::F32(pixels) => pixels.iter().map(|&v| v as $number).collect(),
                        })
                        .collect(),
                )
            };
        }
        let pixels = match widest {
            0 => all!(U8, u8),
            1 => all!(U16, u16),
            2 => all!(U32, u32),
            _ => all!(F32, f32),
        };
        Ok(Self { channels, size, voxel_um, pixels })
    }

    /// Where the first pixel lies that is not finite, in words, and how many there are; `None`: all are finite.
    #[must_use]
    pub fn non_finite(&self) -> Option<String> {
        let Pixels::F32(pixels) = &self.pixels else { return None };
        let first = pixels.iter().position(|value| !value.is_finite())?;
        let length: usize = self.size.iter().product();
        let [z, y, x] = self.place(first % length);
        let count = pixels.iter().filter(|value| !value.is_finite()).count();
        let others = if count > 1 { format!(", the first of {count} that are not finite") } else { String::new() };
        Some(format!(
            "channel `{}`, plane {z}: the pixel at y {y}, x {x} is {}{others}",
            self.channels[first / length],
            pixels[first]
        ))
    }

    /// Gives pixels that are not finite the smallest finite value of their channel; gives their number.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when a channel has no finite value.
    pub fn mask_non_finite(&mut self) -> Result<usize, ImageError> {
        let length: usize = self.size.iter().product();
        let Pixels::F32(pixels) = &mut self.pixels else { return Ok(0) };
        let mut count = 0;
        for (channel, name) in pixels.chunks_exact_mut(length).zip(&self.channels) {
            let masked = channel.iter().filter(|value| !value.is_finite()).count();
            if masked == 0 {
                continue;
            }
            let least = channel.iter().copied().filter(|value| value.is_finite()).fold(f32::INFINITY, f32::min);
            if least == f32::INFINITY {
                return Err(ImageError::Shape(format!("channel `{name}` has no finite pixel")));
            }
            channel.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = least);
            count += masked;
        }
        Ok(count)
    }
}

/// Whole numbers up to this are told apart by 32 bit real numbers.
const LARGEST_WHOLE: f32 = 16_777_216.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(pixels: Pixels) -> Stack {
        let channels = (0..pixels.len() / 4).map(|channel| format!("c{channel}")).collect();
        Stack { channels, size: [2, 1, 2], voxel_um: None, pixels }
    }

    #[test]
    fn real_labels_count_when_they_are_whole() {
        let read =
            |values: [f32; 4]| stack(Pixels::F32(values.to_vec())).channel_u32(0).map_err(|error| error.to_string());
        assert_eq!(read([0.0, 1.0, 2.0, 70_000.0]).unwrap().data, [0, 1, 2, 70_000]);
        assert!(read([0.0, 1.5, 2.0, 3.0]).unwrap_err().contains("1.5 is no label (channel `c0`, z 0, y 0, x 1)"));
        assert!(read([0.0, 1.0, f32::NAN, 3.0]).unwrap_err().contains("z 1"));
        assert!(read([-1.0, 1.0, 2.0, 3.0]).is_err() && read([0.0, 1.0, 2.0, 2e7]).unwrap_err().contains("too large"));
    }

    #[test]
    fn what_is_not_finite_is_named_or_masked() {
        let nan = f32::NAN;
        let mut two = stack(Pixels::F32(vec![1.0, 2.0, 3.0, 4.0, 9.0, 8.0, nan, f32::INFINITY]));
        let told = two.non_finite().unwrap();
        assert_eq!(told, "channel `c1`, plane 1: the pixel at y 0, x 0 is NaN, the first of 2 that are not finite");
        assert_eq!(two.mask_non_finite().unwrap(), 2);
        assert_eq!(two.pixels, Pixels::F32(vec![1.0, 2.0, 3.0, 4.0, 9.0, 8.0, 8.0, 8.0]));
        assert_eq!(two.non_finite(), None);
        assert!(stack(Pixels::F32(vec![nan; 4])).mask_non_finite().is_err());
        assert_eq!(stack(Pixels::U8(vec![1; 4])).non_finite(), None);
    }

    #[test]
    fn channels_are_selected_and_joined() {
        let two = stack(Pixels::U8((0..8).collect()));
        let turned = two.clone().select(&[1, 0], vec!["x".into(), "y".into()]);
        assert_eq!((turned.channels[0].as_str(), turned.channel_u32(0).unwrap().data), ("x", vec![4, 5, 6, 7]));
        let wide = stack(Pixels::U16(vec![300; 4]));
        let joined = Stack::joined(vec![two, wide]).unwrap();
        assert_eq!(joined.channels, ["c0", "c1", "c0"]);
        assert_eq!(joined.pixels, Pixels::U16(vec![0, 1, 2, 3, 4, 5, 6, 7, 300, 300, 300, 300]));
        let small = Stack { size: [1, 1, 4], ..stack(Pixels::U8(vec![0; 4])) };
        assert!(Stack::joined(vec![stack(Pixels::U8(vec![0; 4])), small]).is_err());
    }
}
