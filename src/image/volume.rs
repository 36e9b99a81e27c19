//! One channel: voxels of one type in Z, Y, X order.

/// Voxels of one type, Z, Y, X order, X contiguous. A 2D image has depth 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume<T> {
    /// Size in voxels: Z, Y, X.
    pub size: [usize; 3],
    /// The voxels: `size[0] * size[1] * size[2]` of them.
    pub data: Vec<T>,
}

impl<T: Clone> Volume<T> {
    /// A volume of this size, every voxel `value`.
    #[must_use]
    pub fn filled(size: [usize; 3], value: T) -> Self {
        Self { size, data: vec![value; size.iter().product()] }
    }
}

impl<T> Volume<T> {
    /// A volume of these voxels.
    ///
    /// # Panics
    /// When their number is not that of the size.
    #[must_use]
    pub fn new(size: [usize; 3], data: Vec<T>) -> Self {
        assert_eq!(size.iter().product::<usize>(), data.len(), "voxels do not fit the size {size:?}");
        Self { size, data }
    }

    /// The position of voxel (z, y, x) in `data`.
    #[must_use]
    pub fn index(&self, z: usize, y: usize, x: usize) -> usize {
        (z * self.size[1] + y) * self.size[2] + x
    }

    /// A new volume with `f` of every voxel.
    #[must_use]
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Volume<U> {
        Volume { size: self.size, data: self.data.iter().map(f).collect() }
    }
}

impl<T: Copy> Volume<T> {
    /// The box of `size` voxels from `low` on (Z, Y, X).
    ///
    /// # Panics
    /// When it reaches beyond the volume.
    #[must_use]
    pub fn crop(&self, low: [usize; 3], size: [usize; 3]) -> Self {
        let mut data = Vec::with_capacity(size.iter().product());
        for z in 0..size[0] {
            for y in 0..size[1] {
                let row = self.index(low[0] + z, low[1] + y, low[2]);
                data.extend_from_slice(&self.data[row..row + size[2]]);
            }
        }
        Self::new(size, data)
    }
}
