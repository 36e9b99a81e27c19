//! The `statcell` program.

fn main() {}
