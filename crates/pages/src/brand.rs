//! The portal in a product's own name and colour.
//!
//! A page has no style in itself: what differs is added to the one style sheet, under an address of its own.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use postrider_core::branding::{Branding, Colour, Logo};
use postrider_core::seal::{hex, sha256};

use crate::Site;
use crate::assets::{STYLE, VERSION};
use crate::door::Visitor;
use crate::failure::Failure;
use crate::frame::Shown;

/// What a text must have on its paper (WCAG 2.2, AA).
const CONTRAST: f64 = 4.5;
/// The paper of both themes, as the style sheet has it.
const LIGHT: Colour = Colour::WHITE;
const DARK: Colour = Colour([0x16, 0x1b, 0x22]);

/// What the frame of a page has of a brand.
#[derive(Debug, Clone)]
pub(crate) struct Brand {
    pub(crate) name: String,
    /// Where the style and the logo are; none is Postrider's own.
    pub(crate) style: Option<String>,
    pub(crate) logo: Option<String>,
}

impl Brand {
    pub(crate) fn own() -> Self {
        Self {
            name: "Postrider".to_owned(),
            style: None,
            logo: None,
        }
    }

    pub(crate) fn of(branding: &Branding) -> Self {
        let text = serde_json::to_vec(branding).unwrap_or_default();
        // Browsers keep both for ever, so what changes has another address.
        let version = format!("{}-{}", *VERSION, hex(&sha256(&text)[..6]));
        let at = |path: &str| format!("/portal/{path}?{version}");
        let own = Self::own();
        Self {
            name: branding.name.clone().unwrap_or(own.name),
            style: branding.accent.as_ref().map(|_| at("brand.css")),
            logo: branding.logo.as_ref().map(|_| at("logo")),
        }
    }
}

/// The whole style sheet with the product's colour.
pub(crate) async fn style(State(_): State<Site>, visitor: Visitor) -> Shown {
    let accent = visitor
        .branding()
        .and_then(|branding| branding.accent.as_deref());
    let colours = accent.and_then(Colour::read).map(colours);
    let text = format!("{STYLE}{}", colours.unwrap_or_default());
    Ok(asset("text/css", text.into_bytes()))
}

/// The accent in both themes, and what stands on it.
fn colours(accent: Colour) -> String {
    let set = |paper: Colour| {
        let accent = accent.readable_on(paper, CONTRAST);
        let ink = match accent.contrast(Colour::WHITE) >= accent.contrast(Colour::BLACK) {
            true => Colour::WHITE,
            false => Colour::BLACK,
        };
        format!("--accent: {accent}; --focus: {accent}; --accent-ink: {ink};")
    };
    let (light, dark) = (set(LIGHT), set(DARK));
    format!(
        ":root {{ {light} }}\n\
         @media (prefers-color-scheme: dark) {{ :root:not([data-theme=\"light\"]) {{ {dark} }} }}\n\
         :root[data-theme=\"dark\"] {{ {dark} }}\n\
         :root[data-theme=\"light\"] {{ {light} }}\n"
    )
}

pub(crate) async fn logo(State(site): State<Site>, visitor: Visitor) -> Shown {
    let logo = visitor
        .branding()
        .and_then(|branding| branding.logo.as_deref());
    let logo = logo.and_then(Logo::read);
    let Logo { media_type, bytes } = logo.ok_or_else(|| Failure::not_found(site.face))?;
    let mut response = asset(media_type, bytes);
    // A picture may have scripts in it, for whoever opens it by itself.
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; sandbox");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

fn asset(kind: &'static str, bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (
            header::CACHE_CONTROL,
            "private, max-age=31536000, immutable",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, bytes).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_colour_what_is_written_on_it_can_be_read() {
        for accent in ["#ffff00", "#2457c5", "#000000", "#ffffff", "#777777"] {
            let text = colours(Colour::read(accent).unwrap());
            let found = |name: &str| {
                let parts = text.split(name).skip(1);
                let read = |part: &str| Colour::read(&part[..7]).unwrap();
                parts.map(read).collect::<Vec<_>>()
            };
            let (accents, inks) = (found("--accent: "), found("--accent-ink: "));
            for (accent, ink) in accents.iter().zip(&inks) {
                assert!(accent.contrast(*ink) >= CONTRAST, "{accent} {ink}");
            }
            let papers = [LIGHT, DARK, DARK, LIGHT];
            for (accent, paper) in accents.iter().zip(papers) {
                assert!(accent.contrast(paper) >= CONTRAST, "{accent} on {paper}");
            }
        }
    }
}
