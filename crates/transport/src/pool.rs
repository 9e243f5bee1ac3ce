//! Connections kept for the next request to the same origin.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use crate::driver::Driver;

/// Idle connections to one origin.
const PER_ORIGIN_MAX: usize = 256;
/// Requests at once on one HTTP/2 connection; with more, another is opened (RFC 9113 5.1.2 wants
/// servers to allow no less).
const STREAMS_MAX: usize = 100;
/// Idle connections in all.
const IDLE_MAX: usize = 4_096;
/// How long a connection is kept idle when the server does not say how long it does.
const IDLE_FOR: Duration = Duration::from_secs(15);
/// An older one takes no further request: its receiver may have moved to another address, and what was looked at when it
/// was opened (the address, the certificate) may not be so any more.
const AGE_MAX: Duration = Duration::from_secs(300);
/// At most, however long it says.
const IDLE_FOR_MAX: Duration = Duration::from_secs(50);
/// We are earlier than the server: a request must not meet its end.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// Where a connection leads, the region it leaves from, and how it writes header names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) region: Option<Arc<str>>,
    pub(crate) https: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) title_case: bool,
}

/// A connection that can take a request.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    /// Every user has one of these; the pool is a user too. With the last of them the connection ends.
    users: Arc<Driver>,
    /// Its local end.
    pub(crate) local: IpAddr,
    opened: Instant,
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
    pub(crate) fn new(link: Link, driver: Driver, local: IpAddr) -> Self {
        Self {
            link,
            users: Arc::new(driver),
            local,
            opened: Instant::now(),
        }
    }

    /// Bytes that came on it until now, over HTTP/1.1.
    pub(crate) fn heard(&self) -> u64 {
        self.users.heard()
    }

    fn is_usable(&self) -> bool {
        if self.opened.elapsed() >= AGE_MAX {
            return false;
        }
        match &self.link {
            // It was put back when it was ready: not ready any more means closed.
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
                users: self.users.clone(),
                local: self.local,
                opened: self.opened,
            }),
        }
    }

    /// Whether it has as many requests as servers commonly take at once: one more would wait its turn there.
    fn is_full(&self) -> bool {
        // The pool's own is one of them, so as many requests as that are under way.
        Arc::strong_count(&self.users) > STREAMS_MAX
    }
}

impl Pool {
    /// The connection used last, if one is alive. An HTTP/2 connection stays in the pool.
    pub(crate) fn take(&self, origin: &Origin) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.origins.get_mut(origin)?;
        let before = connections.len();
        let now = Instant::now();
        let mut found = None;
        // From behind, so that what is removed moves nothing that is still to be looked at.
        for at in (0..before).rev() {
            let (connection, until) = &connections[at];
            match &connection.link {
                _ if !connection.is_usable() || *until <= now => drop(connections.remove(at)),
                Link::Http2(_) if connection.is_full() => {}
                Link::Http2(_) => {
                    found = connection.shared();
                    connections[at].1 = now + IDLE_FOR;
                    break;
                }
                Link::Http1(_) => {
                    found = Some(connections.remove(at).0);
                    break;
                }
            }
        }
        let taken = before - connections.len();
        // Origins are as many as receivers have ever been: those without a connection are forgotten.
        if connections.is_empty() {
            idle.origins.remove(origin);
        }
        idle.count -= taken;
        found
    }

    /// Keeps a connection, if there is room. `keep_alive` is how long its server says that it keeps it.
    pub(crate) fn put(&self, origin: Origin, connection: Connection, keep_alive: Option<Duration>) {
        let idle_for = match keep_alive {
            Some(said) => said.saturating_sub(IDLE_MARGIN).min(IDLE_FOR_MAX),
            None => IDLE_FOR,
        };
        if idle_for.is_zero() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= IDLE_MAX {
            return;
        }
        let connections = idle.origins.entry(origin).or_default();
        if connections.len() < PER_ORIGIN_MAX {
            connections.push((connection, Instant::now() + idle_for));
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
        // One of HTTP/1.1 was taken out by its request, so the one that failed is not here.
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
        let now = Instant::now();
        idle.origins.retain(|_, connections| {
            connections.retain(|(connection, until)| *until > now && connection.is_usable());
            count += connections.len();
            !connections.is_empty()
        });
        idle.count = count;
    }
}
