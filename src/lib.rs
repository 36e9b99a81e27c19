//! `statcell` learns from 3D microscopy how cells are organised, in one command.
//!
//! The modules are layers. What flows through them, from the top of this list to the bottom: a TOML text,
//! a checked [`spec`], a [`graph`] of stage instances, a [`plan`], its execution ([`exec`]), and artifacts
//! in the [`store`], the report among them. **A module imports only modules that stand below it here.**
//!
//! | module | what it is |
//! |---|---|
//! | [`cli`] | one file a subcommand |
//! | [`console`] | listeners to events: progress, plain lines, JSON lines, the closing table |
//! | [`exec`] | dispatcher, events, the local executor |
//! | [`plan`] | keys, decisions, reasons |
//! | [`graph`] | stage instances and what they take from each other; drawings |
//! | [`spec`] | the pipeline language: TOML with spans, matrix, overrides, validation, JSON Schema |
//! | [`stages`] | one file a stage kind; the registry |
//! | [`stage`] | what stage kinds have in common: kinds, ports, context, items, errors |
//! | [`figures`] | plots, galleries, the report's HTML |
//! | [`model`] | the two β-VAEs, written forward only: blocks, encoder, decoder, trainer, checkpoint |
//! | [`artifact`] | the typed things that flow between stages, and how each is written and read |
//! | [`nn`] | the engine on candle's tensors: operations, tape, layers, Adam, counter-based random numbers |
//! | [`image`] | volumes, OME-TIFF, filters, morphology, watershed, geometry |
//! | [`stats`] | PCA, regression, correlation |
//! | [`store`] | content-addressed blobs, action entries, leases, garbage collection, verification, over a backend |
//! | [`simd`] | vector instructions: which ones the processor has, and code compiled for them |

pub mod artifact;
pub mod cli;
pub mod console;
pub mod exec;
pub mod figures;
pub mod graph;
pub mod image;
pub mod model;
pub mod nn;
pub mod plan;
pub mod simd;
pub mod spec;
pub mod stage;
pub mod stages;
pub mod stats;
pub mod store;
