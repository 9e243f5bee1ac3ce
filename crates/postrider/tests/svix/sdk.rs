//! Svix's SDK for Rust against a running server: the story of one customer. With the file of a request that a receiver
//! got, it verifies that instead.

use std::collections::BTreeSet;
use std::time::Duration;

use svix::api::{Svix, SvixOptions};
use svix::error::Error;
use svix::models::{AppPortalAccessIn, ApplicationIn, EndpointIn, EventTypeIn, MessageIn};
use svix::webhooks::Webhook;

fn of(name: &str) -> String {
    std::env::var(name).unwrap()
}

fn status(refused: Error) -> u16 {
    match refused {
        Error::Http(content) => content.status.as_u16(),
        Error::Validation(content) => content.status.as_u16(),
        other => panic!("{other}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Some(file) = std::env::args().nth(1) {
        return verify(&file);
    }
    let options = || SvixOptions {
        server_url: Some(of("SVIX_SERVER")),
        ..SvixOptions::default()
    };
    let svix = Svix::new(of("SVIX_TOKEN"), Some(options()));
    let crab = || "crab".to_owned();
    let new = || ApplicationIn {
        uid: Some(crab()),
        ..ApplicationIn::new("Rust".to_owned())
    };
    let app = svix.application().create(new(), None).await.unwrap();
    assert_eq!(svix.application().get_or_create(new(), None).await.unwrap().id, app.id);
    let twice = svix.application().create(new(), None).await;
    assert_eq!(status(twice.unwrap_err()), 409);

    let signup = "user.signup".to_owned();
    let kind = EventTypeIn::new(signup.clone(), "Somebody signed up".to_owned());
    svix.event_type().create(kind, None).await.unwrap();
    let hook = EndpointIn {
        uid: Some("hook".to_owned()),
        event_types: Some(BTreeSet::from([signup.clone()])),
        ..EndpointIn::new(of("RECEIVER"))
    };
    let endpoint = svix.endpoint().create(crab(), hook, None).await.unwrap();
    assert_eq!(endpoint.event_types.unwrap().len(), 1);
    let secret = svix.endpoint().get_secret(crab(), "hook".to_owned()).await.unwrap();

    let message = MessageIn::new(signup, serde_json::json!({ "n": 1 }));
    let message = svix.message().create(crab(), message, None).await.unwrap();
    let mut tries = 0;
    let attempt = loop {
        let attempts = svix.message_attempt();
        let found = attempts.list_by_msg(crab(), message.id.clone(), None).await.unwrap();
        if let Some(attempt) = found.data.into_iter().next() {
            break attempt;
        }
        assert!(tries < 600, "it is sent");
        tries += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(attempt.response_status_code, 200);
    assert_eq!(attempt.endpoint_id, endpoint.id);

    let access = AppPortalAccessIn::default();
    let access = svix.authentication().app_portal_access(crab(), access, None).await.unwrap();
    let customer = Svix::new(access.token, Some(options()));
    assert_eq!(customer.endpoint().list(crab(), None).await.unwrap().data.len(), 1);

    let nobody = svix.endpoint().get(crab(), "ep_nobody".to_owned()).await;
    assert_eq!(status(nobody.unwrap_err()), 404);
    svix.application().delete(crab()).await.unwrap();
    println!("{}", secret.key);
}

/// A line for the secret, one for each header, an empty one, and the body.
fn verify(file: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let (head, body) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    let webhook = Webhook::new(lines.next().unwrap()).unwrap();
    let headers: http::HeaderMap = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            let name: http::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        })
        .collect();
    webhook.verify(body.as_bytes(), &headers).unwrap();
    let other = format!("{body} ");
    assert!(webhook.verify(other.as_bytes(), &headers).is_err(), "another body is refused");
}
