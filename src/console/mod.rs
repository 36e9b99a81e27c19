//! Listeners to events: terminal progress, plain lines, JSON lines, the closing table.
