//! File descriptors: as many as the machine gives, and divided, so that callers cannot use up those that
//! deliveries need.

use crate::config::Config;

/// For the store, the log, name resolution, and what else has to be open.
const KEPT: usize = 192;
/// Fewer than these a share never is.
const SHARE_MIN: usize = 64;

/// Connections of each kind that there are descriptors for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// From callers of the API.
    pub(crate) connections: usize,
    /// To receivers.
    pub(crate) in_flight: usize,
}

impl Shares {
    /// What the settings say, as far as there are descriptors for it.
    pub(crate) fn of(config: &Config) -> Self {
        share(config.server.connections_max, config.limits.in_flight)
    }
}

/// Raises the limit of this process as far as it may, and divides what there is.
fn share(connections: usize, in_flight: usize) -> Shares {
    let shares = divide(raised(), connections, in_flight);
    if (shares.connections, shares.in_flight) != (connections, in_flight) {
        tracing::warn!(
            connections = shares.connections,
            in_flight = shares.in_flight,
            "this process may open too few files for server.connections_max and limits.in_flight, which are lowered; raise its limit (ulimit -n, LimitNOFILE)"
        );
    }
    shares
}

/// Idle connections to receivers are kept beside those in use, so each counts twice.
fn divide(descriptors: Option<usize>, connections: usize, in_flight: usize) -> Shares {
    let Some(descriptors) = descriptors else {
        return Shares {
            connections,
            in_flight,
        };
    };
    let free = descriptors.saturating_sub(KEPT);
    // Half is for receivers, at two for each request under way.
    let half = (free / 2).max(SHARE_MIN);
    let in_flight = in_flight.min((half / 2).max(SHARE_MIN));
    // Where there are few, the least share may be more than all of them.
    let rest = free.saturating_sub(in_flight * 2);
    Shares {
        connections: connections.min(rest.max(SHARE_MIN)),
        in_flight,
    }
}

#[cfg(unix)]
fn raised() -> Option<usize> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    // None is without a limit.
    let current = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(current).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn raised() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_and_receivers_each_have_their_share() {
        let shares = divide(Some(1_024), 10_000, 4_096);
        assert_eq!((shares.connections, shares.in_flight), (416, 208));
        let shares = divide(Some(1_048_576), 10_000, 4_096);
        assert_eq!((shares.connections, shares.in_flight), (10_000, 4_096));
        let shares = divide(Some(256), 10_000, 4_096);
        assert_eq!((shares.connections, shares.in_flight), (64, 64));
    }
}
