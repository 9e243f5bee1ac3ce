//! From a URL to a connection: resolve, vet, connect, tunnel, TLS, HTTP handshake.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use postrider_core::address::AddressPolicy;
use postrider_core::attempt::{Timings, UnreachableReason};
use postrider_engine::{Clock, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::driver::Driver;
use crate::failure::Failure;
use crate::pool::{Connection, Link, Origin};
use crate::{Options, Region, Resolve, ResolveError, SetupError, tls};

/// Bytes of response headers, read into memory before they are looked at.
const HEADER_BYTES_MAX: usize = 64 * 1_024;
/// Headers in a response.
const HEADERS_MAX: usize = 1_024;
const PROXY_ANSWER_BYTES_MAX: usize = 4 * 1_024;
/// Time for a connection to the proxy, which is near: the rest of what connecting may take is the receiver's.
const PROXY_CONNECT: Duration = Duration::from_secs(3);
/// 407, RFC 9110 15.5.8.
const PROXY_WANTS_LOGIN: &str = "407";
/// Time for one of several addresses before the next is tried.
const ADDRESS_SHARE_MIN: Duration = Duration::from_millis(250);

pub(crate) struct Connector {
    addresses: AddressPolicy,
    resolver: Arc<dyn Resolve>,
    tls: RwLock<TlsConnector>,
    regions: Vec<Region>,
    default_region: Option<Arc<str>>,
    /// Takes the addresses of a region in turn.
    turn: AtomicUsize,
    proxy: Option<Url>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({:?})", self.addresses)
    }
}

impl Connector {
    pub(crate) fn new(options: Options) -> Result<Self, SetupError> {
        for address in options.regions.iter().flat_map(|region| &region.bind) {
            // Found out now, not at the first delivery.
            // UDP: it sends nothing and takes no port from the connections.
            std::net::UdpSocket::bind((*address, 0)).map_err(|source| SetupError::Bind {
                address: *address,
                source,
            })?;
        }
        if options
            .proxy
            .as_ref()
            .is_some_and(|proxy| proxy.scheme() != "http" || proxy.host().is_none())
        {
            return Err(SetupError::Proxy);
        }
        if options.proxy.is_some() && options.regions.iter().any(|region| !region.bind.is_empty()) {
            return Err(SetupError::ProxyAndAddresses);
        }
        Ok(Self {
            addresses: options.addresses,
            resolver: options.resolver,
            tls: RwLock::new(tls_connector(options.extra_ca.as_deref())?),
            regions: options.regions,
            default_region: options.default_region,
            turn: AtomicUsize::new(0),
            proxy: options.proxy,
            clock: options.clock,
        })
    }

    /// New connections trust the authorities that the file holds now.
    pub(crate) fn reload_certificates(&self, extra_ca: Option<&Path>) -> Result<(), SetupError> {
        let fresh = tls_connector(extra_ca)?;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Seconds since 1970.
    pub(crate) fn unix_now(&self) -> i64 {
        self.clock.now().as_unix()
    }

    /// The region that a request leaves from.
    pub(crate) fn region<'r>(&'r self, request: &'r Request) -> Option<&'r Arc<str>> {
        request.region.as_ref().or(self.default_region.as_ref())
    }

    /// The local addresses of a region; none means any.
    fn local_addresses(&self, name: Option<&Arc<str>>) -> Result<&[IpAddr], Failure> {
        let found = self
            .regions
            .iter()
            .find(|region| region.name.as_ref() == name);
        match (found, name) {
            (Some(region), _) => Ok(&region.bind),
            (None, None) => Ok(&[]),
            // The delivery waits for the operator: from another address its receiver does not expect it.
            (None, Some(name)) => Err(Failure::new(
                UnreachableReason::Local,
                format!("the egress region {name} is not configured on this server"),
            )),
        }
    }

    /// Opens a connection to the origin of `url`.
    pub(crate) async fn open(
        &self,
        url: &Url,
        origin: &Origin,
        timings: &mut Timings,
    ) -> Result<Connection, Failure> {
        let started = now();
        // Here with a proxy as well: it is given an address that was looked at, and never a name.
        let addresses = self.vetted(url).await?;
        timings.dns_micros = Some(micros(started));
        let started = now();
        let local = self.local_addresses(origin.region.as_ref())?;
        let stream = match &self.proxy {
            None => {
                first_of(&addresses, |address| {
                    self.connect(SocketAddr::new(address, origin.port), local)
                })
                .await?
            }
            Some(proxy) => {
                first_of(&addresses, |address| {
                    self.tunnel(proxy, SocketAddr::new(address, origin.port))
                })
                .await?
            }
        };
        timings.connect_micros = Some(micros(started));
        // Small writes leave at once; without it a signature may wait for an acknowledgement.
        stream
            .set_nodelay(true)
            .map_err(|error| Failure::connect(&error))?;
        let local = stream
            .local_addr()
            .map_err(|error| Failure::connect(&error))?
            .ip();
        if !origin.https {
            let (link, driver) = handshake(stream, false, origin.title_case).await?;
            return Ok(Connection::new(link, driver, local));
        }
        let started = now();
        let name = ServerName::try_from(origin.host.clone()).map_err(|_| {
            Failure::new(
                UnreachableReason::Tls,
                "the host is not a name that a certificate can carry",
            )
        })?;
        // A copy, so that the lock is not held while the network is waited for.
        let tls = self
            .tls
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|error| Failure::tls(&error))?;
        timings.tls_micros = Some(micros(started));
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (link, driver) = handshake(stream, h2, origin.title_case).await?;
        Ok(Connection::new(link, driver, local))
    }

    /// The addresses of the URL's host that may be connected to.
    async fn vetted(&self, url: &Url) -> Result<Vec<IpAddr>, Failure> {
        let found = match url.host() {
            // An address in the URL never reaches a resolver, so it is checked here like the others.
            Some(url::Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(url::Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            Some(url::Host::Domain(name)) => {
                // With a dot at the end, so that no search domain is tried before the name itself.
                let name = name.trim_end_matches('.');
                let name = if name.contains('.') {
                    format!("{name}.")
                } else {
                    // One without a dot, such as `localhost`, is a matter of the hosts file and the search
                    // domains.
                    name.to_owned()
                };
                let resolved = self.resolver.resolve(&name).await;
                match resolved {
                    Ok(found) => found,
                    Err(error) => {
                        tracing::debug!(
                            host = name,
                            error = &error as &dyn std::error::Error,
                            "a name was not resolved"
                        );
                        return Err(match error {
                            ResolveError::Unknown(_) => no_address(),
                            ResolveError::Unasked(_) => {
                                Failure::new(UnreachableReason::Local, error.to_string())
                            }
                        });
                    }
                }
            }
            None => {
                return Err(Failure::new(
                    UnreachableReason::Internal,
                    "the URL has no host",
                ));
            }
        };
        // Once more: the operator may have changed the ports since the URL was written.
        let port = url.port_or_known_default().unwrap_or(0);
        self.addresses.check_port(port).map_err(|error| {
            Failure::new(UnreachableReason::AddressForbidden, error.to_string())
        })?;
        let mut forbidden = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match self.addresses.check(address) {
                Ok(()) => allowed.push(address),
                Err(error) => forbidden = Some(error),
            }
        }
        match (allowed.is_empty(), forbidden) {
            // One that may be reached is enough, since no other is connected to.
            (false, _) => Ok(allowed),
            // Whoever wrote the address knows it already.
            (true, Some(error)) if url.domain().is_none() => Err(Failure::new(
                UnreachableReason::AddressForbidden,
                error.to_string(),
            )),
            (true, Some(error)) => {
                // What names of this network mean is not for tenants to find out.
                tracing::warn!(host = url.host_str(), %error, "a delivery's host may not be connected to");
                Err(no_address())
            }
            (true, None) => Err(no_address()),
        }
    }

    async fn connect(&self, address: SocketAddr, local: &[IpAddr]) -> Result<TcpStream, Failure> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        };
        // Without file handles or ports the fault is ours, not the receiver's.
        let own = |error: std::io::Error| Failure::new(UnreachableReason::Local, error.to_string());
        let socket = socket.map_err(|error| {
            if is_unsupported(&error) {
                Failure::connect(&error)
            } else {
                own(error)
            }
        })?;
        if !local.is_empty() {
            let of_family = |local: &&IpAddr| local.is_ipv4() == address.is_ipv4();
            let count = local.iter().filter(of_family).count();
            // Receivers allow our published addresses only: rather none than another one.
            // Without an address of the family there is no turn either, and `nth` finds none.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % count.max(1);
            let chosen = local.iter().filter(of_family).nth(turn).ok_or_else(|| {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                let detail = format!("no {family} address is configured to leave from");
                Failure::new(UnreachableReason::Connect, detail)
            })?;
            let bound = socket.bind(SocketAddr::new(*chosen, 0));
            bound.map_err(own)?;
        }
        socket.connect(address).await.map_err(|error| {
            // No port is left to leave from. Of IPv6 it says as well that this machine has none, which no waiting
            // mends: that is told as a failure to reach the receiver.
            if error.kind() == std::io::ErrorKind::AddrNotAvailable && address.is_ipv4() {
                own(error)
            } else {
                Failure::connect(&error)
            }
        })
    }

    /// Asks the proxy for a tunnel to an address that was vetted.
    async fn tunnel(&self, proxy: &Url, target: SocketAddr) -> Result<TcpStream, Failure> {
        let refused = |detail: String| {
            Failure::new(UnreachableReason::Connect, format!("the proxy {detail}"))
        };
        let host = proxy
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']']);
        let port = proxy.port().unwrap_or(80);
        // The proxy is the operator's own: its address needs no vetting, and that it is not there is no receiver's fault.
        let ours =
            |detail: String| Failure::new(UnreachableReason::Local, format!("the proxy {detail}"));
        let connecting =
            tokio::time::timeout(PROXY_CONNECT, TcpStream::connect((host, port))).await;
        let mut stream = connecting
            .map_err(|_| {
                ours(format!(
                    "gave no connection within {} s",
                    PROXY_CONNECT.as_secs()
                ))
            })?
            .map_err(|error| ours(format!("is unreachable: {error}")))?;
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if !proxy.username().is_empty() {
            // In a URL they are percent-encoded; the proxy knows them as they are.
            let plain = |text| percent_decode_str(text).collect::<Vec<u8>>();
            let mut pair = plain(proxy.username());
            pair.push(b':');
            pair.extend(plain(proxy.password().unwrap_or_default()));
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|error| refused(error.to_string()))?;
        let mut answer = Vec::new();
        // Byte by byte: what comes behind the answer is the receiver's, and stays in the stream.
        while !answer.ends_with(b"\r\n\r\n") {
            let byte = stream
                .read_u8()
                .await
                .map_err(|error| refused(format!("closed the connection: {error}")))?;
            answer.push(byte);
            if answer.len() > PROXY_ANSWER_BYTES_MAX {
                return Err(refused("answered too much".to_owned()));
            }
        }
        let line = String::from_utf8_lossy(&answer);
        let status = line.split(' ').nth(1).unwrap_or_default();
        // RFC 9110 9.3.6: any 2xx.
        if status.len() == 3 && status.starts_with('2') {
            Ok(stream)
        } else if status == PROXY_WANTS_LOGIN {
            // It would say that of every receiver.
            Err(ours(format!(
                "answered {status}: it does not take the login of egress.proxy"
            )))
        } else {
            Err(refused(format!("answered {status}")))
        }
    }
}

fn tls_connector(extra_ca: Option<&Path>) -> Result<TlsConnector, SetupError> {
    tls::client_config(extra_ca).map(TlsConnector::from)
}

/// One sentence for a name without addresses and for one whose addresses are forbidden.
fn no_address() -> Failure {
    Failure::new(
        UnreachableReason::Dns,
        "the name has no address that deliveries can go to",
    )
}

/// Tries the addresses one after the other; none but the last may take long.
async fn first_of<F>(
    addresses: &[IpAddr],
    connect: impl Fn(IpAddr) -> F,
) -> Result<TcpStream, Failure>
where
    F: Future<Output = Result<TcpStream, Failure>>,
{
    // `vetted` gives one address at least, so this is never told.
    let mut last = Failure::new(UnreachableReason::Connect, "no address");
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let share = ADDRESS_SHARE_MIN.max(Duration::from_secs(2) / count);
    for (index, address) in addresses.iter().enumerate() {
        let connecting = connect(*address);
        let result = if index + 1 == addresses.len() {
            connecting.await
        } else {
            tokio::time::timeout(share, connecting)
                .await
                .unwrap_or_else(|_| {
                    let detail = "no answer from this address";
                    Err(Failure::new(UnreachableReason::Connect, detail))
                })
        };
        match result {
            Ok(stream) => return Ok(stream),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn handshake<S>(stream: S, h2: bool, title_case: bool) -> Result<(Link, Driver), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let driver = Driver::default();
    if h2 {
        let (sender, connection) = http2::Builder::new(driver.parts())
            .max_header_list_size(HEADER_BYTES_MAX as u32)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::http(&error))?;
        driver.drive(connection);
        return Ok((Link::Http2(sender), driver));
    }
    let mut builder = http1::Builder::new();
    // The status counts: what is odd about the headers does not make it a failure.
    builder
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .title_case_headers(title_case);
    let (sender, connection) = builder
        .handshake::<_, Full<Bytes>>(TokioIo::new(driver.listening(stream)))
        .await
        .map_err(|error| Failure::http(&error))?;
    driver.drive(connection);
    Ok((Link::Http1(sender), driver))
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}

/// Whether this machine does not know addresses of that family at all: no waiting mends that.
#[cfg(unix)]
fn is_unsupported(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

#[cfg(not(unix))]
fn is_unsupported(_: &std::io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Of three the first two have two thirds of a second; of twenty each has a quarter, and the last what is left.
    #[tokio::test(start_paused = true)]
    async fn each_of_several_addresses_has_its_share_of_the_time() {
        for (count, share) in [(3_u8, 2_000 / 3), (20, 250)] {
            let addresses: Vec<IpAddr> = (1..=count).map(|n| [10, 0, 0, n].into()).collect();
            let (began, tried) = (Instant::now(), Mutex::new(Vec::new()));
            let hang = |_| {
                tried.lock().unwrap().push(began.elapsed().as_millis());
                std::future::pending()
            };
            let all = first_of(&addresses, hang);
            assert!(
                tokio::time::timeout(Duration::from_secs(60), all)
                    .await
                    .is_err()
            );
            let tried = tried.into_inner().unwrap();
            assert_eq!(tried.len(), usize::from(count));
            for pair in tried.windows(2) {
                // The timer has whole milliseconds.
                assert!(
                    (share..share + 3).contains(&(pair[1] - pair[0])),
                    "{tried:?}"
                );
            }
        }
    }
}
