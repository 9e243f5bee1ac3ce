//! Connections kept for the next request to the same origin.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

/// Idle connections to one origin.
const PER_ORIGIN_MAX: usize = 256;
/// Idle connections in all.
const IDLE_MAX: usize = 4_096;
/// Servers close idle connections after 60 s and more; we are earlier.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// Where a connection leads, and the region it leaves from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) region: Option<Arc<str>>,
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A connection that can take a request.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    /// Its local end.
    pub(crate) local: IpAddr,
}

#[derive(Debug)]
pub(crate) enum Link {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    origins: HashMap<Origin, Vec<(Connection, Instant)>>,
    count: usize,
}

impl Connection {
    fn is_usable(&self) -> bool {
        match &self.link {
            Link::Http1(sender) => sender.is_ready(),
            Link::Http2(sender) => !sender.is_closed(),
        }
    }
}

impl Connection {
    /// The same connection once more, where its protocol takes several requests at once.
    pub(crate) fn shared(&self) -> Option<Self> {
        match &self.link {
            Link::Http1(_) => None,
            Link::Http2(sender) => Some(Self {
                link: Link::Http2(sender.clone()),
                local: self.local,
            }),
        }
    }
}

impl Pool {
    /// The connection used last, if one is alive. An HTTP/2 connection stays in the pool.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.origins.get_mut(origin)?;
        let mut taken = 0;
        let mut found = None;
        while let Some((connection, since)) = connections.pop() {
            taken += 1;
            if !connection.is_usable() {
                continue;
            }
            if let Some(shared) = connection.shared() {
                connections.push((connection, since));
                taken -= 1;
                found = Some(shared);
            } else {
                found = Some(connection);
            }
            break;
        }
        if connections.is_empty() {
            idle.origins.remove(origin);
        }
        idle.count -= taken;
        found
    }

    /// Keeps a connection, if there is room.
    pub(crate) fn put(&self, origin: Origin, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= IDLE_MAX {
            return;
        }
        let connections = idle.origins.entry(origin).or_default();
        if connections.len() < PER_ORIGIN_MAX {
            connections.push((connection, Instant::now()));
            idle.count += 1;
        }
    }

    /// Lets go of the HTTP/2 connections to an origin.
    pub(crate) fn drop_shared(&self, origin: &Origin) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = idle.origins.get_mut(origin) else {
            return;
        };
        let before = connections.len();
        connections.retain(|(connection, _)| matches!(connection.link, Link::Http1(_)));
        let gone = before - connections.len();
        if connections.is_empty() {
            idle.origins.remove(origin);
        }
        idle.count -= gone;
    }

    /// Lets go what has been idle for long or is closed.
    pub(crate) fn reap(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        idle.origins.retain(|_, connections| {
            connections
                .retain(|(connection, since)| since.elapsed() < IDLE_FOR && connection.is_usable());
            count += connections.len();
            !connections.is_empty()
        });
        idle.count = count;
    }
}
