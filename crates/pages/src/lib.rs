//! The web pages: a console for whoever runs the product, and a portal for its customers.
//!
//! A door to the service and nothing else, as the API is: read, call, show. Both faces are the same pages, seen
//! by somebody with another scope and under another path; what a visitor may see and do is the service's to say.
//! Every page is whole without a script, and nothing is fetched from elsewhere.

mod application_form;
mod applications;
mod assets;
mod audit;
mod brand;
mod catalogue;
mod catcher;
mod chart;
mod day;
mod deletion;
mod deliveries;
mod delivery;
mod distribution;
mod door;
mod endpoint;
mod endpoint_form;
mod events;
mod failure;
mod fields;
mod frame;
mod key;
mod lane;
mod me;
mod notifications;
mod outcomes;
mod overview;
mod product_keys;
mod profile;
mod receivers;
mod replay;
mod send_outs;
mod settings;
mod shown;
mod statistics;
mod tasks;
mod tenant;
mod users;
mod verify;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{StatusCode, header};
use postrider_service::budget::Budget;
use postrider_service::{ErrorCode, Refusal, Service};

use failure::Failure;
use frame::Face;

/// Bytes of forms in memory, of all requests together.
const FORMS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of requests to catchers that are being read, by share of each tenant.
const CAUGHT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What an operator sets.
#[derive(Debug, Clone, Default)]
pub struct PagesOptions {
    /// Cookies are sent over plain HTTP too: for development. Where the browser asked for this very machine
    /// they always are.
    pub plain_http: bool,
    /// People reach the server over HTTPS, whatever name a proxy in front asks by.
    pub https: bool,
    /// How people reach the server, such as `https://hooks.example.com`; none is as they ask for it.
    pub public_url: Option<String>,
}

/// All pages.
#[derive(Debug, Clone)]
pub struct Pages {
    service: Service,
    options: PagesOptions,
    forms: Arc<Budget>,
    caught: Arc<Budget>,
    /// One canonical form at a time: it may be long work.
    verifying: Arc<tokio::sync::Semaphore>,
}

/// The pages of one face, which every handler works with.
#[derive(Debug, Clone)]
struct Site {
    pages: Pages,
    face: Face,
}

impl Site {
    fn service(&self) -> &Service {
        &self.pages.service
    }
}

impl Pages {
    pub fn new(service: Service, options: PagesOptions) -> Self {
        Self {
            service,
            options,
            forms: Arc::new(Budget::new(FORMS_BYTES_MAX)),
            caught: Arc::new(Budget::new(CAUGHT_BYTES_MAX)),
            verifying: Arc::new(tokio::sync::Semaphore::new(1)),
        }
    }

    /// The console at `/`, the portal at `/portal`.
    pub fn router(&self) -> Router {
        let site = |face| Site {
            pages: self.clone(),
            face,
        };
        let console = common()
            .route("/", get(overview::show))
            .route("/sign-in", get(door::sign_in).post(door::come_in))
            .route("/applications", post(application_form::create))
            .route("/applications/new", get(application_form::new))
            .route("/applications/{id}", get(applications::show))
            .route(
                "/applications/{id}/settings",
                get(application_form::settings).post(application_form::change_settings),
            )
            .route(
                "/applications/{id}/tenants",
                post(application_form::create_tenant),
            )
            .route(
                "/applications/{id}/tenants/new",
                get(application_form::new_tenant),
            )
            .route(
                "/applications/{id}/delete",
                get(deletion::ask_application).post(deletion::delete_application),
            )
            .route(
                "/tenants/{id}/delete",
                get(deletion::ask_tenant).post(deletion::delete_tenant),
            )
            .route(
                "/events/{id}/delete",
                get(deletion::ask_content).post(deletion::delete_content),
            )
            .route("/deletions/{id}", get(deletion::show))
            .route("/deletions/{id}/glance", get(deletion::glance))
            .route("/catch/{code}", any(catcher::catch))
            .route("/keys", get(product_keys::list).post(product_keys::create))
            .route("/system", get(settings::system))
            .route("/tasks", get(tasks::list))
            .route("/notices", get(tasks::notices))
            .route("/users", get(users::list).post(users::create))
            .route("/users/{id}/{act}", post(users::act))
            .route("/me", get(me::show))
            .route("/me/password", post(me::password))
            .route("/me/visits/{id}/end", post(me::end))
            .with_state(site(Face::Console));
        let portal = common()
            .route("/", get(tenant::home))
            .route("/brand.css", get(brand::style))
            .route("/logo", get(brand::logo))
            .with_state(site(Face::Portal));
        Router::new()
            .merge(assets::routes())
            .merge(console)
            .nest("/portal", portal)
    }
}

/// Lets people who ask for what is not there read that in a page; programs get the problem that it is.
pub fn dress(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(dressed))
}

async fn dressed(request: Request, next: Next) -> Response {
    let asked = request.headers().get(header::ACCEPT);
    let person = asked.is_some_and(|asked| {
        let asked = asked.to_str().unwrap_or_default();
        asked
            .split(',')
            .any(|kind| kind.trim().starts_with("text/html"))
    });
    let face = match request.uri().path().starts_with("/portal") {
        true => Face::Portal,
        false => Face::Console,
    };
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE);
    let problem = kind.is_some_and(|kind| kind == "application/problem+json");
    let code = match response.status() {
        StatusCode::NOT_FOUND => ErrorCode::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
        StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Overloaded,
        _ => return response,
    };
    // The router has no words of its own for a method.
    if !person || !(problem || code == ErrorCode::MethodNotAllowed) {
        return response;
    }
    let detail = match code {
        ErrorCode::MethodNotAllowed => {
            "there is nothing to see at this address: go on from the first page"
        }
        ErrorCode::Overloaded => {
            "the server holds as many answers as it can; try again in a moment"
        }
        _ => "there is no such page, or it is not yours",
    };
    let mut page = Failure::Refused(face, Refusal::new(code, detail)).into_response();
    // What the edge has put on the answer is on the page in its place too.
    for name in ["x-request-id", "keep-alive"] {
        if let Some(value) = response.headers().get(name) {
            page.headers_mut().insert(name, value.clone());
        }
    }
    page
}

/// What both faces have.
fn common() -> Router<Site> {
    Router::new()
        .route("/enter", get(door::link).post(door::enter))
        .route("/sign-out", post(door::leave))
        .route("/tenants/{id}", get(tenant::show))
        .route("/tenants/{id}/portal", post(tenant::open_portal))
        .route("/tenants/{id}/endpoints", post(endpoint_form::create))
        .route("/tenants/{id}/endpoints/new", get(endpoint_form::new))
        .route("/tenants/{id}/events", get(events::list))
        .route(
            "/tenants/{id}/event-types",
            get(catalogue::show).post(catalogue::test),
        )
        .route("/tenants/{id}/statistics", get(statistics::show))
        .route("/tenants/{id}/statistics.csv", get(statistics::file))
        .route(
            "/tenants/{id}/replays",
            get(replay::list).post(replay::create),
        )
        .route("/tenants/{id}/send-outs", get(send_outs::list))
        .route("/replays/{id}", get(replay::show))
        .route("/replays/{id}/glance", get(replay::glance))
        .route("/replays/{id}/cancel", post(replay::cancel))
        .route("/tenants/{id}/notifications", get(notifications::show))
        .route(
            "/tenants/{id}/notifications/{act}",
            post(notifications::act),
        )
        .route("/tenants/{id}/settings", get(settings::show))
        .route("/tenants/{id}/settings/{act}", post(settings::act))
        .route(
            "/tenants/{id}/verify",
            get(verify::show).post(verify::verify),
        )
        .route(
            "/tenants/{id}/catchers",
            get(catcher::list).post(catcher::create),
        )
        .route("/tenants/{id}/catchers/{code}", get(catcher::show))
        .route("/tenants/{id}/catchers/{code}/glance", get(catcher::glance))
        .route("/tenants/{id}/catchers/{code}/end", post(catcher::end))
        .route(
            "/tenants/{id}/catchers/{code}/{number}",
            get(catcher::show_one),
        )
        .route("/tenants/{id}/keys", post(key::create))
        .route("/tenants/{id}/keys/new", get(key::new))
        .route("/keys/{id}", get(key::show))
        .route("/keys/{id}/{act}", post(key::act))
        .route("/tenants/{id}/distributions", post(distribution::create))
        .route("/tenants/{id}/distributions/new", get(distribution::new))
        .route(
            "/distributions/{id}/edit",
            get(distribution::edit).post(distribution::change),
        )
        .route("/endpoints/{id}", get(endpoint::show))
        .route(
            "/endpoints/{id}/edit",
            get(endpoint_form::edit).post(endpoint_form::change),
        )
        .route("/endpoints/{id}/{act}", post(endpoint::act))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/news", get(deliveries::news))
        .route("/deliveries/{id}", get(delivery::show))
        .route("/deliveries/{id}/glance", get(delivery::glance))
        .route("/deliveries/{id}/{act}", post(delivery::act))
        .route("/events/{id}", get(events::show))
        .route("/profiles/{name}", get(profile::show))
        .route("/audit", get(audit::list))
}
