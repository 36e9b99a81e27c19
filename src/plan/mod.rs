//! Keys, decisions and reasons: what must run, and why.
