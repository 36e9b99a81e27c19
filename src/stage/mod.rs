//! What stage kinds have in common: what a kind is, its ports, what it may use while it runs, how it fails.
//!
//! A stage kind declares its ports and parameters, checks them before anything runs, and runs. It knows its inputs,
//! its parameters and a [`Context`]; it knows nothing of keys, paths of the store, or the cache. The kinds themselves stand in
//! [`crate::stages`].

mod context;
mod error;
mod folder;
mod host;
mod item;
mod kind;
mod numerics;
mod port;
mod printable;
mod work;

pub use context::Context;
pub use error::StageError;
pub use folder::{folder_digest, folder_files, is_image_folder};
pub use host::{Host, Progress};
pub use item::{Item, ItemInput};
pub use kind::{AnyStage, Checked, Problem, StageKind, erased};
pub use numerics::{Device, DeviceChoice, Numerics, NumericsError, Precision};
pub use port::{Arity, Facts, FileInput, Input, InputFacts, Inputs, Output, OutputFacts, Outputs};
pub use printable::printable;
pub use work::{ItemContext, ItemFiles, ItemWork, Work};
