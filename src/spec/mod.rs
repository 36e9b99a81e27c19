//! The pipeline language: TOML with spans, matrix, overrides, validation.
