//! Reading rows: columns by name, and JSON objects that travel as text.

use serde_json::{Map, Value};
use tertulia_index::Analyzer;
use tokio_postgres::{Row, types::FromSql};

use super::{StoreError, tx::Statement};

/// A row together with the statement that gave it, which errors name.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    statement: &'static str,
    row: &'a Row,
}

impl<'a> Reader<'a> {
    pub(super) fn new(statement: &Statement, row: &'a Row) -> Self {
        Self { statement: statement.name, row }
    }

    /// The value of a column.
    pub(super) fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T, StoreError> {
        self.row.try_get(column).map_err(|error| self.unreadable(column, error))
    }

    /// A number that the schema keeps from being negative.
    pub(super) fn count(&self, column: &str) -> Result<u64, StoreError> {
        let number: i64 = self.get(column)?;
        u64::try_from(number).map_err(|error| self.unreadable(column, error))
    }

    /// A small number that the schema keeps from being negative.
    pub(super) fn small_count(&self, column: &str) -> Result<u32, StoreError> {
        let number: i32 = self.get(column)?;
        u32::try_from(number).map_err(|error| self.unreadable(column, error))
    }

    /// An analyzer, of which the column is the name.
    pub(super) fn analyzer(&self, column: &str) -> Result<Analyzer, StoreError> {
        let name: &str = self.get(column)?;
        let unknown = || self.unreadable(column, std::io::Error::other(format!("this server knows no {name}")));
        Analyzer::named(name).ok_or_else(unknown)
    }

    /// A JSON object, of which the column is the text.
    pub(super) fn object(&self, column: &str) -> Result<Map<String, Value>, StoreError> {
        serde_json::from_str(self.get(column)?).map_err(|error| self.unreadable(column, error))
    }

    /// A SHA-256.
    pub(super) fn sha256(&self, column: &str) -> Result<[u8; 32], StoreError> {
        let bytes: &[u8] = self.get(column)?;
        bytes.try_into().map_err(|error: std::array::TryFromSliceError| self.unreadable(column, error))
    }

    /// A vector, of which the column is what `vector_send` makes: its length and a spare number of 16 bits each, then
    /// its components as f32, all big-endian. A third of the size of `real[]`.
    pub(super) fn vector(&self, column: &str) -> Result<Vec<f32>, StoreError> {
        let bytes: &[u8] = self.get(column)?;
        read_vector(bytes).ok_or_else(|| self.unreadable(column, std::io::Error::other("it is no vector")))
    }

    fn unreadable(&self, column: &str, error: impl Into<anyhow::Error>) -> StoreError {
        StoreError::Row { statement: self.statement, source: error.into().context(format!("the column {column}")) }
    }
}

fn read_vector(bytes: &[u8]) -> Option<Vec<f32>> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (_spare, components) = rest.split_first_chunk::<2>()?;
    let (components, left) = components.as_chunks::<4>();
    let fits = left.is_empty() && components.len() == usize::from(u16::from_be_bytes(*length));
    fits.then(|| components.iter().map(|component| f32::from_be_bytes(*component)).collect())
}

/// `object` as text, for a parameter that the statement casts to `jsonb`.
pub(super) fn object_text(object: &Map<String, Value>) -> String {
    if object.is_empty() { "{}".into() } else { Value::Object(object.clone()).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_from_what_vector_send_makes() {
        let bytes = [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xbf, 0, 0, 0];
        assert_eq!(read_vector(&bytes), Some(vec![1.0, -0.5]));
        for bad in [&bytes[..11], &bytes[..8], &bytes[..3], &[]] {
            assert_eq!(read_vector(bad), None);
        }
    }
}
