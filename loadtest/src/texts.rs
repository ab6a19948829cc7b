//! Text as people and assistants write it: questions, and sentences of the manuals below a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, rngs::StdRng};

use crate::questions;

/// Shorter ones are headings and buttons, longer ones tables and listings.
const SENTENCE_LEN: std::ops::Range<usize> = 25..400;

/// What messages and documents are made of.
pub(crate) struct Texts {
    questions: Vec<String>,
    sentences: Vec<String>,
}

impl Texts {
    /// The built-in questions, and the sentences of the HTML pages below `folder`.
    ///
    /// # Errors
    /// If the folder cannot be read or holds no page with a sentence.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        collect_pages(folder, &mut paths)?;
        // The order of a folder is the file system's, and the same seed has to give the same rows.
        paths.sort();
        let mut sentences = Vec::new();
        for path in &paths {
            let page = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
            split(&strip_tags(&String::from_utf8_lossy(&page)), &mut sentences);
        }
        ensure!(!sentences.is_empty(), "there is no HTML page with a sentence below {}", folder.display());
        Ok(Self { questions: questions::read(None)?, sentences })
    }

    /// A question of a visitor.
    pub(crate) fn question(&self, rng: &mut StdRng) -> String {
        let question = &self.questions[skewed(rng, self.questions.len())];
        // A manual has more words than the questions, and visitors use those too.
        match rng.random_range(0..3) {
            0 => question.clone(),
            1 => format!("{question}? {}", self.sentence(rng)),
            _ => self.sentence(rng).to_owned(),
        }
    }

    /// An answer of a few sentences, seldom of many.
    pub(crate) fn answer(&self, rng: &mut StdRng) -> String {
        let mut sentences = 1;
        while sentences < 24 && rng.random_bool(0.6) {
            sentences += 1;
        }
        self.passage(rng, sentences)
    }

    /// So many sentences in a row.
    pub(crate) fn passage(&self, rng: &mut StdRng, sentences: usize) -> String {
        let first = rng.random_range(0..self.sentences.len());
        let last = (first + sentences).min(self.sentences.len());
        self.sentences[first..last].join(" ")
    }

    /// What somebody types into a search box: one to three words that stand beside each other somewhere.
    pub(crate) fn words(&self, rng: &mut StdRng) -> String {
        let count = rng.random_range(1..=3);
        let text = if rng.random_bool(0.5) {
            &self.questions[rng.random_range(0..self.questions.len())]
        } else {
            self.sentence(rng)
        };
        let words: Vec<&str> =
            text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| word.len() > 3).collect();
        let first = rng.random_range(0..words.len().max(1));
        words.iter().skip(first).take(count).copied().collect::<Vec<_>>().join(" ")
    }

    fn sentence(&self, rng: &mut StdRng) -> &str {
        &self.sentences[rng.random_range(0..self.sentences.len())]
    }
}

/// An index below `count`, low ones more often.
pub(crate) fn skewed(rng: &mut StdRng, count: usize) -> usize {
    let share: f64 = rng.random();
    ((share * share * count as f64) as usize).min(count - 1)
}

fn collect_pages(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect_pages(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            into.push(path);
        }
    }
    Ok(())
}

/// The text between tags, with a space for each tag. Manuals that are installed are all this has to read.
fn strip_tags(page: &str) -> String {
    let mut text = String::with_capacity(page.len() / 2);
    let mut rest = page;
    while let Some((before, after)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        let hidden = ["script", "style", "pre"].into_iter().find(|name| after.starts_with(name));
        rest = match hidden {
            Some(name) => after.split_once(&format!("</{name}>")).map_or("", |(_, rest)| rest),
            None => after.split_once('>').map_or("", |(_, rest)| rest),
        };
    }
    text.push_str(rest);
    for (entity, character) in [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#8217;", "’"), ("&amp;", "&")] {
        text = text.replace(entity, character);
    }
    text
}

fn split(text: &str, into: &mut Vec<String>) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentences = text.split_inclusive(". ").map(str::trim);
    into.extend(sentences.filter(|sentence| SENTENCE_LEN.contains(&sentence.len())).map(str::to_owned));
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn pages_become_sentences() {
        let page = "<html><style>p { x }</style><p>A <b>slot</b> keeps &lt;WAL&gt; for a\nreplica. Short. It is not \
            removed by itself, ever.</p><script>if (a < b) {}</script";
        let mut sentences = Vec::new();
        split(&strip_tags(page), &mut sentences);
        assert_eq!(sentences, ["A slot keeps <WAL> for a replica.", "It is not removed by itself, ever."]);
    }

    #[test]
    fn the_same_seed_writes_the_same() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages");
        let texts = Texts::read(&folder).expect("there are pages");
        let write = |seed| {
            let mut rng = StdRng::seed_from_u64(seed);
            [texts.question(&mut rng), texts.answer(&mut rng), texts.words(&mut rng)]
        };
        assert_eq!(write(1), write(1));
        assert_ne!(write(1), write(2));
        assert!(Texts::read(&folder.join("none")).is_err());
    }

    #[test]
    fn low_indexes_come_more_often() {
        let mut rng = StdRng::seed_from_u64(1);
        let picked: Vec<usize> = (0..1_000).map(|_| skewed(&mut rng, 10)).collect();
        let times = |index| picked.iter().filter(|picked| **picked == index).count();
        assert!(times(0) > 2 * times(9) && times(9) > 0 && picked.iter().all(|index| *index < 10));
    }
}
