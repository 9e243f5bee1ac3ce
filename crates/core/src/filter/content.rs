//! Which events an endpoint asked for by what they carry: conditions on `data` and `meta`, in the operators that users know
//! from MongoDB and Hookdeck.
//!
//! A filter is compiled when it is set, and asked for each event in the store's writer. What it may cost is bounded
//! twice: by its own size, and by [`FILTER_STEPS_MAX`] for all filters that look at one event. When an event's steps are
//! used up, the filters that are left let it through: too much is delivered rather than too little.

use std::cell::{Cell, OnceCell};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::json::check_json;
use crate::limits::{
    FILTER_BYTES_MAX, FILTER_CONDITIONS_MAX, FILTER_DEPTH_MAX, FILTER_STEPS_MAX,
    FILTER_TYPED_BYTES_MAX, FILTER_VALUES_MAX,
};

/// Conditions on what an event carries. Kept as the user wrote it.
///
/// Read back from where it is kept, it is tolerant: one that a newer version wrote, and this one does not understand, lets
/// every event through.
#[derive(Clone, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct ContentFilter {
    written: Value,
    /// None where it is not understood.
    condition: Option<Condition>,
}

impl fmt::Debug for ContentFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

impl PartialEq for ContentFilter {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for ContentFilter {}

impl From<ContentFilter> for Value {
    fn from(filter: ContentFilter) -> Self {
        filter.written
    }
}

impl From<Value> for ContentFilter {
    fn from(written: Value) -> Self {
        // As it was taken when it was set: what is refused today may be stored.
        let read = Self::compiled(written.clone(), false);
        read.unwrap_or(Self {
            written,
            condition: None,
        })
    }
}

/// From what a person typed.
impl FromStr for ContentFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        // With the lines and blanks that a person likes.
        if text.len() > FILTER_TYPED_BYTES_MAX {
            return Err(InvalidFilter::TooLong);
        }
        // serde_json takes the last of two keys alike without a word, and the user sees a condition that is
        // not there.
        check_json(text.as_bytes()).map_err(|error| InvalidFilter::NotJson(error.to_string()))?;
        let written = serde_json::from_str(text);
        Self::new(written.map_err(|error| InvalidFilter::NotJson(error.to_string()))?)
    }
}

/// Why something is no filter, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    #[error("{0}")]
    NotJson(String),
    #[error("{0} must be an object of conditions, such as {{\"data.amount\": {{\"$gte\": 100}}}}")]
    NotAnObject(String),
    #[error("must have a condition; null takes a filter away")]
    Empty,
    #[error("must have at most {FILTER_BYTES_MAX} bytes")]
    TooLong,
    #[error("must have at most {FILTER_CONDITIONS_MAX} conditions")]
    TooMany,
    #[error("must be nested at most {FILTER_DEPTH_MAX} deep")]
    TooDeep,
    #[error("has {0:?}, but an event has data and meta only: write \"data.{0}\"")]
    NotAPath(String),
    #[error("{0} has an empty part")]
    EmptyPart(String),
    #[error("{0} has the operator {1} in its path: write {{\"data.amount\": {{\"$gte\": 100}}}}")]
    OperatorInPath(String, String),
    #[error(
        "{0} has the operator {1:?}; there are $eq $ne $gt $gte $lt $lte $in $nin $exists $startsWith $endsWith on a value, and $and $or $not on conditions"
    )]
    UnknownOperator(String, String),
    #[error("{0} compares nothing: {1} belongs behind a path such as data.amount")]
    NoPath(String, String),
    #[error("{0} must be {1}")]
    Operand(String, &'static str),
}

#[derive(Debug, Clone)]
enum Condition {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Test { path: Path, test: Test },
}

#[derive(Debug, Clone)]
enum Test {
    Equal(Value),
    OneOf(Vec<Value>),
    Order(Relation, Value),
    Exists,
    StartsWith(String),
    EndsWith(String),
}

#[derive(Debug, Clone, Copy)]
enum Relation {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// Where in an event: `data` or `meta`, and the way from there.
#[derive(Debug, Clone)]
struct Path {
    in_meta: bool,
    parts: Vec<String>,
}

impl ContentFilter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn new(written: Value) -> Result<Self, InvalidFilter> {
        Self::compiled(written, true)
    }

    /// `strict` where somebody sets it, who is told of what nothing meets.
    fn compiled(written: Value, strict: bool) -> Result<Self, InvalidFilter> {
        // Without the lines and blanks that it may have been typed with.
        if written.to_string().len() > FILTER_BYTES_MAX {
            return Err(InvalidFilter::TooLong);
        }
        let Value::Object(conditions) = &written else {
            return Err(InvalidFilter::NotAnObject("a filter".to_owned()));
        };
        if conditions.is_empty() {
            return Err(InvalidFilter::Empty);
        }
        let mut compiler = Compiler {
            conditions: 0,
            strict,
        };
        let condition = Some(compiler.object(conditions, "", 0)?);
        Ok(Self { written, condition })
    }

    /// Whether an event meets it.
    pub fn matches(&self, content: &Content<'_>) -> bool {
        // Once they are used up nothing is looked at any more.
        let Some(condition) = &self.condition else {
            return true;
        };
        // Asked again: below a `$not`, a look that broke off comes out as met or as not met by chance.
        content.is_used_up() || condition.is_met(content) || content.is_used_up()
    }

    /// Whether this version knows what it means.
    pub fn is_understood(&self) -> bool {
        self.condition.is_some()
    }

    /// What the user wrote, as JSON.
    pub fn text(&self) -> String {
        self.written.to_string()
    }

    pub fn written(&self) -> &Value {
        &self.written
    }

    /// The first condition that an event does not meet, as the user wrote it; none where it meets all.
    pub fn unmet(&self, content: &Content<'_>) -> Option<String> {
        if self.matches(content) {
            return None;
        }
        let conditions = self.written.as_object()?;
        for (key, value) in conditions {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            let own = Self::new(Value::Object(alone)).ok()?;
            if !own.matches(content) {
                return Some(own.text());
            }
        }
        // The steps ran out while the conditions were asked one by one.
        Some(self.text())
    }
}

struct Compiler {
    conditions: usize,
    strict: bool,
}

impl Compiler {
    /// An object of conditions below `path`: each of them must be met.
    fn object(
        &mut self,
        conditions: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Condition, InvalidFilter> {
        if depth > FILTER_DEPTH_MAX {
            return Err(InvalidFilter::TooDeep);
        }
        let mut all = Vec::with_capacity(conditions.len());
        for (key, value) in conditions {
            self.count()?;
            all.push(match key.as_str() {
                "$and" => Condition::All(self.list(value, key, path, depth)?),
                "$or" => Condition::Any(self.list(value, key, path, depth)?),
                "$not" => {
                    let inner = self.one(value, key, path, depth)?;
                    Condition::Not(Box::new(inner))
                }
                operator if operator.starts_with('$') => test(operator, value, path, self.strict)?,
                part => {
                    let below = if path.is_empty() {
                        part.to_owned()
                    } else {
                        format!("{path}.{part}")
                    };
                    match value {
                        // An empty object has no conditions: it is a value to compare with.
                        Value::Object(inner) if !inner.is_empty() => {
                            self.object(inner, &below, depth + 1)?
                        }
                        literal => test("$eq", literal, &below, self.strict)?,
                    }
                }
            });
        }
        Ok(match <[Condition; 1]>::try_from(all) {
            Ok([only]) => only,
            Err(all) => Condition::All(all),
        })
    }

    fn list(
        &mut self,
        value: &Value,
        operator: &str,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Condition>, InvalidFilter> {
        let of_some = value.as_array().filter(|list| !list.is_empty());
        let list = of_some.ok_or_else(|| {
            InvalidFilter::Operand(operator.to_owned(), "a list of conditions, not empty")
        })?;
        let each = list.iter();
        each.map(|value| self.one(value, operator, path, depth))
            .collect()
    }

    fn one(
        &mut self,
        value: &Value,
        operator: &str,
        path: &str,
        depth: usize,
    ) -> Result<Condition, InvalidFilter> {
        let of_some = value.as_object().filter(|object| !object.is_empty());
        let object = of_some.ok_or_else(|| InvalidFilter::NotAnObject(operator.to_owned()))?;
        self.object(object, path, depth + 1)
    }

    fn count(&mut self) -> Result<(), InvalidFilter> {
        self.conditions += 1;
        if self.conditions > FILTER_CONDITIONS_MAX {
            return Err(InvalidFilter::TooMany);
        }
        Ok(())
    }
}

fn test(
    operator: &str,
    operand: &Value,
    path: &str,
    strict: bool,
) -> Result<Condition, InvalidFilter> {
    if path.is_empty() {
        let (what, shown) = (operator.to_owned(), operator.to_owned());
        return Err(if is_known(operator) {
            InvalidFilter::NoPath(what, shown)
        } else {
            InvalidFilter::UnknownOperator("a filter".to_owned(), shown)
        });
    }
    let wrong = |must| InvalidFilter::Operand(format!("{operator} of {path}"), must);
    let text = || {
        let text = operand.as_str().map(str::to_owned);
        text.ok_or_else(|| wrong("a text"))
    };
    let values = || {
        let values = operand
            .as_array()
            .filter(|values| !values.is_empty() && values.len() <= FILTER_VALUES_MAX);
        values
            .cloned()
            .ok_or_else(|| wrong("a list of 1 to 100 values"))
    };
    let order = |relation| match operand {
        Value::Number(_) | Value::String(_) => Ok(Test::Order(relation, operand.clone())),
        _ => Err(wrong("a number or a text")),
    };
    let (is_negated, test) = match operator {
        "$eq" => (false, Test::Equal(operand.clone())),
        "$ne" => (true, Test::Equal(operand.clone())),
        "$in" => (false, Test::OneOf(values()?)),
        "$nin" => (true, Test::OneOf(values()?)),
        "$gt" => (false, order(Relation::Greater)?),
        "$gte" => (false, order(Relation::GreaterOrEqual)?),
        "$lt" => (false, order(Relation::Less)?),
        "$lte" => (false, order(Relation::LessOrEqual)?),
        "$exists" => {
            let wanted = operand.as_bool().ok_or_else(|| wrong("true or false"))?;
            (!wanted, Test::Exists)
        }
        "$startsWith" => (false, Test::StartsWith(text()?)),
        "$endsWith" => (false, Test::EndsWith(text()?)),
        unknown => {
            let (path, unknown) = (path.to_owned(), unknown.to_owned());
            return Err(InvalidFilter::UnknownOperator(path, unknown));
        }
    };
    let condition = Condition::Test {
        path: Path::read(path, strict)?,
        test,
    };
    Ok(if is_negated {
        Condition::Not(Box::new(condition))
    } else {
        condition
    })
}

/// Operators on conditions.
const COMBINING: [&str; 3] = ["$and", "$or", "$not"];

/// Whether it is an operator on a value.
fn is_known(operator: &str) -> bool {
    [
        "$eq",
        "$ne",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$in",
        "$nin",
        "$exists",
        "$startsWith",
        "$endsWith",
    ]
    .contains(&operator)
}

impl Path {
    fn read(text: &str, strict: bool) -> Result<Self, InvalidFilter> {
        let mut parts = text.split('.').map(str::to_owned);
        let in_meta = match parts.next().as_deref() {
            Some("data") => false,
            Some("meta") => true,
            _ => return Err(InvalidFilter::NotAPath(text.to_owned())),
        };
        let parts: Vec<String> = parts.collect();
        if parts.iter().any(String::is_empty) {
            return Err(InvalidFilter::EmptyPart(text.to_owned()));
        }
        // As a name it would be met by no event, and its endpoint would get nothing without a word.
        let is_operator = |part: &&String| is_known(part) || COMBINING.contains(&part.as_str());
        if strict && let Some(operator) = parts.iter().find(is_operator) {
            let (text, operator) = (text.to_owned(), operator.to_owned());
            return Err(InvalidFilter::OperatorInPath(text, operator));
        }
        Ok(Self { in_meta, parts })
    }
}

/// What filters look at of one event: parsed when the first one asks, and the steps they have left together.
pub struct Content<'e> {
    data: &'e Bytes,
    meta: Option<&'e Bytes>,
    parsed: OnceCell<(Value, Option<Value>)>,
    steps: Cell<u32>,
}

impl fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} steps left)", self.steps.get())
    }
}

impl<'e> Content<'e> {
    pub fn new(data: &'e Bytes, meta: Option<&'e Bytes>) -> Self {
        Self {
            data,
            meta,
            parsed: OnceCell::new(),
            steps: Cell::new(FILTER_STEPS_MAX),
        }
    }

    /// The steps that have been taken.
    pub fn steps_taken(&self) -> u32 {
        FILTER_STEPS_MAX - self.steps.get()
    }

    /// The data, or the meta if there is any.
    fn root(&self, in_meta: bool) -> Option<&Value> {
        // What is accepted may have numbers and escapes that this reader refuses: then nothing can be decided.
        let parse = |bytes: &[u8]| {
            serde_json::from_slice(bytes).unwrap_or_else(|_| {
                self.steps.set(0);
                Value::Null
            })
        };
        let (data, meta) = self.parsed.get_or_init(|| {
            let meta = self.meta.map(|meta| parse(meta));
            (parse(self.data), meta)
        });
        // Meta that is not there is not null, and `$exists` tells the two apart.
        if in_meta { meta.as_ref() } else { Some(data) }
    }

    /// Takes a step; false when there are none left.
    fn step(&self) -> bool {
        self.steps.set(self.steps.get().saturating_sub(1));
        !self.is_used_up()
    }

    fn is_used_up(&self) -> bool {
        self.steps.get() == 0
    }
}

impl Condition {
    fn is_met(&self, content: &Content<'_>) -> bool {
        if content.is_used_up() {
            // What it says does not count: `matches` asks whether the steps are used up.
            return false;
        }
        match self {
            Self::All(all) => all.iter().all(|condition| condition.is_met(content)),
            Self::Any(any) => any.iter().any(|condition| condition.is_met(content)),
            Self::Not(condition) => !condition.is_met(content),
            Self::Test { path, test } => {
                let root = content.root(path.in_meta);
                root.is_some_and(|root| test.is_met_below(root, &path.parts, content))
            }
        }
    }
}

impl Test {
    /// Whether a value at the end of the way passes. On its way through a list, and at its end, each element counts.
    fn is_met_below(&self, value: &Value, way: &[String], content: &Content<'_>) -> bool {
        if !content.step() {
            return false;
        }
        let Some((part, rest)) = way.split_first() else {
            return self.is_met_by(value, content);
        };
        match value {
            Value::Object(object) => object
                .get(part)
                .is_some_and(|value| self.is_met_below(value, rest, content)),
            // A number is a place in the list; any other name is looked for in each element, as MongoDB has
            // it.
            Value::Array(list) => match part.parse::<usize>() {
                Ok(index) => list
                    .get(index)
                    .is_some_and(|value| self.is_met_below(value, rest, content)),
                Err(_) => list
                    .iter()
                    .take_while(|_| !content.is_used_up())
                    // With the same way: the list itself is no part of it.
                    .any(|element| self.is_met_below(element, way, content)),
            },
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }

    fn is_met_by(&self, value: &Value, content: &Content<'_>) -> bool {
        if matches!(self, Self::Exists) || self.is_met_alone(value, content) {
            return true;
        }
        value.as_array().is_some_and(|list| {
            let mut elements = list.iter().take_while(|_| !content.is_used_up());
            elements.any(|element| content.step() && self.is_met_alone(element, content))
        })
    }

    fn is_met_alone(&self, value: &Value, content: &Content<'_>) -> bool {
        match self {
            Self::Equal(wanted) => equal(value, wanted),
            Self::OneOf(wanted) => {
                let mut wanted = wanted.iter();
                wanted.any(|wanted| content.step() && equal(value, wanted))
            }
            Self::Order(relation, bound) => {
                compared(value, bound).is_some_and(|order| relation.holds(order))
            }
            Self::Exists => true,
            Self::StartsWith(start) => value.as_str().is_some_and(|text| text.starts_with(start)),
            Self::EndsWith(end) => value.as_str().is_some_and(|text| text.ends_with(end)),
        }
    }
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}

/// Numbers are equal by their value, `1` and `1.0` too; all else as JSON is.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            in_order(left, right) == Some(Ordering::Equal)
        }
        _ => left == right,
    }
}

/// Numbers by their value and texts by their characters, so that times in ISO 8601 are in order; others do not compare.
fn compared(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => in_order(left, right),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => None,
    }
}

/// Integers exactly, others to the nearest double.
fn in_order(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}
