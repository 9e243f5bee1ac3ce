//! The profiles that come with the binary.

use std::sync::LazyLock;

use crate::profile::Profile;

/// Their names and sources.
pub const BUILT_IN: &[(&str, &str)] = &[
    (
        "standard",
        include_str!("../../../../profiles/standard.toml"),
    ),
    (
        "simplifytrip",
        include_str!("../../../../profiles/simplifytrip.toml"),
    ),
    ("svix", include_str!("../../../../profiles/svix.toml")),
    ("stripe", include_str!("../../../../profiles/stripe.toml")),
    ("github", include_str!("../../../../profiles/github.toml")),
    (
        "voucherify",
        include_str!("../../../../profiles/voucherify.toml"),
    ),
    (
        "vignetim",
        include_str!("../../../../profiles/vignetim.toml"),
    ),
];

static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let parse = |(name, source): &(&str, &str)| match Profile::parse(source) {
        Ok(profile) => profile,
        Err(mistakes) => panic!("the built-in profile {name} has mistakes: {mistakes:?}"),
    };
    BUILT_IN.iter().map(parse).collect()
});

/// All built-in profiles, compiled.
///
/// # Panics
/// When one has a mistake, which a test rules out.
pub fn built_in() -> &'static [Profile] {
    &PROFILES
}
