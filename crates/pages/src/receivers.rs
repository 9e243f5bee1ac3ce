//! How receivers verify, in six languages: the functions of `docs/receivers.md`, which the gate runs.

/// The page of the documentation; each function stands behind a mark with its language and what it verifies.
const PAGE: &str = include_str!("../../../docs/receivers.md");
const MARK: &str = "<!-- run: ";
const LANGUAGES: [(&str, &str); 6] = [
    ("node", "Node"),
    ("python", "Python"),
    ("go", "Go"),
    ("java", "Java"),
    ("php", "PHP"),
    ("ruby", "Ruby"),
];

/// A function that verifies.
pub(crate) struct Function {
    pub(crate) language: &'static str,
    /// Where the profile signs in more than one way, which of them it is for.
    pub(crate) of: Option<&'static str>,
    pub(crate) code: String,
}

/// The functions for receivers of a profile; none of one that the documentation does not know.
pub(crate) fn functions(profile: &str) -> Vec<Function> {
    match profile {
        "standard" => {
            let mut both = named("standard", Some("a secret"));
            both.extend(named("standard-ed25519", Some("a public key")));
            both
        }
        // The same but for what the headers are called.
        "svix" => {
            let mut functions = named("standard", None);
            for function in &mut functions {
                function.code = function.code.replace("\"webhook-", "\"svix-");
                function.code = function.code.replace("'webhook-", "'svix-");
            }
            functions
        }
        other => named(other, None),
    }
}

fn named(name: &str, of: Option<&'static str>) -> Vec<Function> {
    let marked = PAGE.split(MARK).skip(1);
    let functions = marked.filter_map(|marked| {
        let (mark, rest) = marked.split_once(" -->\n```")?;
        let (language, its) = mark.split_once(' ')?;
        let (_, label) = LANGUAGES.iter().find(|(word, _)| *word == language)?;
        let (_, code) = rest.split_once('\n')?;
        let (code, _) = code.split_once("\n```")?;
        (its == name).then(|| Function {
            language: label,
            of,
            code: code.to_owned(),
        })
    });
    functions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_that_is_documented_has_its_functions_in_six_languages() {
        for (profile, count) in [
            ("standard", 12),
            ("vignetim", 6),
            ("simplifytrip", 6),
            ("voucherify", 6),
            ("stripe", 6),
            ("github", 6),
            ("svix", 6),
            ("somebody's own", 0),
        ] {
            let functions = functions(profile);
            assert_eq!(functions.len(), count, "{profile}");
            for function in functions {
                assert!(function.code.contains("verify_"), "{}", function.code);
            }
        }
    }

    #[test]
    fn receivers_of_svix_read_its_headers() {
        for function in functions("svix") {
            let code = function.code;
            assert!(code.contains("svix-id") && code.contains("svix-signature"));
            assert!(!code.contains("webhook-"), "{code}");
        }
    }
}
