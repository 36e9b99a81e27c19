//! Nuclei and cells in a field of view (paper sections 4.1.2 and 4.1.4).

mod cells;
mod nuclei;

pub use cells::{CellsParams, Territories, territories, walls};
pub use nuclei::{NucleiParams, nuclei};
