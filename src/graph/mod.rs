//! The pipeline as a graph of stage instances.
