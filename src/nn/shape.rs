//! The extent of feature maps.

/// The extent of feature maps: models × images × Z × Y × X × channels, channels contiguous, each image inside a halo of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Models that are computed together; 1 is the ordinary case.
    pub models: usize,
    /// Images of the batch.
    pub images: usize,
    /// Size in voxels without the halo: Z, Y, X; Z = 1 in 2D.
    pub size: [usize; 3],
    /// Channels.
    pub channels: usize,
    /// Voxels of zeros on each side along Z, Y, X.
    pub halo: [usize; 3],
}

impl Shape {
    /// The maps of one model, without a halo.
    #[must_use]
    pub const fn new(images: usize, size: [usize; 3], channels: usize) -> Self {
        Self { models: 1, images, size, channels, halo: [0; 3] }
    }

    /// Vectors without a place in space: one row of `images` voxels.
    #[must_use]
    pub const fn vectors(images: usize, channels: usize) -> Self {
        Self::new(1, [1, 1, images], channels)
    }

    /// The same extent with another halo.
    #[must_use]
    pub const fn with_halo(self, halo: [usize; 3]) -> Self {
        Self { halo, ..self }
    }

    /// The same extent for another number of models.
    #[must_use]
    pub const fn with_models(self, models: usize) -> Self {
        Self { models, ..self }
    }

    /// Floats from one voxel to the next along Y.
    #[must_use]
    pub const fn row_pitch(&self) -> usize {
        (self.size[2] + 2 * self.halo[2]) * self.channels
    }

    /// Floats from one voxel to the next along Z.
    #[must_use]
    pub const fn plane_pitch(&self) -> usize {
        (self.size[1] + 2 * self.halo[1]) * self.row_pitch()
    }

    /// Floats from one image to the next.
    #[must_use]
    pub const fn image_pitch(&self) -> usize {
        (self.size[0] + 2 * self.halo[0]) * self.plane_pitch()
    }

    /// Floats from one model to the next.
    #[must_use]
    pub const fn model_pitch(&self) -> usize {
        self.images * self.image_pitch()
    }

    /// Floats in all, the halo included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.models * self.model_pitch()
    }

    /// Whether there is nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Voxels of all images of one model, without the halo.
    #[must_use]
    pub const fn voxels(&self) -> usize {
        self.images * self.size[0] * self.size[1] * self.size[2]
    }

    /// Rows along X of all images of one model, without the halo.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.images * self.size[0] * self.size[1]
    }

    /// Floats of one row, without the halo.
    #[must_use]
    pub const fn row_len(&self) -> usize {
        self.size[2] * self.channels
    }

    /// Where voxel (image, z, y, x) begins within its model.
    #[must_use]
    pub const fn offset(&self, image: usize, [z, y, x]: [usize; 3]) -> usize {
        image * self.image_pitch()
            + (z + self.halo[0]) * self.plane_pitch()
            + (y + self.halo[1]) * self.row_pitch()
            + (x + self.halo[2]) * self.channels
    }

    /// (image, z, y) of a row by its number.
    #[must_use]
    pub const fn row_position(&self, row: usize) -> [usize; 3] {
        let (plane, y) = (row / self.size[1], row % self.size[1]);
        [plane / self.size[0], plane % self.size[0], y]
    }

    /// Where a row begins within its model, by its number.
    #[must_use]
    pub const fn row_offset(&self, row: usize) -> usize {
        let [image, z, y] = self.row_position(row);
        self.offset(image, [z, y, 0])
    }
}
