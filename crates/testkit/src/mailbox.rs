//! A mail server that keeps what it gets: real SMTP over TCP, without TLS.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailin_embedded::response::{OK, Response};
use mailin_embedded::{Handler, Server, SslConfig};

/// A mail as it arrived.
#[derive(Debug, Clone)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    /// Headers and body.
    pub text: String,
}

/// A running mail server. Its thread ends with the process.
#[derive(Debug, Clone)]
pub struct Mailbox {
    pub address: SocketAddr,
    mails: Arc<Mutex<Vec<Mail>>>,
    refusals: Refusals,
}

/// What an address is answered, and how often; an address may be a sender's.
type Refusals = Arc<Mutex<HashMap<String, (Response, usize)>>>;

fn refusal(refusals: &Refusals, address: &str) -> Option<Response> {
    let mut refusals = refusals.lock().unwrap();
    let (response, times) = refusals.get_mut(address)?;
    *times = times.checked_sub(1)?;
    Some(response.clone())
}

#[derive(Clone)]
struct Keeper {
    mails: Arc<Mutex<Vec<Mail>>>,
    refusals: Refusals,
    from: String,
    to: Vec<String>,
    data: Vec<u8>,
}

impl Handler for Keeper {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        self.from = from.to_owned();
        self.to.clear();
        refusal(&self.refusals, from).unwrap_or(OK)
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if let Some(response) = refusal(&self.refusals, to) {
            return response;
        }
        self.to.push(to.to_owned());
        OK
    }

    fn data(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned();
        self.mails.lock().unwrap().push(Mail {
            from: self.from.clone(),
            to: self.to.clone(),
            text,
        });
        OK
    }
}

impl Mailbox {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let refusals = Refusals::default();
        let mut server = Server::new(Keeper {
            mails: mails.clone(),
            refusals: Arc::clone(&refusals),
            from: String::new(),
            to: Vec::new(),
            data: Vec::new(),
        });
        server.with_name("mailbox.test").with_num_threads(2);
        server.with_ssl(SslConfig::None).unwrap();
        server.with_tcp_listener(listener);
        std::thread::spawn(move || drop(server.serve()));
        Self {
            address,
            mails,
            refusals,
        }
    }

    /// From now on there is no such recipient.
    pub fn refuse(&self, address: &str) {
        self.answer(address, 550, usize::MAX);
    }

    /// The next `times` that this recipient or sender is named, the answer is `code`.
    pub fn answer(&self, address: &str, code: u16, times: usize) {
        let response = Response::custom(code, "as the test says".to_owned());
        let mut refusals = self.refusals.lock().unwrap();
        refusals.insert(address.to_owned(), (response, times));
    }

    /// How often the answer given to [`Mailbox::answer`] is still to come.
    pub fn answers_left(&self, address: &str) -> usize {
        self.refusals.lock().unwrap()[address].1
    }

    /// Waits until the answer given to [`Mailbox::answer`] has been given as often as it said.
    pub async fn answered(&self, address: &str) {
        for _ in 0..1_200 {
            if self.answers_left(address) == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} answers are left", self.answers_left(address));
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    /// Waits until `count` mails have arrived.
    pub async fn wait_for(&self, count: usize) -> Vec<Mail> {
        for _ in 0..600 {
            let mails = self.mails();
            if mails.len() >= count {
                return mails;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} of {count} mails arrived", self.mails().len());
    }
}
