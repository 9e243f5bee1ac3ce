//! A receiver that behaves as its script says: slow, hanging, resetting, endless, redirecting.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers with this status and a small body.
    Status(u16),
    /// Answers with this status and this body.
    Body(u16, String),
    /// Answers with this status and this header.
    StatusWith(u16, &'static str, String),
    /// Waits, then answers.
    SlowStatus(Duration, u16),
    /// Never answers.
    Hang,
    /// Resets the connection after the request was read.
    Reset,
    /// Says it sends 100 bytes, sends 5 and closes.
    CutBody,
    /// Sends headers and then a body without end.
    EndlessBody,
    /// Sends headers and then nothing more.
    StalledBody,
    /// Sends bytes that are not HTTP.
    Garbage,
    /// Sends headers without end.
    EndlessHeaders,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: HashMap<String, String>,
    pub body: Bytes,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub version: http::Version,
    pub at: std::time::Instant,
}

impl Request {
    /// As it stands on the wire, the body after the headers: what `postrider verify` reads.
    pub fn saved(&self) -> Vec<u8> {
        let mut saved = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            saved.push_str(&format!("{name}: {value}\r\n"));
        }
        saved.push_str("\r\n");
        let mut saved = saved.into_bytes();
        saved.extend_from_slice(&self.body);
        saved
    }
}

#[derive(Debug)]
struct Shared {
    requests: Mutex<Vec<Request>>,
    changed: watch::Sender<usize>,
    script: Mutex<Vec<Behaviour>>,
    default: Mutex<Behaviour>,
    stop: Notify,
}

/// A running receiver; it stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// A plain HTTP receiver that does `behaviour` with every request.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::with_tls(behaviour, None).await
    }

    pub async fn with_tls(behaviour: Behaviour, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            changed: watch::Sender::new(0),
            script: Mutex::default(),
            default: Mutex::new(behaviour),
            stop: Notify::new(),
        });
        let serving = shared.clone();
        let acceptor = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(async move {
            let mut connection = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, acceptor) = (serving.clone(), acceptor.clone());
                let number = connection;
                connection += 1;
                tokio::spawn(async move {
                    match acceptor {
                        None => plain(stream, &shared, number).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else {
                                return;
                            };
                            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                                http2(stream, shared, number).await;
                            } else {
                                plain(stream, &shared, number).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            shared,
            task,
        }
    }

    /// What to do with the next requests, before the default.
    pub fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        let mut script = self.shared.script.lock().unwrap();
        script.extend(behaviours);
    }

    /// What to do from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.default.lock().unwrap() = behaviour;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until `count` requests have arrived.
    ///
    /// # Panics
    /// After 30 seconds.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        let mut changed = self.shared.changed.subscribe();
        let reached = tokio::time::timeout(
            Duration::from_secs(30),
            changed.wait_for(|seen| *seen >= count),
        )
        .await;
        assert!(
            reached.is_ok(),
            "{} of {count} requests arrived",
            self.requests().len()
        );
        self.requests()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Shared {
    fn note(&self, request: Request) -> Behaviour {
        let count = {
            let mut requests = self.requests.lock().unwrap();
            requests.push(request);
            requests.len()
        };
        self.changed.send_replace(count);
        let mut script = self.script.lock().unwrap();
        if script.is_empty() {
            self.default.lock().unwrap().clone()
        } else {
            script.remove(0)
        }
    }
}

/// HTTP/1.1 by hand, so that it can be broken in every place.
async fn plain<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut stream: S,
    shared: &Shared,
    connection: usize,
) {
    let mut buffer = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer, connection).await else {
            return;
        };
        let behaviour = shared.note(request);
        if !act(&mut stream, shared, behaviour).await {
            return;
        }
    }
}

async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let mut first = lines.next()?.split(' ').map(str::to_owned);
            let (method, target) = (first.next()?, first.next()?);
            let pairs = lines.filter_map(|line| line.split_once(": "));
            let headers: HashMap<String, String> = pairs
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers
                .get("content-length")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            while buffer.len() < end + 4 + length {
                more(stream, buffer).await?;
            }
            let body = Bytes::copy_from_slice(&buffer[end + 4..end + 4 + length]);
            buffer.drain(..end + 4 + length);
            let at = std::time::Instant::now();
            return Some(Request {
                method,
                target,
                headers,
                body,
                connection,
                version: http::Version::HTTP_11,
                at,
            });
        }
        more(stream, buffer).await?;
    }
}

async fn more<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}

/// False when the client is gone.
async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> bool {
    stream.write_all(text.as_bytes()).await.is_ok()
}

/// Does what the script says; false closes the connection.
async fn act<S: AsyncWrite + Unpin>(stream: &mut S, shared: &Shared, behaviour: Behaviour) -> bool {
    let answer = |status: u16, extra: &str| {
        format!("HTTP/1.1 {status} X\r\n{extra}content-length: 2\r\n\r\nok")
    };
    match behaviour {
        Behaviour::Status(status) => send(stream, &answer(status, "")).await,
        Behaviour::Body(status, body) => {
            send(
                stream,
                &format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
            )
            .await
        }
        Behaviour::StatusWith(status, name, value) => {
            send(stream, &answer(status, &format!("{name}: {value}\r\n"))).await
        }
        Behaviour::SlowStatus(wait, status) => {
            tokio::time::sleep(wait).await;
            send(stream, &answer(status, "")).await
        }
        Behaviour::Hang => {
            shared.stop.notified().await;
            false
        }
        Behaviour::Reset => false,
        Behaviour::CutBody => {
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
                    .await,
            );
            false
        }
        Behaviour::EndlessBody => {
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n")
                    .await,
            );
            let block = vec![b'x'; 64 * 1024];
            while stream.write_all(&block).await.is_ok() {}
            false
        }
        Behaviour::StalledBody => {
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort")
                    .await,
            );
            shared.stop.notified().await;
            false
        }
        Behaviour::Garbage => {
            drop(stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n\r\n").await);
            false
        }
        Behaviour::EndlessHeaders => {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\n").await);
            while stream
                .write_all(b"x-more: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
                .await
                .is_ok()
            {}
            false
        }
    }
}

/// HTTP/2 with the statuses of the script.
async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    shared: Arc<Shared>,
    connection: usize,
) {
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let shared = shared.clone();
            async move {
                let (parts, body) = request.into_parts();
                let headers = parts.headers.iter().map(|(n, v)| {
                    (
                        n.to_string(),
                        String::from_utf8_lossy(v.as_bytes()).into_owned(),
                    )
                });
                let noted = Request {
                    method: parts.method.to_string(),
                    target: parts.uri.path().to_owned(),
                    headers: headers.collect(),
                    body: body.collect().await?.to_bytes(),
                    connection,
                    version: parts.version,
                    at: std::time::Instant::now(),
                };
                let status = match shared.note(noted) {
                    Behaviour::Status(status) => status,
                    Behaviour::Hang => std::future::pending().await,
                    other => panic!("{other:?} is not scripted for HTTP/2"),
                };
                Ok::<_, hyper::Error>(
                    http::Response::builder()
                        .status(status)
                        .body(Full::new(Bytes::from_static(b"ok")))
                        .unwrap(),
                )
            }
        });
    drop(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}
