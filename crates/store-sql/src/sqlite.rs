//! A database in a file of ours: opening, copying and examining it.

pub(crate) mod backup;
pub(crate) mod checkpoint;
pub(crate) mod doctor;
pub(crate) mod open;
pub(crate) mod patrol;
