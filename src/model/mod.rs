//! The two β-VAEs of the paper: MR (cell and nuclear shape) and MT (a structure in a given cell).
