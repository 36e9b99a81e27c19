//! Tensor operations that candle lacks or is slow at.
