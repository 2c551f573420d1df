//! The plan of a restore: what the image holds, in typed form and checked against itself, and what must be done in
//! which order. Pure: nothing here touches a task or a file.

pub mod contents;
pub mod holes;
pub mod inherit;
pub mod lineage;
pub mod model;
pub mod place;

pub use lineage::Lineage;
pub use model::{Model, Process};
