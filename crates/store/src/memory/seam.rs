//! The model's side of the seam: each method looks at the state, or changes it.

mod audit;
mod catalogue;
mod keys;
mod lanes;
mod notices;
mod records;
mod tasks;
