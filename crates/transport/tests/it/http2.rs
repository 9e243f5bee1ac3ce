//! Receivers that speak HTTP/2.

use super::*;

#[tokio::test]
async fn http2_is_used_where_both_speak_it() {
    let authority = Authority::default();
    let tls = authority.server("hooks.example", false, &["h2", "http/1.1"]);
    let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
    let url = format!("https://hooks.example:{}/two", receiver.address.port());
    let transport = trusting(&authority);
    for _ in 0..3 {
        assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    }
    let requests = receiver.wait_for(3).await;
    assert!(
        requests
            .iter()
            .all(|request| request.version == http::Version::HTTP_2 && request.connection == 0)
    );
    assert_eq!(
        (requests[0].target.as_str(), &requests[0].body[..]),
        ("/two", &b"{\"a\":1}"[..])
    );
}

#[tokio::test]
async fn a_full_http2_connection_is_not_given_out() {
    let authority = Authority::default();
    let tls = authority.server("hooks.example", false, &["h2"]);
    let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
    let url = format!("https://hooks.example:{}/", receiver.address.port());
    let transport = Arc::new(trusting(&authority));
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    receiver.behave(Behaviour::Hang);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..101 {
        let (transport, url) = (transport.clone(), url.clone());
        waiting.spawn(async move { transport.send(&to(&url)).await });
    }
    let requests = receiver.wait_for(102).await;
    let on = |number| {
        let first = requests.iter().skip(1);
        first.filter(|request| request.connection == number).count()
    };
    assert_eq!((on(0), on(1)), (100, 1));
    waiting.abort_all();
}

#[tokio::test]
async fn what_http2_refuses_to_process_is_sent_again_at_once() {
    let authority = Authority::default();
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, count) = (tls.clone(), count.clone());
            tokio::spawn(async move {
                let stream = tls.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    // The first two requests there are.
                    if count.fetch_add(1, Ordering::SeqCst) < 2 {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    let answer = http::Response::new(());
                    respond.send_response(answer, true).unwrap();
                }
            });
        }
    });
    let transport = trusting(&authority);
    let url = format!("https://hooks.example:{port}/");
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    assert_eq!(
        refused.load(Ordering::SeqCst),
        3,
        "two refused, one answered"
    );
}

/// The status counts, as it does over HTTP/1.1.
#[tokio::test]
async fn an_answer_with_large_headers_is_one() {
    /// More than hyper takes unless it is told.
    const HEADER_BYTES: usize = 40 * 1_024;
    let authority = Authority::default();
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = tls.accept(stream).await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut answer = http::Response::new(());
            let long = http::HeaderValue::from_str(&"x".repeat(HEADER_BYTES)).unwrap();
            answer.headers_mut().insert("x-large", long);
            respond.send_response(answer, true).unwrap();
        }
    });
    let transport = trusting(&authority);
    let exchange = transport
        .send(&to(&format!("https://hooks.example:{port}/")))
        .await;
    assert_eq!(status(&exchange), Some(200), "{exchange:?}");
}

/// A frame of HTTP/2 (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// How it goes away: the last stream that it has taken, and why.
type GoingAway = (u32, h2::Reason);

/// A receiver of HTTP/2 that writes its frames itself: `answers[n]` for the nth request that it has whole, on whichever
/// connection; none is an answer. Where it goes away it says so, and writes no more on that connection. Tells how many
/// connections and requests there were.
async fn going_receiver(
    authority: &Authority,
    answers: &[Option<GoingAway>],
) -> (String, Arc<[AtomicUsize; 2]>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// The preface of a client (RFC 9113 3.4).
    const PREFACE_BYTES: usize = 24;
    /// `:status: 200` (RFC 7541, appendix A).
    const OK: u8 = 0x88;
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!(
        "https://hooks.example:{}/",
        listener.local_addr().unwrap().port()
    );
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let (counted, answers) = (counts.clone(), Arc::new(answers.to_vec()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted[0].fetch_add(1, Ordering::SeqCst);
            let (tls, counted, answers) = (tls.clone(), counted.clone(), answers.clone());
            tokio::spawn(async move {
                let mut stream = tls.accept(stream).await.unwrap();
                let mut preface = [0; PREFACE_BYTES];
                stream.read_exact(&mut preface).await.unwrap();
                let settings = frame(SETTINGS, 0, 0, &[]);
                stream.write_all(&settings).await.unwrap();
                let mut head = [0; 9];
                // To the end of what the client writes: one that is closed before would be reset.
                while stream.read_exact(&mut head).await.is_ok() {
                    let [length @ .., kind, flags, a, b, c, d] = head;
                    let [high, middle, low] = length;
                    let length = u32::from_be_bytes([0, high, middle, low]);
                    let mut payload = vec![0; length as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    if kind == SETTINGS && flags & ACK == 0 {
                        let heard = frame(SETTINGS, ACK, 0, &[]);
                        stream.write_all(&heard).await.unwrap();
                    }
                    let is_whole = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                    if !is_whole {
                        continue;
                    }
                    let number = counted[1].fetch_add(1, Ordering::SeqCst);
                    match answers.get(number).copied().flatten() {
                        None => {
                            let id = u32::from_be_bytes([a, b, c, d]);
                            let answer = frame(HEADERS, END_HEADERS | END_STREAM, id, &[OK]);
                            stream.write_all(&answer).await.unwrap();
                        }
                        Some((last, why)) => {
                            let [last, why] = [last, why.into()].map(u32::to_be_bytes);
                            let goes = frame(GOAWAY, 0, 0, &[last, why].concat());
                            stream.write_all(&goes).await.unwrap();
                            stream.shutdown().await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (url, counts)
}

#[tokio::test]
async fn what_a_server_that_goes_away_did_not_begin_is_sent_again_and_nothing_else() {
    use h2::Reason;
    let authority = Authority::default();
    let transport = trusting(&authority);
    let seen = |counts: &[AtomicUsize; 2]| {
        let [connections, requests] = counts;
        let now = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (now(connections), now(requests))
    };
    // It ends, in order or not, before it began the request: another connection answers that.
    for why in [
        Reason::NO_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ] {
        let (url, counts) = going_receiver(&authority, &[Some((0, why)), None]).await;
        let exchange = transport.send(&to(&url)).await;
        assert_eq!(status(&exchange), Some(200), "{why:?}: {exchange:?}");
        assert_eq!(seen(&counts), (2, 2));
    }
    // What it has taken it may have processed, however it ends.
    for why in [Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let (url, counts) = going_receiver(&authority, &[Some((1, why))]).await;
        let exchange = transport.send(&to(&url)).await;
        assert_eq!(reason(&exchange), UnreachableReason::Reset, "{exchange:?}");
        assert_eq!(seen(&counts), (1, 1));
    }
    // On a connection that was kept, too.
    let answers = [None, Some((3, Reason::INTERNAL_ERROR))];
    let (url, counts) = going_receiver(&authority, &answers).await;
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    let exchange = transport.send(&to(&url)).await;
    assert_eq!(reason(&exchange), UnreachableReason::Reset, "{exchange:?}");
    assert_eq!(seen(&counts), (1, 2));
}
