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

    /// One channel as label numbers or a mask.
    ///
    /// # Errors
    /// [`ImageError::Shape`] when the pixels are real numbers.
    pub fn channel_u32(&self, index: usize) -> Result<Volume<u32>, ImageError> {
        let length: usize = self.size.iter().product();
        let range = index * length..(index + 1) * length;
        let data = match &self.pixels {
            Pixels::U8(pixels) => pixels[range].iter().map(|&v| u32::from(v)).collect(),
            Pixels::U16(pixels) => pixels[range].iter().map(|&v| u32::from(v)).collect(),
            Pixels::U32(pixels) => pixels[range].to_vec(),
            Pixels::F32(_) => {
                return Err(ImageError::Shape("labels must be whole numbers, the pixels are 32 bit real".to_owned()));
            }
        };
        Ok(Volume::new(self.size, data))
    }
}
