//! Moving here from Svix: applications, endpoints with their secrets, and event types, from a running server's API to
//! this one's.
//!
//! What has no uid there gets its old id as its uid here: a product that stored Svix's ids goes on with them. All of it
//! can be done again, and then changes what is different.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http::{Method, StatusCode};
use postrider_core::Secret;
use serde_json::{Map, Value, json};

use super::{Connection, with_query};
use crate::client::{Answer, Client};
use crate::output;

/// Rows of a page.
const PAGE_ROWS: usize = 100;
/// Waits between tries where the other server has too much to do: half a minute in all.
const PAUSES_SECS: [u64; 5] = [1, 2, 4, 8, 16];
/// Where Svix's API is, here as there.
const BASE: &str = "/api/v1";

#[derive(Debug, Args)]
pub struct ImportSvixArgs {
    /// The URL of the Svix server, where its SDKs go
    #[arg(long, value_name = "URL")]
    from: String,
    /// Its token, which may read everything
    #[arg(long, value_name = "TOKEN", env = "SVIX_TOKEN", hide_env_values = true)]
    token: String,
    #[command(flatten)]
    connection: Connection,
}

/// Brings everything over, and tells what could not be.
///
/// # Errors
/// When a server cannot be reached or refuses to be read, or something could not be brought over.
pub async fn import_svix(args: ImportSvixArgs) -> anyhow::Result<()> {
    let from = Client::new(&args.from, Secret::new(args.token)).context("--from")?;
    let mut import = Import {
        from,
        to: args.connection.client()?,
        told: 0,
    };
    let types = import.event_types().await?;
    let (mut applications, mut endpoints) = (0, 0);
    let mut pages = Pages::new(format!("{BASE}/app"));
    while let Some(page) = pages.next(&import.from).await? {
        for application in page {
            let Some(uid) = import.application(&application).await? else {
                continue;
            };
            applications += 1;
            endpoints += import.endpoints(&application, &uid).await?;
        }
    }
    output::tell(&format!(
        "{types} event types, {applications} applications and {endpoints} endpoints are here, with the secrets that they had."
    ));
    match import.told {
        0 => Ok(()),
        told => bail!(
            "{told} things above need a look; what was brought over stays, and the command can be run again"
        ),
    }
}

struct Import {
    from: Client,
    to: Client,
    /// How often something had to be told.
    told: usize,
}

/// A list of Svix's, page by page.
struct Pages {
    path: String,
    extra: Vec<(&'static str, String)>,
    iterator: Option<String>,
    done: bool,
}

impl Pages {
    fn new(path: String) -> Self {
        Self {
            path,
            extra: Vec::new(),
            iterator: None,
            done: false,
        }
    }

    async fn next(&mut self, client: &Client) -> anyhow::Result<Option<Vec<Value>>> {
        if self.done {
            return Ok(None);
        }
        let mut query = self.extra.clone();
        query.push(("limit", PAGE_ROWS.to_string()));
        query.extend(self.iterator.clone().map(|iterator| ("iterator", iterator)));
        let path = with_query(&self.path, query);
        let Answer { status, body: page } = read(client, &path).await?;
        if !status.is_success() {
            bail!(
                "{path}: the other server refuses ({status}): {}",
                why(&page)
            );
        }
        let Some(data) = page["data"].as_array() else {
            bail!(
                "{} does not answer as Svix does; is --from the URL of a Svix server?",
                self.path
            );
        };
        let before = self.iterator.take();
        self.iterator = page["iterator"].as_str().map(str::to_owned);
        self.done = page["done"].as_bool().unwrap_or(true);
        if !self.done && (self.iterator.is_none() || self.iterator == before) {
            bail!(
                "{path}: the other server says that there is more, and not where; what it gave so far is here, the rest is not"
            );
        }
        Ok(Some(data.clone()))
    }
}

/// Asks the other server, and again a little later where it has no time for more.
async fn read(from: &Client, path: &str) -> anyhow::Result<Answer> {
    for pause in PAUSES_SECS {
        let answer = from.ask(Method::GET, path, None).await?;
        let is_busy = matches!(
            answer.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if !is_busy {
            return Ok(answer);
        }
        tokio::time::sleep(Duration::from_secs(pause)).await;
    }
    from.ask(Method::GET, path, None).await
}

/// The members of `of` that have a value.
fn members(of: &Value, names: &[&str]) -> Map<String, Value> {
    let member = |name: &&str| {
        let value = of.get(*name).filter(|value| !value.is_null())?;
        Some(((*name).to_owned(), value.clone()))
    };
    names.iter().filter_map(member).collect()
}

fn text<'v>(of: &'v Value, name: &str) -> &'v str {
    of[name].as_str().unwrap_or_default()
}

/// What something is called here: by its own uid, or by the id that it had.
fn uid_of(thing: &Value) -> &str {
    thing["uid"].as_str().unwrap_or_else(|| text(thing, "id"))
}

/// The path of something there or here, each part by itself.
///
/// # Errors
/// When a part is a step up or none: joined to the base it would be another place.
fn path(parts: &[&str]) -> anyhow::Result<String> {
    let mut path = BASE.to_owned();
    for part in parts {
        if part.chars().all(|c| c == '.') {
            bail!(
                "the other server calls something {part:?}, which no path can have; rename it there"
            );
        }
        path.push('/');
        path.extend(url::form_urlencoded::byte_serialize(part.as_bytes()));
    }
    Ok(path)
}

impl Import {
    fn tell(&mut self, what: &str) {
        self.told += 1;
        output::tell(what);
    }

    /// Writes something here; false when it was refused, which is told. A server that is not there ends the import.
    async fn write(
        &mut self,
        method: Method,
        path: &str,
        body: Value,
        what: &str,
    ) -> anyhow::Result<bool> {
        let Answer { status, body } = self.to.ask(method, path, Some(body.to_string())).await?;
        if status.is_success() {
            return Ok(true);
        }
        // All that follows would be refused too.
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            bail!(
                "this server does not take the key ({status}): {}. It has to be the key of an application with the profile svix",
                why(&body)
            );
        }
        self.tell(&format!(
            "{what}: not brought over ({status}): {}",
            why(&body)
        ));
        Ok(false)
    }

    async fn event_types(&mut self) -> anyhow::Result<usize> {
        let mut pages = Pages::new(format!("{BASE}/event-type"));
        let all = |name| (name, "true".to_owned());
        pages.extra = vec![all("include_archived"), all("with_content")];
        let mut count = 0;
        while let Some(page) = pages.next(&self.from).await? {
            for event_type in page {
                let name = text(&event_type, "name").to_owned();
                let known = [
                    "description",
                    "archived",
                    "deprecated",
                    "schemas",
                    "featureFlags",
                    "featureFlag",
                    "groupName",
                ];
                let body: Value = members(&event_type, &known).into();
                let what = format!("event type {name}");
                let flags = body["featureFlags"].as_array();
                if flags.is_some_and(|flags| !flags.is_empty()) || body["featureFlag"].is_string() {
                    self.tell(&format!(
                        "{what}: its feature flags are kept, and hide nothing here: every customer sees it"
                    ));
                }
                let path = path(&["event-type", &name])?;
                count += usize::from(self.write(Method::PUT, &path, body, &what).await?);
            }
        }
        Ok(count)
    }

    /// Brings an application over; its uid here, or none where it was refused.
    async fn application(&mut self, application: &Value) -> anyhow::Result<Option<String>> {
        let uid = uid_of(application).to_owned();
        let mut body = members(application, &["name", "metadata"]);
        body.insert("uid".to_owned(), json!(uid));
        let what = format!("application {uid}");
        if !application["rateLimit"].is_null() || !application["throttleRate"].is_null() {
            self.tell(&format!(
                "{what}: its rate limit is not held here for all its endpoints together; give each one of its own"
            ));
        }
        let one = path(&["app", &uid])?;
        let written = self.write(Method::PUT, &one, body.into(), &what);
        Ok(written.await?.then_some(uid))
    }

    async fn endpoints(&mut self, application: &Value, uid: &str) -> anyhow::Result<usize> {
        let there = text(application, "id");
        let mut pages = Pages::new(path(&["app", there, "endpoint"])?);
        let mut count = 0;
        while let Some(page) = pages.next(&self.from).await? {
            for endpoint in page {
                count += usize::from(self.endpoint(&endpoint, there, uid).await?);
            }
        }
        Ok(count)
    }

    async fn endpoint(&mut self, endpoint: &Value, there: &str, app: &str) -> anyhow::Result<bool> {
        let uid = uid_of(endpoint);
        let what = format!("endpoint {uid} of {app}");
        let id = text(endpoint, "id");
        let of = |part| path(&["app", there, "endpoint", id, part]);
        let secret = read(&self.from, &of("secret")?).await?;
        let headers = read(&self.from, &of("headers")?).await?;
        // A server without them has no such operation.
        let transformation = read(&self.from, &of("transformation")?).await?;
        let key = secret.body["key"].as_str();
        // With another secret its receiver would refuse everything that comes from here.
        let (Some(secret), true) = (key.map(|key| json!(key)), headers.status.is_success()) else {
            let (secret, headers) = (secret.status, headers.status);
            self.tell(&format!(
                "{what}: not brought over: its secret ({secret}) or its headers ({headers}) could not be read"
            ));
            return Ok(false);
        };
        let headers = headers.body;
        let known = ["url", "description", "disabled", "channels", "metadata"];
        let mut body = members(endpoint, &known);
        let either = |one: &str, other: &str| {
            let found = [one, other].into_iter().map(|name| &endpoint[name]);
            found.into_iter().find(|value| !value.is_null()).cloned()
        };
        for (name, value) in [
            ("filterTypes", either("filterTypes", "eventTypes")),
            ("rateLimit", either("rateLimit", "throttleRate")),
        ] {
            body.extend(value.map(|value| (name.to_owned(), value)));
        }
        body.insert("uid".to_owned(), json!(uid));
        let one = path(&["app", app, "endpoint", uid])?;
        let here = self.to.ask(Method::GET, &one, None).await?;
        let written = if here.status == StatusCode::NOT_FOUND {
            body.insert("secret".to_owned(), secret);
            let all = path(&["app", app, "endpoint"])?;
            self.write(Method::POST, &all, body.into(), &what).await?
        } else {
            // A PUT leaves the secret as it is.
            let same = json!({ "secret": secret });
            self.write(Method::PUT, &one, body.into(), &what).await?
                && self.write(Method::PATCH, &one, same, &what).await?
        };
        if !written {
            return Ok(false);
        }
        let knows_none = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        if !transformation.status.is_success() && !knows_none.contains(&transformation.status) {
            self.tell(&format!(
                "{what}: whether it has a transformation could not be read ({}): it gets every payload as it was published",
                transformation.status
            ));
        }
        if transformation.body["enabled"] == json!(true) {
            self.tell(&format!(
                "{what}: its transformation is not brought over: it gets every payload as it was published"
            ));
        }
        self.headers(&headers, app, uid, &what).await?;
        Ok(true)
    }

    /// Brings those over whose values are shown, and tells of the others.
    async fn headers(
        &mut self,
        headers: &Value,
        app: &str,
        uid: &str,
        what: &str,
    ) -> anyhow::Result<()> {
        let of_headers = path(&["app", app, "endpoint", uid, "headers"])?;
        let shown = json!({ "headers": headers["headers"] });
        if headers["headers"]
            .as_object()
            .is_some_and(|all| !all.is_empty())
        {
            self.write(Method::PATCH, &of_headers, shown, what).await?;
        }
        let hidden = headers["sensitive"].as_array();
        let hidden: Vec<&str> = hidden
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if !hidden.is_empty() {
            self.tell(&format!(
                "{what}: its headers {} have values that nobody is shown; set them again",
                hidden.join(", ")
            ));
        }
        Ok(())
    }
}

/// What a refusal says.
fn why(body: &Value) -> String {
    match &body["detail"] {
        Value::String(detail) => detail.clone(),
        Value::Array(places) => {
            let place = |place: &Value| {
                let at = place["loc"].as_array();
                let at: Vec<&str> = at.into_iter().flatten().filter_map(Value::as_str).collect();
                format!("{} {}", at.join("."), text(place, "msg"))
            };
            places.iter().map(place).collect::<Vec<_>>().join("; ")
        }
        _ => "without a reason".to_owned(),
    }
}
