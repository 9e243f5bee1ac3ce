//! A browser without scripts, and links for it.

use serde_json::Value;

use crate::support::{Reply, TestServer, http};

/// A browser without scripts: it keeps cookies, and sends the forms of the pages that it has.
pub(crate) struct Browser<'s> {
    server: &'s TestServer,
    pub(crate) cookies: Vec<(String, String)>,
    pub(crate) csrf: String,
}

impl<'s> Browser<'s> {
    pub(crate) fn new(server: &'s TestServer) -> Self {
        Self {
            server,
            cookies: Vec::new(),
            csrf: String::new(),
        }
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, form: &[(&str, &str)]) -> Reply {
        self.send_with(method, path, form, &[]).await
    }

    pub(crate) async fn send_with(
        &mut self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let cookies = cookies.join("; ");
        let mut headers = vec![("cookie", cookies.as_str()), ("accept", "text/html")];
        if method == "POST" {
            headers.push(("content-type", "application/x-www-form-urlencoded"));
        }
        headers.extend(more);
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let reply = http(self.server.address, method, path, &headers, body).await;
        if let Some(set) = reply.headers.get("set-cookie") {
            let (name, rest) = set.split_once('=').unwrap();
            let (value, _) = rest.split_once(';').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        if let Some((_, rest)) = reply.text.split_once("name=\"csrf\" value=\"") {
            rest.split('"').next().unwrap().clone_into(&mut self.csrf);
        }
        reply
    }

    /// A page that must be there.
    pub(crate) async fn page(&mut self, path: &str) -> String {
        let reply = self.send("GET", path, &[]).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
        assert!(
            reply.headers["content-security-policy"]
                .starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
            "{path}"
        );
        reply.text
    }

    /// Presses a button of the last page.
    pub(crate) async fn press(&mut self, path: &str, form: &[(&str, &str)]) -> Reply {
        let csrf = self.csrf.clone();
        let mut form = form.to_vec();
        form.push(("csrf", &csrf));
        self.send("POST", path, &form).await
    }

    pub(crate) async fn sign_in(server: &'s TestServer, key: &str) -> Self {
        let mut browser = Self::new(server);
        let reply = browser.send("POST", "/sign-in", &[("key", key)]).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        browser
    }

    /// Comes in by a link.
    pub(crate) async fn by_link(server: &'s TestServer, link: &str) -> Self {
        let mut browser = Self::new(server);
        let path = path_of(link);
        let (path, code) = path.split_once("?code=").unwrap();
        let reply = browser.send("POST", path, &[("code", code)]).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        browser
    }
}

pub(crate) fn path_of(link: &str) -> String {
    let (_, rest) = link.split_once("://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

pub(crate) async fn portal_link(server: &TestServer, tenant: &str, asked: Value) -> Value {
    let path = format!("/v1/tenants/{tenant}/portal-links");
    server.good("POST", &path, asked).await
}
