//! A mail server that keeps what it gets: real SMTP over TCP, without TLS.

use std::collections::HashSet;
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
    refused: Arc<Mutex<HashSet<String>>>,
}

#[derive(Clone)]
struct Keeper {
    mails: Arc<Mutex<Vec<Mail>>>,
    refused: Arc<Mutex<HashSet<String>>>,
    from: String,
    to: Vec<String>,
    data: Vec<u8>,
}

impl Handler for Keeper {
    fn mail(&mut self, _: IpAddr, _: &str, from: &str) -> Response {
        self.from = from.to_owned();
        self.to.clear();
        OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        if self.refused.lock().unwrap().contains(to) {
            return Response::custom(550, "no such user".to_owned());
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
        let refused = Arc::default();
        let mut server = Server::new(Keeper {
            mails: mails.clone(),
            refused: Arc::clone(&refused),
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
            refused,
        }
    }

    /// From now on there is no such recipient.
    pub fn refuse(&self, address: &str) {
        self.refused.lock().unwrap().insert(address.to_owned());
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
