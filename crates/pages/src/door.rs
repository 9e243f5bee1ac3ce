//! Coming in and going: with a key, or by a link that lets one in once.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{FromRequestParts, RawQuery, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use postrider_core::Secret;
use postrider_core::branding::Branding;
use postrider_core::profile::Profile;
use postrider_core::seal::{hex, sha256};
use postrider_core::session::{Holder, Session};
use postrider_core::tenant::{Application, Scope};
use postrider_core::{Id, id};
use postrider_service::{CameFrom, ErrorCode, Refusal, Visit};

use crate::Site;
use crate::failure::{Failure, sentence, status};
use crate::fields::{DOOR_BYTES_MAX, Fields, Posted, read};
use crate::frame::{Face, Frame, Shown, show, show_as};
use crate::words::told;

/// Somebody who is there.
pub(crate) struct Visitor {
    pub(crate) visit: Visit,
    pub(crate) face: Face,
    /// In every form of this visit: a page of another site does not know it.
    pub(crate) csrf: String,
    /// Whose words the portal speaks, and how it looks; none in the console.
    pub(crate) product: Option<(Arc<Profile>, Arc<Application>)>,
    /// What was just done, by the address of the page.
    pub(crate) told: Option<&'static str>,
    /// What the address of the page asks for.
    pub(crate) query: Fields,
    /// What addresses of this server begin with, for whoever is handed one.
    pub(crate) base: String,
    /// Where they are, as far as that is known.
    pub(crate) from: CameFrom,
    /// This server has addresses that keep what comes to them.
    pub(crate) catches: bool,
    /// Their cookie goes over HTTPS only.
    pub(crate) secure: bool,
}

impl Visitor {
    pub(crate) async fn of(parts: &Parts, site: &Site) -> Result<Self, Failure> {
        let face = site.face;
        let asked = parts.uri.path_and_query();
        let asked = asked.map_or("/", |asked| asked.as_str()).to_owned();
        // A form cannot be asked for again.
        let again = parts.method == http::Method::GET;
        let nobody = || Failure::SignIn(face, if again { asked.clone() } else { "/".to_owned() });
        let token = cookie(&parts.headers, face).ok_or_else(nobody)?;
        let from = came_from(parts);
        let visit = site.service().visit(&token, from.address).await;
        let visit = visit.map_err(|refusal| Failure::Refused(face, refusal))?;
        let visit = visit.ok_or_else(nobody)?;
        // A customer's cookie opens the portal, and nothing else.
        let is_customer = matches!(visit.session.holder, Holder::Portal(_));
        if is_customer != (face == Face::Portal) {
            return Err(nobody());
        }
        let product = match &visit.session.holder {
            Holder::Portal(portal) => {
                let product = site.service().product(portal.application).await;
                let refused = |refusal| Failure::Refused(face, refusal);
                Some(product.map_err(refused)?)
            }
            Holder::Key(_) | Holder::User(_) => None,
        };
        let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self {
            told: query.get("told").and_then(told),
            base: base(site, &parts.headers),
            secure: is_secure(site, &parts.headers),
            catches: site.service().catches(),
            from,
            product,
            visit,
            face,
            // Made from the token, so that it is kept nowhere; from it nobody finds the token.
            csrf: hex(&sha256(format!("form:{token}").as_bytes())),
            query,
        })
    }

    /// A refusal, as a page of this visit's face.
    pub(crate) fn refused(&self) -> impl Fn(Refusal) -> Failure + use<> {
        let face = self.face;
        move |refusal| Failure::Refused(face, refusal)
    }

    /// What the form is told that was refused; where the thing itself is not there, there is no form to go back to.
    pub(crate) fn told_why(&self, refusal: Refusal) -> Result<String, Failure> {
        match refusal.code {
            ErrorCode::NotFound => Err(Failure::Refused(self.face, refusal)),
            _ => Ok(sentence(&refusal)),
        }
    }

    /// The address of a page.
    pub(crate) fn href(&self, path: impl std::fmt::Display) -> String {
        format!("{}{path}", self.face.base())
    }

    /// Back to a page, which tells what was done.
    pub(crate) fn back_to(&self, path: impl std::fmt::Display, done: &str) -> Response {
        let href = self.href(path);
        let mark = if href.contains('?') { '&' } else { '?' };
        Redirect::to(&format!("{href}{mark}told={done}")).into_response()
    }

    /// How the product wants its portal to look.
    pub(crate) fn branding(&self) -> Option<&Branding> {
        let (_, application) = self.product.as_ref()?;
        Some(&application.settings.branding)
    }

    /// The tenant whose portal it is.
    pub(crate) fn own_tenant(&self) -> Option<Id<id::Tenant>> {
        match &self.visit.session.holder {
            Holder::Portal(portal) => Some(portal.tenant),
            Holder::Key(_) | Holder::User(_) => None,
        }
    }
}

impl FromRequestParts<Site> for Visitor {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, site: &Site) -> Result<Self, Failure> {
        Self::of(parts, site).await
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignIn {
    frame: Frame,
    next: String,
    name: String,
    /// Somebody has tried with a key.
    by_key: bool,
    wrong: Option<String>,
}

pub(crate) async fn sign_in(RawQuery(query): RawQuery) -> Shown {
    let fields = Fields::parse(query.unwrap_or_default().as_bytes());
    let page = SignIn {
        frame: Frame::bare(Face::Console, "Sign in"),
        next: own_path(fields.get("next")).to_owned(),
        name: String::new(),
        by_key: false,
        wrong: None,
    };
    show(&page.frame, &page)
}

pub(crate) async fn come_in(State(site): State<Site>, request: Request) -> Shown {
    let (parts, body) = request.into_parts();
    // Who is not in yet has no word for forms: the browser alone can tell whose page this came from.
    must_be_own(&parts.headers, site.face)?;
    let from = came_from(&parts);
    let fields = read(&site, body, DOOR_BYTES_MAX, 0).await?;
    let next = own_path(fields.get("next")).to_owned();
    let service = site.service();
    let key = fields.get("key");
    let came = match key {
        Some(key) => service.come_in(key, from.address).await.map(Some),
        None => {
            let password = Secret::new(fields.exact("password"));
            let name = fields.text("name");
            service.sign_in(&name, &password, from).await
        }
    };
    let (code, wrong) = match came {
        Ok(Some((token, visit))) => {
            // Only now: whoever is not let in stays who they were.
            end_present(&site, &parts).await?;
            let next = first_page(&next, visit.caller.scope());
            let secure = is_secure(&site, &parts.headers);
            return Ok(let_in(&site, secure, &token, &visit.session, &next));
        }
        Ok(None) => {
            let wrong = "That name and that password do not go together.".to_owned();
            (StatusCode::UNAUTHORIZED, wrong)
        }
        Err(refusal) => (status(refusal.code), sentence(&refusal)),
    };
    let page = SignIn {
        frame: Frame::bare(Face::Console, "Sign in"),
        next,
        name: fields.text("name"),
        by_key: key.is_some(),
        wrong: Some(wrong),
    };
    show_as(code, &page.frame, &page)
}

/// Where somebody wanted to go, or their own first page.
fn first_page(next: &str, scope: Scope) -> String {
    match (next, scope) {
        ("/", Scope::Tenant(_, tenant)) => format!("/tenants/{tenant}"),
        ("/", Scope::Application(application)) => format!("/applications/{application}"),
        (next, _) => next.to_owned(),
    }
}

/// Where a request comes from, as far as that is known.
fn came_from(parts: &Parts) -> CameFrom {
    let nowhere = CameFrom {
        address: None,
        is_proxys: false,
    };
    parts
        .extensions
        .get::<CameFrom>()
        .copied()
        .unwrap_or(nowhere)
}

/// Ends the visit of whoever was there in this browser.
async fn end_present(site: &Site, parts: &Parts) -> Result<(), Failure> {
    // Where nobody was there is nothing to end.
    let Ok(present) = Visitor::of(parts, site).await else {
        return Ok(());
    };
    let left = site.service().leave(&present.visit).await;
    left.map_err(|refusal| Failure::Refused(site.face, refusal))
}

/// What addresses of this server begin with.
fn base(site: &Site, headers: &HeaderMap) -> String {
    let asked = || {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        let scheme = if site.pages.options.https {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    };
    let own = site.pages.options.public_url.clone();
    own.unwrap_or_else(asked)
}

#[derive(Template)]
#[template(path = "enter.html")]
struct Enter {
    frame: Frame,
    /// None of a link that has ended.
    code: Option<String>,
    /// Who is there already, in this browser.
    present: Option<String>,
    /// Who chooses a password by it.
    user: Option<String>,
    wrong: Option<String>,
}

/// The page of a link. Programs that look at links on the way only read it: the form uses it, by itself where
/// scripts run.
pub(crate) async fn link(State(site): State<Site>, request: Request) -> Shown {
    let (parts, _) = request.into_parts();
    let fields = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
    // Nobody becomes somebody else without a word.
    let present = Visitor::of(&parts, &site).await.ok();
    let present = present.map(|visitor| visitor.visit.caller.name().to_owned());
    let code = fields.get("code").unwrap_or_default();
    let refused = |refusal| Failure::Refused(site.face, refusal);
    let from = came_from(&parts).address;
    let link = site
        .service()
        .look_at_link(code, from)
        .await
        .map_err(refused)?;
    let mut link = link.filter(|link| is_of(link, site.face));
    let mut user = None;
    if let Some(seen) = link.as_ref().filter(|link| is_invitation(link)) {
        let invited = site.service().invited(seen).await;
        user = invited.map_err(refused)?.map(|user| user.name);
        link = link.filter(|_| user.is_some());
    }
    let status = match link {
        Some(_) => StatusCode::OK,
        None => StatusCode::NOT_FOUND,
    };
    let page = Enter {
        frame: match &link {
            Some(link) => Frame::bare(site.face, "Come in").within(ancestors(Some(link))),
            None => Frame::plain(site.face, "Come in"),
        },
        code: link.map(|_| code.to_owned()),
        present,
        user,
        wrong: None,
    };
    show_as(status, &page.frame, &page)
}

pub(crate) async fn enter(State(site): State<Site>, request: Request) -> Shown {
    let (parts, body) = request.into_parts();
    must_be_own(&parts.headers, site.face)?;
    let fields = read(&site, body, DOOR_BYTES_MAX, 0).await?;
    let code = fields.get("code").unwrap_or_default();
    let refused = |refusal| Failure::Refused(site.face, refusal);
    let from = came_from(&parts).address;
    let looked = site
        .service()
        .look_at_link(code, from)
        .await
        .map_err(refused)?;
    // Of the other face, it stays unused.
    let looked = looked.filter(|link| is_of(link, site.face));
    if let Some(link) = looked.as_ref().filter(|link| is_invitation(link)) {
        return choose_password(&site, &parts, link, code, &fields).await;
    }
    let used = match looked {
        Some(_) => site.service().use_link(code, from).await.map_err(refused)?,
        None => None,
    };
    match used {
        Some((token, session)) => {
            end_present(&site, &parts).await?;
            let (secure, home) = (is_secure(&site, &parts.headers), site.face.home());
            Ok(let_in(&site, secure, &token, &session, home))
        }
        None => opens_nothing(&site),
    }
}

fn opens_nothing(site: &Site) -> Shown {
    let page = Enter {
        frame: Frame::plain(site.face, "Come in"),
        code: None,
        present: None,
        user: None,
        wrong: None,
    };
    show_as(StatusCode::NOT_FOUND, &page.frame, &page)
}

/// The link of a user: it is used when they have chosen a password that will do.
async fn choose_password(
    site: &Site,
    parts: &Parts,
    link: &Session,
    code: &str,
    fields: &Fields,
) -> Shown {
    let service = site.service();
    let refused = |refusal| Failure::Refused(site.face, refusal);
    // Before the link is used: where the password will not do, the form names them again.
    let invited = service.invited(link).await.map_err(refused)?;
    let chosen = match typed_twice(fields) {
        Ok(password) => {
            let chosen = service.choose_password(code, &password, came_from(parts));
            chosen.await
        }
        Err(refusal) => Err(refusal),
    };
    match chosen {
        Ok(Some((token, visit))) => {
            end_present(site, parts).await?;
            let next = first_page("/", visit.caller.scope());
            let secure = is_secure(site, &parts.headers);
            Ok(let_in(site, secure, &token, &visit.session, &next))
        }
        Ok(None) => opens_nothing(site),
        Err(refusal) => {
            let page = Enter {
                frame: Frame::bare(site.face, "Choose a password"),
                code: Some(code.to_owned()),
                present: None,
                user: invited.map(|user| user.name),
                wrong: Some(sentence(&refusal)),
            };
            show_as(status(refusal.code), &page.frame, &page)
        }
    }
}

/// A password that nobody sees while it is typed.
pub(crate) fn typed_twice(fields: &Fields) -> Result<Secret, Refusal> {
    let (first, again) = (fields.exact("password"), fields.exact("again"));
    if first != again {
        return Err(Refusal::invalid("password", "was not typed the same twice"));
    }
    Ok(Secret::new(first))
}

fn is_invitation(link: &Session) -> bool {
    matches!(link.holder, Holder::User(_))
}

pub(crate) async fn leave(State(site): State<Site>, posted: Posted) -> Shown {
    let refused = posted.visitor.refused();
    site.service()
        .leave(&posted.visitor.visit)
        .await
        .map_err(refused)?;
    let to = match site.face {
        Face::Console => "/sign-in",
        Face::Portal => "/portal",
    };
    // The visit is over in the store: a browser that keeps the cookie all the same opens nothing by it.
    let gone = format!(
        "{}=; Path={}; Max-Age=0",
        site.face.cookie(),
        site.face.home()
    );
    let mut response = Redirect::to(to).into_response();
    let gone = HeaderValue::from_str(&gone).map_err(Failure::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, gone);
    Ok(response)
}

fn is_of(session: &Session, face: Face) -> bool {
    matches!(session.holder, Holder::Portal(_)) == (face == Face::Portal)
}

fn ancestors(link: Option<&Session>) -> Vec<String> {
    match link.map(|link| &link.holder) {
        Some(Holder::Portal(portal)) => portal.terms.frame_origins.clone(),
        Some(Holder::Key(_) | Holder::User(_)) | None => Vec::new(),
    }
}

/// Gives the browser its cookie, and the first page.
pub(crate) fn let_in(
    site: &Site,
    secure: bool,
    token: &Secret,
    session: &Session,
    next: &str,
) -> Response {
    let left = session
        .expires_at
        .since(session.opened_at.unwrap_or(session.created_at));
    let framed = !ancestors(Some(session)).is_empty();
    let same = match (framed, secure) {
        // In a frame of another site the cookie is a third party's, kept for that site alone.
        (true, true) => "SameSite=None; Partitioned",
        (false, _) | (_, false) => "SameSite=Lax",
    };
    let cookie = format!(
        "{}={}; Path={}; HttpOnly; {same}{}; Max-Age={}",
        site.face.cookie(),
        token.expose(),
        site.face.home(),
        if secure { "; Secure" } else { "" },
        // Of zero a browser would drop it.
        left.max(Duration::from_secs(1)).as_secs()
    );
    let mut response = Redirect::to(next).into_response();
    // Hex digits and our own words: always a header value.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Whether the cookie goes over HTTPS only: it does, but where the browser is on this very machine.
fn is_secure(site: &Site, headers: &HeaderMap) -> bool {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = matches!(name, "localhost" | "127.0.0.1" | "::1");
    let options = &site.pages.options;
    options.https || !(local || options.plain_http)
}

/// Refuses a form that a browser says comes from another site.
fn must_be_own(headers: &HeaderMap, face: Face) -> Result<(), Failure> {
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(Failure::Forged(face)),
    }
}

/// A path of this server, whatever was asked for: nobody is sent elsewhere.
fn own_path(asked: Option<&str>) -> &str {
    let own = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            // Browsers read a backslash as a slash and pass over control characters: `/\t/x` is elsewhere.
            && !path.contains(|c: char| c == '\\' || c.is_control())
    };
    asked.filter(own).unwrap_or("/")
}

fn cookie(headers: &HeaderMap, face: Face) -> Option<String> {
    let lines = headers.get_all(header::COOKIE).iter();
    let mut pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'));
    pairs.find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == face.cookie()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(own_path(Some("/deliveries?a=b")), "/deliveries?a=b");
        for elsewhere in [
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "/a\r\nset-cookie: b",
            "",
        ] {
            assert_eq!(own_path(Some(elsewhere)), "/", "{elsewhere:?}");
        }
    }
}
