//! What surrounds every page: who is there, where they are, and the headers of its answer.

use askama::Template;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use postrider_core::profile::Profile;
use postrider_core::session::Holder;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};

use crate::assets::VERSION;
use crate::brand::Brand;
use crate::door::Visitor;
use crate::failure::Failure;

/// Which of the two a page is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    Console,
    Portal,
}

impl Face {
    /// What the addresses of its pages begin with.
    pub(crate) fn base(self) -> &'static str {
        match self {
            Self::Console => "",
            Self::Portal => "/portal",
        }
    }

    pub(crate) fn cookie(self) -> &'static str {
        match self {
            Self::Console => "postrider_console",
            Self::Portal => "postrider_portal",
        }
    }

    /// What its first page is called.
    pub(crate) fn first(self) -> &'static str {
        match self {
            Self::Console => "Overview",
            Self::Portal => "Home",
        }
    }

    /// Its first page.
    pub(crate) fn home(self) -> &'static str {
        match self {
            Self::Console => "/",
            Self::Portal => "/portal",
        }
    }
}

/// A link by name.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) href: String,
    pub(crate) label: String,
}

impl Link {
    pub(crate) fn new(href: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            href: href.into(),
            label: label.into(),
        }
    }
}

/// What surrounds a page.
pub(crate) struct Frame {
    pub(crate) base: &'static str,
    pub(crate) home: &'static str,
    pub(crate) title: String,
    pub(crate) version: &'static str,
    pub(crate) brand: Brand,
    pub(crate) crumbs: Vec<Link>,
    /// None before somebody is there.
    pub(crate) visitor: Option<Badge>,
    /// What was just done.
    pub(crate) told: Option<&'static str>,
    /// The pages that there are, by the names that the vendor gives them.
    pub(crate) rail: Vec<Link>,
    /// Origins that may have it in a frame.
    ancestors: Vec<String>,
    /// Anybody may: it holds nothing and does nothing.
    anywhere: bool,
}

/// Who is there.
pub(crate) struct Badge {
    pub(crate) name: String,
    /// The page about them.
    pub(crate) me: Option<&'static str>,
    pub(crate) csrf: String,
    pub(crate) read_only: bool,
    pub(crate) test_only: bool,
    /// Where the product wants them back.
    pub(crate) back: Option<String>,
}

impl Frame {
    pub(crate) fn bare(face: Face, title: impl Into<String>) -> Self {
        Self {
            base: face.base(),
            home: face.home(),
            title: title.into(),
            version: &VERSION,
            brand: Brand::own(),
            crumbs: Vec::new(),
            visitor: None,
            told: None,
            rail: Vec::new(),
            ancestors: Vec::new(),
            anywhere: false,
        }
    }

    /// Without anything to protect: in a portal within a frame its visitor has to read it.
    pub(crate) fn plain(face: Face, title: impl Into<String>) -> Self {
        Self {
            anywhere: face == Face::Portal,
            ..Self::bare(face, title)
        }
    }

    pub(crate) fn of(visitor: &Visitor, title: impl Into<String>) -> Self {
        let caller = &visitor.visit.caller;
        let (back, ancestors) = match &visitor.visit.session.holder {
            Holder::Key(_) | Holder::User(_) => (None, Vec::new()),
            Holder::Portal(portal) => (
                portal.terms.return_url.clone(),
                portal.terms.frame_origins.clone(),
            ),
        };
        let badge = Badge {
            name: caller.name().to_owned(),
            me: (visitor.face == Face::Console).then_some("/me"),
            csrf: visitor.csrf.clone(),
            read_only: caller.is_read_only(),
            test_only: caller.own_mode() == Mode::Test,
            back,
        };
        Self {
            brand: visitor.branding().map_or_else(Brand::own, Brand::of),
            visitor: Some(badge),
            told: visitor.told,
            rail: rail(visitor),
            ancestors,
            ..Self::bare(visitor.face, title)
        }
    }

    /// With the way to it.
    pub(crate) fn behind(mut self, crumbs: impl IntoIterator<Item = Link>) -> Self {
        self.crumbs.extend(crumbs);
        self
    }

    /// In frames of these origins.
    pub(crate) fn within(mut self, origins: Vec<String>) -> Self {
        self.ancestors = origins;
        self
    }

    /// Whether the visitor may change something.
    pub(crate) fn may_change(&self) -> bool {
        self.visitor.as_ref().is_some_and(|badge| !badge.read_only)
    }

    pub(crate) fn csrf(&self) -> &str {
        self.visitor.as_ref().map_or("", |badge| &badge.csrf)
    }
}

/// The pages that somebody may see: of the operator's console a few, of a tenant's portal all that are its.
fn rail(visitor: &Visitor) -> Vec<Link> {
    let href = |path: &str| visitor.href(path);
    let mut rail = vec![Link::new(visitor.face.home(), visitor.face.first())];
    match (&visitor.product, visitor.own_tenant()) {
        (Some((profile, _)), Some(tenant)) => {
            rail.extend(tenant_links(visitor, profile, tenant));
        }
        _ => {
            rail.push(Link::new(href("/deliveries"), "Deliveries"));
            rail.push(Link::new(href("/tasks"), "Tasks"));
            rail.push(Link::new(href("/notices"), "Notices"));
            rail.push(Link::new(href("/system"), "System"));
            if visitor.visit.caller.is_owner() {
                rail.push(Link::new(href("/users"), "Users"));
                rail.push(Link::new(href("/keys"), "Keys"));
            }
        }
    }
    // Who is confined to the test mode is refused there.
    if visitor.visit.caller.own_mode() == Mode::Live {
        rail.push(Link::new(href("/audit"), "Changes"));
    }
    rail
}

/// The pages of a tenant beside its first one.
pub(crate) fn tenant_links(
    visitor: &Visitor,
    profile: &Profile,
    tenant: Id<id::Tenant>,
) -> Vec<Link> {
    let names = &profile.portal;
    let below = |path: &str| visitor.href(format_args!("/tenants/{tenant}/{path}"));
    // The vendor with distributions has a log of its own, with columns of its own.
    let deliveries = if profile.distribution.is_some() {
        below("send-outs")
    } else {
        visitor.href(format_args!("/deliveries?tenant={tenant}"))
    };
    vec![
        Link::new(deliveries, names.deliveries.clone()),
        Link::new(below("events"), "Events"),
        Link::new(below("event-types"), "Event types"),
        Link::new(below("statistics"), names.statistics.clone()),
        Link::new(below("replays"), "Replay"),
        Link::new(below("notifications"), names.notifications.clone()),
        Link::new(below("settings"), names.settings.clone()),
        Link::new(below("verify"), "Verify"),
    ]
}

/// What handlers give.
pub(crate) type Shown = Result<Response, Failure>;

pub(crate) fn show(frame: &Frame, page: &impl Template) -> Shown {
    show_as(StatusCode::OK, frame, page)
}

/// The headers are as the frame that surrounds the page needs them.
pub(crate) fn show_as(status: StatusCode, frame: &Frame, page: &impl Template) -> Shown {
    let html = page.render().map_err(Failure::internal)?;
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        // What a page shows is the visitor's alone, and of this moment.
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = HeaderValue::from_str(&policy(frame)).map_err(Failure::internal)?;
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    // For browsers without `frame-ancestors`; it names no origins, so where some may it is left out.
    if frame.ancestors.is_empty() && !frame.anywhere {
        let deny = HeaderValue::from_static("DENY");
        headers.insert(header::X_FRAME_OPTIONS, deny);
    }
    Ok(response)
}

/// A word for a script of ours.
pub(crate) fn word(text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

/// Nothing but what this server gives, no script or style in the page itself, and no form to elsewhere.
fn policy(frame: &Frame) -> String {
    let ancestors = match frame.ancestors.as_slice() {
        _ if frame.anywhere => "*".to_owned(),
        [] => "'none'".to_owned(),
        some => some.join(" "),
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
    )
}
