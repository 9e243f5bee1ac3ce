//! How a product's portal looks to its customers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes of a logo, as it is written.
pub const LOGO_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the name that stands beside it.
pub const NAME_BYTES_MAX: usize = 64;

/// The product's own name, logo and colour in the portal; what is absent is Postrider's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Branding {
    /// What stands at the top of each page.
    pub name: Option<String>,
    /// A picture as a data URL: `data:image/svg+xml;base64,…`, or of PNG, JPEG, GIF or WebP.
    pub logo: Option<String>,
    /// Of links and buttons, such as `#2457c5`; made lighter or darker where it could not be read.
    pub accent: Option<String>,
}

/// A picture, as browsers are given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logo {
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
}

const KINDS: [&str; 5] = [
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
];

impl Logo {
    /// Reads a data URL; none where it is none, or of something that is no picture.
    pub fn read(text: &str) -> Option<Self> {
        let (kind, data) = text.strip_prefix("data:")?.split_once(";base64,")?;
        let media_type = KINDS.into_iter().find(|known| *known == kind)?;
        let bytes = STANDARD.decode(data).ok()?;
        (!bytes.is_empty()).then_some(Self { media_type, bytes })
    }
}

/// A colour of the screen: red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(pub [u8; 3]);

impl Colour {
    pub const BLACK: Self = Self([0; 3]);
    pub const WHITE: Self = Self([255; 3]);

    /// Reads `#rrggbb`.
    pub fn read(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6)?;
        let all = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        // `from_str_radix` takes a sign too, which is no digit of a colour.
        let number = u32::from_str_radix(digits, 16).ok().filter(|_| all)?;
        let [_, red, green, blue] = number.to_be_bytes();
        Some(Self([red, green, blue]))
    }

    /// How well one is read on the other, from 1 to 21 (WCAG 2.2, contrast ratio).
    pub fn contrast(self, other: Self) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// WCAG 2.2, relative luminance.
    fn luminance(self) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 {
                part / 12.92
            } else {
                ((part + 0.055) / 1.055).powf(2.4)
            }
        };
        let [red, green, blue] = self.0.map(linear);
        0.2126 * red + 0.7152 * green + 0.0722 * blue
    }

    /// The same hue, moved as little towards black or white as makes it read on `paper` with this contrast.
    #[must_use]
    pub fn readable_on(self, paper: Self, contrast: f64) -> Self {
        let end = if paper.contrast(Self::BLACK) > paper.contrast(Self::WHITE) {
            Self::BLACK
        } else {
            Self::WHITE
        };
        let mixed = (0..=MIXES).map(|step| self.mixed(end, step));
        let reads = |colour: &Self| colour.contrast(paper) >= contrast;
        mixed.into_iter().find(reads).unwrap_or(end)
    }

    fn mixed(self, end: Self, step: u16) -> Self {
        let mix = |from: u8, to: u8| {
            // 255 times 64 at most, which fits.
            let sum = u16::from(from) * (MIXES - step) + u16::from(to) * step;
            u8::try_from(sum / MIXES).unwrap_or(u8::MAX)
        };
        let ([a, b, c], [x, y, z]) = (self.0, end.0);
        Self([mix(a, x), mix(b, y), mix(c, z)])
    }
}

/// Steps from a colour to black or white.
const MIXES: u16 = 64;

impl std::fmt::Display for Colour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logo_is_a_picture_in_a_data_url() {
        let svg = Logo::read("data:image/svg+xml;base64,PHN2Zy8+").unwrap();
        assert_eq!(
            (svg.media_type, &*svg.bytes),
            ("image/svg+xml", b"<svg/>".as_slice())
        );
        for bad in [
            "",
            "https://example.com/logo.svg",
            "data:text/html;base64,PHN2Zy8+",
            "data:image/svg+xml,<svg/>",
            "data:image/png;base64,",
            "data:image/png;base64,not base 64",
            "data:image/png; charset=x;base64,PHN2Zy8+",
        ] {
            assert_eq!(Logo::read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_colour_is_moved_until_it_is_read() {
        let read = |text: &str| Colour::read(text).unwrap();
        assert_eq!(read("#2457C5").to_string(), "#2457c5");
        for bad in ["2457c5", "#2457c", "#2457c5a", "#+12345", "red", "#ééé"] {
            assert_eq!(Colour::read(bad), None, "{bad:?}");
        }
        assert!((Colour::BLACK.contrast(Colour::WHITE) - 21.0).abs() < 1e-9);
        // Dark enough on white as it is, and yellow is not.
        assert_eq!(
            read("#2457c5").readable_on(Colour::WHITE, 4.5),
            read("#2457c5")
        );
        for paper in [Colour::WHITE, read("#161b22")] {
            for colour in ["#ffff00", "#2457c5", "#000000", "#ffffff", "#808080"] {
                let moved = read(colour).readable_on(paper, 4.5);
                assert!(moved.contrast(paper) >= 4.5, "{colour} on {paper}: {moved}");
            }
        }
    }
}
