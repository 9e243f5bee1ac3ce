//! URLs that may be registered: checked when written, so that a mistake shows at once. The address
//! is checked again before every connection, because names change.

use std::net::IpAddr;

use url::{Host, Url};

use crate::address::{AddressForbidden, AddressPolicy, PortForbidden};
use crate::limits::URL_BYTES_MAX;

/// RFC 1035 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 253;

/// What is allowed in a URL: the profile's schemes and the operator's addresses.
#[derive(Debug, Clone, Copy)]
pub struct UrlPolicy<'a> {
    pub schemes: &'a [Scheme],
    pub addresses: &'a AddressPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }
}

/// Why a URL cannot receive webhooks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("must be at most {URL_BYTES_MAX} bytes")]
    TooLong,
    #[error("must be an absolute URL such as https://example.com/webhooks")]
    NotAUrl,
    #[error("must use HTTPS")]
    HttpsOnly,
    #[error("must use https or http")]
    Scheme,
    #[error("must not contain a user name or password")]
    Credentials,
    #[error("must not name this machine (localhost)")]
    Localhost,
    #[error(
        "must name a host as DNS can: labels of 1 to 63 letters, digits, - and _, with dots between, at most 253"
    )]
    Host,
    #[error("must be publicly accessible: {0}")]
    Address(#[from] AddressForbidden),
    #[error(transparent)]
    Port(#[from] PortForbidden),
}

/// Checks a URL as a user wrote it and returns it as it will be called (without fragment).
///
/// # Errors
/// When it is too long, no URL, of a scheme that the profile does not allow, has credentials, or
/// names a host that is forbidden in whatever spelling (`127.1`, `0x7f000001`, `[::1]`, a trailing dot).
pub fn check_url(text: &str, policy: UrlPolicy<'_>) -> Result<Url, InvalidUrl> {
    if text.len() > URL_BYTES_MAX {
        return Err(InvalidUrl::TooLong);
    }
    // The parser drops tabs and line ends without a word: then another URL is called than was typed.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(InvalidUrl::NotAUrl);
    }
    let mut url = Url::parse(text).map_err(|_| InvalidUrl::NotAUrl)?;
    let scheme = Scheme::parse(url.scheme());
    if !scheme.is_some_and(|scheme| policy.schemes.contains(&scheme)) {
        return Err(if policy.schemes == [Scheme::Https] {
            InvalidUrl::HttpsOnly
        } else {
            InvalidUrl::Scheme
        });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(InvalidUrl::Credentials);
    }
    match url.host().ok_or(InvalidUrl::NotAUrl)? {
        // Every spelling of an address has become one: the parser reads `127.1`, `0x7f000001` and full-width
        // digits.
        Host::Ipv4(address) => policy.addresses.check(IpAddr::V4(address))?,
        Host::Ipv6(address) => policy.addresses.check(IpAddr::V6(address))?,
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() || name.split('.').any(str::is_empty) {
                return Err(InvalidUrl::NotAUrl);
            }
            let label = |label: &str| {
                (1..=LABEL_BYTES_MAX).contains(&label.len())
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            };
            if name.len() > NAME_BYTES_MAX || !name.split('.').all(label) {
                return Err(InvalidUrl::Host);
            }
            let local = name == "localhost"
                || name.ends_with(".localhost")
                || name.ends_with(".localdomain");
            if local && !policy.addresses.allows_loopback() {
                return Err(InvalidUrl::Localhost);
            }
        }
    }
    // Port 0 is refused there, so a scheme without a port of its own is, too.
    policy
        .addresses
        .check_port(url.port_or_known_default().unwrap_or(0))?;
    url.set_fragment(None);
    Ok(url)
}

/// The name in a URL; none where it has an address.
pub fn domain(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    url.domain().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Url, InvalidUrl> {
        let addresses = AddressPolicy::default();
        check_url(
            text,
            UrlPolicy {
                schemes: &[Scheme::Https],
                addresses: &addresses,
            },
        )
    }

    #[test]
    fn every_spelling_of_a_forbidden_host_is_refused() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f000001",
            "0x7f.1",
            "2130706433",
            "017700000001",
            "127.0.0.1.",
            "0",
            "0.0.0.0",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[64:ff9b::7f00:1]",
            "[2002:7f00:1::]",
            "[fd00::1]",
            "[fe80::1]",
            "10.1.2.3",
            "172.16.9.9",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.1.1",
            "%31%32%37.0.0.1",
            "①②⑦.0.0.1",
        ] {
            let refused = check(&format!("https://{host}/hook"));
            assert!(
                matches!(refused, Err(InvalidUrl::Localhost | InvalidUrl::Address(_))),
                "{host}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_is_not_a_proper_url_is_refused() {
        assert_eq!(check("http://example.com/"), Err(InvalidUrl::HttpsOnly));
        assert_eq!(check("ftp://example.com/"), Err(InvalidUrl::HttpsOnly));
        assert_eq!(
            check("https://user:pw@example.com/"),
            Err(InvalidUrl::Credentials)
        );
        assert_eq!(
            check("https://user@example.com/"),
            Err(InvalidUrl::Credentials)
        );
        for bad in [
            "",
            "example.com",
            "/hook",
            "https://",
            "https:// a",
            "https://exa mple.com",
            "https://a\n.com",
            "https://[::1",
            "https://./",
            "https://10.0.0.1../",
        ] {
            assert_eq!(check(bad), Err(InvalidUrl::NotAUrl), "{bad:?}");
        }
        let long = format!("https://{}.com/", "a".repeat(64));
        for no_host in ["https://*/", "https://*.a.com/", "https://{}/", &long] {
            let refused = check(no_host).unwrap_err();
            assert!(
                matches!(refused, InvalidUrl::Host | InvalidUrl::NotAUrl),
                "{no_host}: {refused}"
            );
        }
        assert!(matches!(
            check("https://a.com:0/"),
            Err(InvalidUrl::Port(_))
        ));
        assert_eq!(
            check(&format!("https://a.com/{}", "x".repeat(2_048))),
            Err(InvalidUrl::TooLong)
        );
        assert_eq!(
            check("https://yourapp.com/webhooks?x=1#y")
                .unwrap()
                .as_str(),
            "https://yourapp.com/webhooks?x=1"
        );
    }
}
