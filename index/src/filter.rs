//! Filters over metadata: which chunks a search may find.
//!
//! The form is the one that OpenAI's vector stores use, with `not`, `exists` and lists besides:
//! `{"type": "eq", "key": "lang", "value": "en"}`, `{"type": "and", "filters": [ … ]}`.
//!
//! What a filter means, here and in SQL:
//! - A comparison is true only for a value of its own JSON type; numbers compare as `f64`, strings by code point.
//! - A missing key makes `eq`, `in` and the orders false. `ne` and `nin` are the negations of `eq` and `in`, so they are
//!   true where the key is missing. `null` counts as missing.
//! - A metadata value that is an array fits `eq` and `in` if one element does. Orders never fit arrays.
//! - Objects, and arrays within arrays, fit nothing but `exists`.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value, json};

/// Deepest nesting of `and`, `or` and `not`; a single comparison has depth 1.
pub const FILTER_DEPTH_MAX: usize = 16;
/// Most comparisons of one filter.
pub const FILTER_LEAVES_MAX: usize = 256;
/// Most values of one `in` or `nin`.
pub const FILTER_VALUES_MAX: usize = 1_024;

/// Which chunks may be found, by their metadata. Made by [`Filter::from_json`], which holds it to the bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    pub(crate) root: Node,
}

/// Why some JSON is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", at(path))]
pub struct FilterError {
    /// Where, as in `filters[1].key`; empty for the filter itself.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Leaf { key: String, test: Test },
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
}

/// What a leaf asks of its key's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    Equal(Scalar),
    NotEqual(Scalar),
    Order(Order, Scalar),
    In(Vec<Scalar>),
    NotIn(Vec<Scalar>),
    Exists,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// A value to compare with. A number stays as it was written, so that [`Filter::to_json`] gives it back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    Bool(bool),
    Number(Number),
    String(String),
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// Names the place and the mistake if it is not of the form above, or larger than [`FILTER_DEPTH_MAX`],
    /// [`FILTER_LEAVES_MAX`] and [`FILTER_VALUES_MAX`] allow.
    pub fn from_json(json: &Value) -> Result<Self, FilterError> {
        let mut reader = Reader { path: String::new(), leaves: 0 };
        Ok(Self { root: reader.node(json, 1)? })
    }

    /// The filter in the form that [`Filter::from_json`] reads.
    pub fn to_json(&self) -> Value {
        node_json(&self.root)
    }

    /// Every key that the filter asks about, in the order of first mention.
    pub fn keys(&self) -> Vec<&str> {
        let mut keys = Vec::new();
        collect_keys(&self.root, &mut keys);
        keys
    }

    /// How many comparisons it makes: each costs at most one pass over the chunks that have its key.
    pub fn comparisons(&self) -> usize {
        comparisons(&self.root)
    }
}

fn comparisons(node: &Node) -> usize {
    match node {
        Node::Leaf { .. } => 1,
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().map(comparisons).sum(),
        Node::Not(node) => comparisons(node),
    }
}

fn collect_keys<'a>(node: &'a Node, keys: &mut Vec<&'a str>) {
    match node {
        Node::Leaf { key, .. } if keys.contains(&key.as_str()) => {}
        Node::Leaf { key, .. } => keys.push(key),
        Node::And(nodes) | Node::Or(nodes) => nodes.iter().for_each(|node| collect_keys(node, keys)),
        Node::Not(node) => collect_keys(node, keys),
    }
}

/// Where in the JSON the reader is, and how much it has read.
struct Reader {
    path: String,
    leaves: usize,
}

impl Reader {
    fn node(&mut self, json: &Value, depth: usize) -> Result<Node, FilterError> {
        if depth > FILTER_DEPTH_MAX {
            return Err(self.error(format!("is nested deeper than {FILTER_DEPTH_MAX} levels")));
        }
        let Value::Object(object) = json else {
            return Err(self.error("must be an object with a \"type\""));
        };
        let kind = match object.get("type") {
            Some(Value::String(kind)) => kind.as_str(),
            Some(_) => return self.within("type", |reader| Err(reader.error("must be a string"))),
            None => return self.within("type", |reader| Err(reader.error("is missing"))),
        };
        match kind {
            "and" | "or" => {
                self.only(object, &["type", "filters"])?;
                let nodes = self.nodes(object, depth)?;
                Ok(if kind == "and" { Node::And(nodes) } else { Node::Or(nodes) })
            }
            "not" => {
                self.only(object, &["type", "filter"])?;
                let inner = self.member(object, "filter", |reader, json| reader.node(json, depth + 1))?;
                Ok(Node::Not(Box::new(inner)))
            }
            _ => self.leaf(kind, object),
        }
    }

    fn nodes(&mut self, object: &Map<String, Value>, depth: usize) -> Result<Vec<Node>, FilterError> {
        self.member(object, "filters", |reader, json| match json {
            Value::Array(filters) if !filters.is_empty() => filters
                .iter()
                .enumerate()
                .map(|(i, json)| reader.within(i, |reader| reader.node(json, depth + 1)))
                .collect(),
            _ => Err(reader.error("must be an array of at least one filter")),
        })
    }

    fn leaf(&mut self, kind: &str, object: &Map<String, Value>) -> Result<Node, FilterError> {
        self.leaves += 1;
        if self.leaves > FILTER_LEAVES_MAX {
            return Err(self.error(format!("is one of more than {FILTER_LEAVES_MAX} comparisons")));
        }
        if kind == "exists" {
            self.only(object, &["type", "key"])?;
            return Ok(Node::Leaf { key: self.key(object)?, test: Test::Exists });
        }
        let order = match kind {
            "eq" | "ne" | "in" | "nin" => None,
            "gt" => Some(Order::Greater),
            "gte" => Some(Order::GreaterOrEqual),
            "lt" => Some(Order::Less),
            "lte" => Some(Order::LessOrEqual),
            _ => {
                let told = "must be one of eq, ne, gt, gte, lt, lte, in, nin, exists, and, or, not";
                return self.within("type", |reader| Err(reader.error(told)));
            }
        };
        self.only(object, &["type", "key", "value"])?;
        let key = self.key(object)?;
        let test = self.member(object, "value", |reader, json| match (kind, order) {
            ("eq", _) => reader.scalar(json).map(Test::Equal),
            ("ne", _) => reader.scalar(json).map(Test::NotEqual),
            ("in", _) => reader.scalars(json).map(Test::In),
            (_, None) => reader.scalars(json).map(Test::NotIn),
            (_, Some(order)) => match reader.scalar(json)? {
                Scalar::Bool(_) => Err(reader.error("must be a string or a number: true and false have no order")),
                value => Ok(Test::Order(order, value)),
            },
        })?;
        Ok(Node::Leaf { key, test })
    }

    fn key(&mut self, object: &Map<String, Value>) -> Result<String, FilterError> {
        self.member(object, "key", |reader, json| match json {
            Value::String(key) => Ok(key.clone()),
            _ => Err(reader.error("must be a string")),
        })
    }

    fn scalar(&self, json: &Value) -> Result<Scalar, FilterError> {
        match json {
            Value::Bool(value) => Ok(Scalar::Bool(*value)),
            Value::Number(value) => Ok(Scalar::Number(value.clone())),
            Value::String(value) => Ok(Scalar::String(value.clone())),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(self.error("must be a string, a number or a boolean"))
            }
        }
    }

    fn scalars(&mut self, json: &Value) -> Result<Vec<Scalar>, FilterError> {
        let Value::Array(values) = json else {
            return Err(self.error("must be an array of strings, numbers and booleans"));
        };
        if values.len() > FILTER_VALUES_MAX {
            return Err(self.error(format!("has more than {FILTER_VALUES_MAX} values")));
        }
        values.iter().enumerate().map(|(i, json)| self.within(i, |reader| reader.scalar(json))).collect()
    }

    fn member<T>(
        &mut self,
        object: &Map<String, Value>,
        name: &str,
        read: impl FnOnce(&mut Self, &Value) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        self.within(name, |reader| match object.get(name) {
            Some(json) => read(reader, json),
            None => Err(reader.error("is missing")),
        })
    }

    /// Refuses what nobody would look at: a mistyped member must not widen a filter.
    fn only(&mut self, object: &Map<String, Value>, names: &[&str]) -> Result<(), FilterError> {
        match object.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => self.within(name.as_str(), |reader| Err(reader.error("is not known here"))),
        }
    }

    fn within<T>(
        &mut self,
        step: impl Into<Step>,
        read: impl FnOnce(&mut Self) -> Result<T, FilterError>,
    ) -> Result<T, FilterError> {
        let length_before = self.path.len();
        match step.into() {
            Step::Place(i) => {
                // Writing to a string cannot fail.
                let _ = write!(self.path, "[{i}]");
            }
            Step::Member(name) => {
                if !self.path.is_empty() {
                    self.path.push('.');
                }
                self.path.push_str(&name);
            }
        }
        let read = read(self);
        self.path.truncate(length_before);
        read
    }

    fn error(&self, message: impl Into<String>) -> FilterError {
        FilterError { path: self.path.clone(), message: message.into() }
    }
}

/// One step down in the JSON.
enum Step {
    Member(String),
    Place(usize),
}

impl From<&str> for Step {
    fn from(name: &str) -> Self {
        Self::Member(name.to_owned())
    }
}

impl From<usize> for Step {
    fn from(i: usize) -> Self {
        Self::Place(i)
    }
}

fn node_json(node: &Node) -> Value {
    let nodes_json = |nodes: &[Node]| nodes.iter().map(node_json).collect::<Vec<_>>();
    match node {
        Node::And(nodes) => json!({ "type": "and", "filters": nodes_json(nodes) }),
        Node::Or(nodes) => json!({ "type": "or", "filters": nodes_json(nodes) }),
        Node::Not(node) => json!({ "type": "not", "filter": node_json(node) }),
        Node::Leaf { key, test } => {
            let values_json = |values: &[Scalar]| values.iter().map(scalar_json).collect::<Vec<_>>();
            let (kind, value) = match test {
                Test::Exists => return json!({ "type": "exists", "key": key }),
                Test::Equal(value) => ("eq", scalar_json(value)),
                Test::NotEqual(value) => ("ne", scalar_json(value)),
                Test::Order(Order::Greater, value) => ("gt", scalar_json(value)),
                Test::Order(Order::GreaterOrEqual, value) => ("gte", scalar_json(value)),
                Test::Order(Order::Less, value) => ("lt", scalar_json(value)),
                Test::Order(Order::LessOrEqual, value) => ("lte", scalar_json(value)),
                Test::In(values) => ("in", Value::Array(values_json(values))),
                Test::NotIn(values) => ("nin", Value::Array(values_json(values))),
            };
            json!({ "type": kind, "key": key, "value": value })
        }
    }
}

fn scalar_json(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Bool(value) => Value::Bool(*value),
        Scalar::Number(value) => Value::Number(value.clone()),
        Scalar::String(value) => Value::String(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: Value, path: &str, message_part: &str) {
        let error = Filter::from_json(&json).expect_err("a filter that is none");
        assert_eq!(error.path, path, "{json}");
        assert!(error.message.contains(message_part), "{json}: {}", error.message);
    }

    #[test]
    fn what_is_read_is_given_back() {
        let json = json!({ "type": "and", "filters": [
            { "type": "eq", "key": "lang", "value": "en" },
            { "type": "or", "filters": [
                { "type": "gte", "key": "year", "value": 2020 },
                { "type": "lt", "key": "price", "value": 9.5 },
                { "type": "gt", "key": "name", "value": "m" },
                { "type": "lte", "key": "big", "value": 18_446_744_073_709_551_615_u64 },
            ]},
            { "type": "not", "filter": { "type": "exists", "key": "hidden" } },
            { "type": "ne", "key": "draft", "value": true },
            { "type": "in", "key": "tag", "value": ["a", 1, false] },
            { "type": "nin", "key": "tag", "value": [] },
        ]});
        let filter = Filter::from_json(&json).expect("a filter");
        assert_eq!(filter.to_json(), json);
        assert_eq!(filter.keys(), ["lang", "year", "price", "name", "big", "hidden", "draft", "tag"]);
        assert_eq!(filter.comparisons(), json.to_string().matches("\"key\"").count());
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        refused(json!("lang = en"), "", "must be an object");
        refused(json!({}), "type", "is missing");
        refused(json!({ "type": 1 }), "type", "must be a string");
        refused(json!({ "type": "like", "key": "a", "value": "b" }), "type", "must be one of");
        refused(json!({ "type": "eq", "value": "b" }), "key", "is missing");
        refused(json!({ "type": "eq", "key": 7, "value": "b" }), "key", "must be a string");
        refused(json!({ "type": "eq", "key": "a" }), "value", "is missing");
        refused(json!({ "type": "eq", "key": "a", "value": null }), "value", "must be a string, a number");
        refused(json!({ "type": "gt", "key": "a", "value": true }), "value", "no order");
        refused(json!({ "type": "in", "key": "a", "value": "b" }), "value", "must be an array");
        refused(json!({ "type": "in", "key": "a", "value": ["b", {}] }), "value[1]", "must be a string, a number");
        refused(json!({ "type": "exists", "key": "a", "value": 1 }), "value", "is not known");
        refused(json!({ "type": "and" }), "filters", "is missing");
        refused(json!({ "type": "or", "filters": [] }), "filters", "at least one");
        refused(json!({ "type": "not", "filter": [] }), "filter", "must be an object");
        let second = json!({ "type": "not", "filter": { "type": "eq", "key": null, "value": 1 } });
        let first = json!({ "type": "exists", "key": "a" });
        refused(json!({ "type": "and", "filters": [first, second] }), "filters[1].filter.key", "must be a string");
    }

    #[test]
    fn bounds_hold() {
        let leaf = json!({ "type": "exists", "key": "a" });
        let nested =
            |levels: usize| (1..levels).fold(leaf.clone(), |inner, _| json!({ "type": "not", "filter": inner }));
        assert!(Filter::from_json(&nested(FILTER_DEPTH_MAX)).is_ok());
        refused(nested(FILTER_DEPTH_MAX + 1), &vec!["filter"; FILTER_DEPTH_MAX].join("."), "nested deeper");
        let wide = |leaves: usize| json!({ "type": "or", "filters": vec![leaf.clone(); leaves] });
        assert!(Filter::from_json(&wide(FILTER_LEAVES_MAX)).is_ok());
        refused(wide(FILTER_LEAVES_MAX + 1), "filters[256]", "more than 256");
        let listed = |values: usize| json!({ "type": "in", "key": "a", "value": vec![1; values] });
        assert!(Filter::from_json(&listed(FILTER_VALUES_MAX)).is_ok());
        refused(listed(FILTER_VALUES_MAX + 1), "value", "more than 1024");
    }

    #[test]
    fn an_error_reads_well_alone() {
        let error = Filter::from_json(&json!({ "type": "eq", "key": "a" })).expect_err("no value");
        assert_eq!(error.to_string(), "value: is missing");
        assert_eq!(
            Filter::from_json(&json!(1)).expect_err("a number").to_string(),
            "must be an object with a \"type\""
        );
    }
}
