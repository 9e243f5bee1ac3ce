//! Several nodes over one database: one leads, the others follow.
//!
//! The leader owns the database: it accepts, decides, and is the only one who writes. A follower passes requests on to
//! it ([`Door`]), makes attempts for it ([`Spread`], [`Following`]), and takes its place when it goes. So order, rates,
//! breakers, thresholds and caches are one node's, whoever was asked, and no node has anything that another must have
//! when it is gone.
//!
//! Where one database is not enough, applications are spread over several, each with nodes of its own: a cell. [`Cells`] is
//! one door to all of them.

mod cells;
mod door;
mod follower;
mod leader;
mod link;
mod passing;
mod wire;

pub use cells::Cells;
pub use door::Door;
pub use follower::Following;
pub use leader::{Followers, Spread};
pub use link::{AuthoritiesError, Dialer, Myself};
