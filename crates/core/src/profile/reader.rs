//! Reading a profile's TOML with the line of every value, so that all mistakes are told at once.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::time::parse_duration;

/// One mistake in a profile, with its line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// Collects mistakes while a file is read.
#[derive(Debug)]
pub(super) struct Mistakes<'s> {
    source: &'s str,
    found: Vec<Mistake>,
}

impl<'s> Mistakes<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self {
            source,
            found: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, span: &Range<usize>, text: impl Into<String>) {
        let before = self.source.get(..span.start).unwrap_or(self.source);
        self.found.push(Mistake {
            line: before.matches('\n').count() + 1,
            text: text.into(),
        });
    }

    pub(super) fn into_result<T>(mut self, value: Option<T>) -> Result<T, Vec<Mistake>> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => {
                self.found.sort_by_key(|mistake| mistake.line);
                Err(self.found)
            }
        }
    }
}

/// One table being read: remembers which keys were asked for, so that unknown ones can be told.
#[derive(Debug)]
pub(super) struct Section<'t> {
    name: String,
    table: Option<&'t DeTable<'t>>,
    pub(super) span: Range<usize>,
    asked: HashSet<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn root(table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            name: String::new(),
            table: Some(table.get_ref()),
            span: table.span(),
            asked: HashSet::new(),
        }
    }

    /// The value of `key`.
    pub(super) fn get(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        // Also where it is absent: `finish` tells keys that are there and that nobody asks for.
        self.asked.insert(key);
        self.table?
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    pub(super) fn section(&mut self, key: &'static str, mistakes: &mut Mistakes<'_>) -> Self {
        let name = self.path(key);
        let span = self.span.clone();
        match self.get(key) {
            None => Section {
                name,
                table: None,
                span,
                asked: HashSet::new(),
            },
            Some(value) => {
                let table = value.get_ref().as_table();
                if table.is_none() {
                    mistakes.add(&value.span(), format!("{name} must be a table"));
                }
                Section {
                    name,
                    table,
                    span: value.span(),
                    asked: HashSet::new(),
                }
            }
        }
    }

    pub(super) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    pub(super) fn text(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<String> {
        let path = self.path(key);
        let value = self.get(key)?;
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            mistakes.add(&value.span(), format!("{path} must be text"));
        }
        text
    }

    pub(super) fn required_text(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> String {
        // One that is there and no text is told below, and not as missing too.
        if self.get(key).is_none() {
            mistakes.add(&self.span, format!("{} is missing", self.path(key)));
        }
        self.text(key, mistakes).unwrap_or_default()
    }

    /// Text that `parse` turns into a value; its complaint becomes a mistake.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let path = self.path(key);
        let text = self.text(key, mistakes)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(why) => {
                let span = self.get(key).map_or(self.span.clone(), Spanned::span);
                mistakes.add(&span, format!("{path}: {why}"));
                None
            }
        }
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Duration> {
        self.parsed(key, mistakes, read_duration)
    }

    pub(super) fn boolean(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<bool> {
        let path = self.path(key);
        let value = self.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            mistakes.add(&value.span(), format!("{path} must be true or false"));
        }
        flag
    }

    /// A whole number in `1..=max`.
    pub(super) fn count(
        &mut self,
        key: &'static str,
        max: u32,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<u32> {
        let path = self.path(key);
        let value = self.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            // TOML writes whole numbers in hex, octal and binary, too.
            .and_then(|n| u32::from_str_radix(n.as_str(), n.radix()).ok());
        let number = number.filter(|n| (1..=max).contains(n));
        if number.is_none() {
            mistakes.add(
                &value.span(),
                format!("{path} must be a whole number from 1 to {max}"),
            );
        }
        number
    }

    /// A number in `0..=max`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        max: f64,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<f64> {
        let path = self.path(key);
        let value = self.get(key)?;
        let text = value
            .get_ref()
            .as_float()
            .map(|f| f.as_str())
            // TOML tells 2 from 2.0, and a person does not.
            .or(value.get_ref().as_integer().map(|i| i.as_str()));
        let number = text
            .and_then(|text| text.parse().ok())
            .filter(|n| (0.0..=max).contains(n));
        if number.is_none() {
            mistakes.add(
                &value.span(),
                format!("{path} must be a number from 0 to {max}"),
            );
        }
        number
    }

    pub(super) fn texts(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Vec<(String, Range<usize>)>> {
        let path = self.path(key);
        let value = self.get(key)?;
        let Some(list) = value.get_ref().as_array() else {
            mistakes.add(&value.span(), format!("{path} must be a list of texts"));
            return None;
        };
        let mut texts = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text.to_owned(), item.span())),
                None => mistakes.add(&item.span(), format!("{path} must hold texts only")),
            }
        }
        Some(texts)
    }

    /// All keys with text values, for tables whose keys are free.
    pub(super) fn all_texts(&self, mistakes: &mut Mistakes<'_>) -> Vec<(String, String)> {
        let mut texts = Vec::new();
        for (key, value) in self.table.iter().flat_map(|table| table.iter()) {
            match value.get_ref().as_str() {
                Some(text) => texts.push((key.get_ref().to_string(), text.to_owned())),
                None => mistakes.add(
                    &value.span(),
                    format!("{} must be text", self.path(key.get_ref())),
                ),
            }
        }
        texts
    }

    /// Tells every key that nobody asked for.
    pub(super) fn finish(self, mistakes: &mut Mistakes<'_>) {
        for (key, _) in self.table.iter().flat_map(|table| table.iter()) {
            let name: &str = key.get_ref();
            if !self.asked.contains(name) {
                let mut known: Vec<&str> = self.asked.iter().copied().collect();
                known.sort_unstable();
                mistakes.add(
                    &key.span(),
                    format!(
                        "unknown key {}; known are {}",
                        self.path(name),
                        known.join(", ")
                    ),
                );
            }
        }
    }
}

pub(super) fn read_duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .ok_or_else(|| format!("{text:?} is not a duration such as 250ms, 5s, 30m, 2h or 5d"))
}

/// The tables of a list of tables (`[[signature]]`).
pub(super) fn sections<'t>(
    parent: &mut Section<'t>,
    key: &'static str,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Section<'t>> {
    let path = parent.path(key);
    let Some(value) = parent.get(key) else {
        return Vec::new();
    };
    let Some(list) = value.get_ref().as_array() else {
        mistakes.add(&value.span(), format!("{path} must be a list of tables"));
        return Vec::new();
    };
    let mut sections = Vec::new();
    for item in list.iter() {
        match item.get_ref().as_table() {
            Some(table) => {
                sections.push(Section {
                    name: path.clone(),
                    table: Some(table),
                    span: item.span(),
                    asked: HashSet::new(),
                });
            }
            None => mistakes.add(&item.span(), format!("{path} must hold tables only")),
        }
    }
    sections
}
