//! Plots, galleries and the report.
