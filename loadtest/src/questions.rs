//! The questions that are asked.

use std::path::Path;

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Asked if no file is named.
const BUILT_IN: &str = include_str!("../questions/postgresql.txt");

/// The questions in `file`, one a line, or the built-in ones; empty lines and those that start with `#` are left out.
///
/// # Errors
/// If the file cannot be read or holds no question.
pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let text = match file {
        Some(file) => &std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?,
        None => BUILT_IN,
    };
    let questions = parse(text);
    ensure!(!questions.is_empty(), "there is no question to ask");
    Ok(questions)
}

fn parse(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Picks questions at random, the same for the same connection of each peer.
#[derive(Debug)]
pub(crate) struct Picker {
    rng: StdRng,
    count: usize,
}

impl Picker {
    /// Picks among `count` questions for the connection with this number.
    pub(crate) fn new(count: usize, connection: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(connection), count }
    }

    /// The next question's index.
    pub(crate) fn pick(&mut self) -> usize {
        self.rng.random_range(0..self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_questions_are_many_and_differ() {
        let questions = read(None).expect("they are built in");
        let distinct: std::collections::BTreeSet<_> = questions.iter().collect();
        assert!(questions.len() >= 120);
        assert_eq!(distinct.len(), questions.len());
    }

    #[test]
    fn comments_and_empty_lines_are_no_questions() {
        assert_eq!(parse("# none\n\n  how so?  \nwhy\n"), ["how so?", "why"]);
        assert!(parse("# none\n\n").is_empty());
    }

    #[test]
    fn each_connection_has_a_sequence_of_its_own_that_repeats() {
        let sequence = |connection| {
            let mut picker = Picker::new(1_000, connection);
            std::iter::repeat_with(|| picker.pick()).take(20).collect::<Vec<_>>()
        };
        assert_eq!(sequence(1), sequence(1));
        assert_ne!(sequence(1), sequence(2));
    }
}
