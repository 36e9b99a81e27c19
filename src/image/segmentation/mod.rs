//! Nuclei and cells in a field of view (paper sections 4.1.2 and 4.1.4).
//!
//! [`nuclei`] finds nuclei by active contours, [`walls`] makes the walls between cells out of the membrane, [`territories`] floods them
//! from the nuclei, [`join_mitotic`] gives the parts of one mitotic nucleus one number, and [`tidy`] smooths the cells.

mod cells;
mod nuclei;
mod tidy;

pub use cells::{CellsParams, Territories, join_mitotic, territories, walls};
pub use nuclei::{NucleiParams, nuclei};
pub use tidy::tidy;
