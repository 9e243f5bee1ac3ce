//! A configuration file read for its mistakes: all of them, each with its line.

use std::fmt;

use super::Config;

/// Mistakes that are looked for; a file with more is told those.
const MISTAKES_MAX: usize = 50;

/// What is wrong in a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    line: usize,
    text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// All mistakes of a file. The reader stops at the first: so that one is told and blanked, and the rest is
/// read again. What is no TOML at all ends the search, since what follows would be guessed.
pub(super) fn mistakes(text: &str) -> Vec<Mistake> {
    let mut text = text.to_owned();
    let mut found = Vec::new();
    while found.len() < MISTAKES_MAX {
        let is_toml = text.parse::<toml::Table>().is_ok();
        let Err(error) = toml::from_str::<Config>(&text) else {
            break;
        };
        let span = error.span().unwrap_or(0..0);
        let span = span.start.min(text.len())..span.end.min(text.len());
        found.push(Mistake {
            line: text[..span.start].matches('\n').count() + 1,
            text: error.message().replace('\n', "; "),
        });
        if !is_toml || !blank(&mut text, span) {
            break;
        }
    }
    found.sort_by_key(|mistake| mistake.line);
    found
}

/// Blanks the lines of a mistake, and after a heading all that belongs to it; line numbers stay. False when
/// there was nothing left to blank.
fn blank(text: &mut String, span: std::ops::Range<usize>) -> bool {
    let begin = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at);
    let mut end = line_end(span.end.max(begin));
    if text[begin..].trim_start().starts_with('[') {
        // `end` is the end of the text or a line break, so a character begins one byte behind it.
        while end < text.len() && !text[end + 1..].trim_start_matches(' ').starts_with('[') {
            end = line_end(end + 1);
        }
    }
    let blanks: String = text[begin..end]
        .chars()
        .map(|c| if c == '\n' { '\n' } else { ' ' })
        .collect();
    let changed = blanks != text[begin..end];
    text.replace_range(begin..end, &blanks);
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = "\
[server]
listen = \"nonsense\"
shutdown_secs = 5
colour = \"red\"

[nonsense]
a = 1
b = 2

[limits]
body_bytes = \"many\"

[egress]
allow = [
  \"10.0.0.0/8\",
  \"ten\",
]
plain_http = true
";
        let found = mistakes(text);
        let lines: Vec<usize> = found.iter().map(|mistake| mistake.line).collect();
        assert_eq!(lines, [2, 4, 6, 11, 16], "{found:?}");
        assert!(found[1].text.contains("colour"), "{found:?}");
        assert_eq!(mistakes("[server]\nshutdown_secs = 5\n"), []);
        assert_eq!(mistakes("[server\nlisten = 1\n").len(), 1, "no TOML");
    }
}
