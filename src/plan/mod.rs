//! The plan: keys, decisions, and the reasons for them, before anything runs.

mod canonical;
mod error;
mod explain;
pub mod keys;
mod planner;
mod reason;
mod words;

pub use error::{PlanError, UnreadableFile};
pub use explain::{Explanation, RootCause, explain};
pub(crate) use planner::Planner;
pub use planner::{Decision, Plan, Step, plan};
pub use reason::Reason;
pub use words::Reasons;
