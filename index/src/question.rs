//! The language of questions in the modes that ask for words: plain words, `"phrases in quotes"`, `-exclusions`.
//!
//! A hit has every phrase: its terms one right after the other in the title, the headings or the text. It has nothing
//! that is excluded. Whatever else the question holds ranks, the words of phrases too. No question is wrong: a quote
//! that is never closed and a dash that stands alone, within a word or twice are read as what they are in plain text.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::{
    analyze::Analyzer,
    bits::Bits,
    words::{Words, WordsDoc},
};

/// Most phrases and exclusions of one question that a caller should let pass: a chunk that may fit is held against each.
pub const CONDITIONS_MAX: usize = 32;

/// A question taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    words: Cow<'a, str>,
    phrases: Vec<&'a str>,
    excluded: Vec<&'a str>,
}

impl<'a> Question<'a> {
    /// Takes `text` apart.
    ///
    /// A phrase stands between two quotes, typographic ones too, of which the first does not follow a letter or digit
    /// (an inch is no quote). An exclusion is a dash at the start or after a blank with a phrase or a word right behind
    /// it; a dash before a single ASCII letter or digit is the name of an option (`-v`), and excludes nothing.
    pub fn parse(text: &'a str) -> Self {
        let mut question = Self { words: Cow::Borrowed(text), phrases: Vec::new(), excluded: Vec::new() };
        // 0xe2 begins typographic quotes, and little else.
        if !text.bytes().any(|byte| matches!(byte, b'"' | b'-' | 0xe2)) {
            return question;
        }
        let mut words = String::with_capacity(text.len());
        let mut before = ' ';
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            if !before.is_alphanumeric()
                && let Some((phrase, end)) = quoted(text, at)
            {
                question.phrases.push(phrase);
                words.extend([" ", phrase, " "]);
                (before, at) = ('"', end);
            } else if before.is_whitespace()
                && character == '-'
                && let Some((excluded, end)) = quoted(text, at + 1).or_else(|| excludable(text, at + 1))
            {
                question.excluded.push(excluded);
                (before, at) = (' ', end);
            } else {
                words.push(character);
                (before, at) = (character, at + character.len_utf8());
            }
        }
        if question.conditions() > 0 {
            question.words = Cow::Owned(words);
        }
        question
    }

    /// `text` as nothing but words.
    pub fn plain(text: &'a str) -> Self {
        Self { words: Cow::Borrowed(text), phrases: Vec::new(), excluded: Vec::new() }
    }

    /// What ranks, and what an embedding should be of: the question without exclusions and without the quotes of phrases.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// What every hit has.
    pub fn phrases(&self) -> &[&'a str] {
        &self.phrases
    }

    /// What no hit has: words and phrases.
    pub fn excluded(&self) -> &[&'a str] {
        &self.excluded
    }

    /// How many phrases and exclusions there are.
    pub fn conditions(&self) -> usize {
        self.phrases.len() + self.excluded.len()
    }

    /// Whether there are exclusions and nothing that they are excluded from: no chunk answers that.
    pub fn only_excludes(&self) -> bool {
        !self.excluded.is_empty() && !self.words.chars().any(char::is_alphanumeric)
    }
}

fn is_quote(character: char) -> bool {
    matches!(character, '"' | '“' | '”' | '„')
}

/// What stands between the quote at `at` and the next one, and the place behind that.
fn quoted(text: &str, at: usize) -> Option<(&str, usize)> {
    let inside = text[at..].strip_prefix(is_quote)?;
    let end = inside.find(is_quote)?;
    let behind = inside[end..].chars().next().map_or(0, char::len_utf8);
    Some((&inside[..end], text.len() - inside.len() + end + behind))
}

/// The word at `at`, up to the next blank, and the place behind it.
fn excludable(text: &str, at: usize) -> Option<(&str, usize)> {
    let word = text[at..].split(char::is_whitespace).next()?;
    let is_option = word.trim_end_matches(|last: char| last.is_ascii_punctuation()).len() < 2;
    (word.starts_with(|first: char| first.is_alphanumeric() || first == '_') && !is_option)
        .then_some((word, at + word.len()))
}

/// A question's phrases and exclusions as the terms of an analyzer. Those without any term are left out.
pub(crate) struct Conditions {
    analyzer: Analyzer,
    required: Vec<Sequence>,
    excluded: Vec<Sequence>,
    /// Number of each term, from 1.
    terms: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    /// No chunk is asked for.
    is_nothing: bool,
}

/// Terms that stand one right after the other, by number; not empty.
type Sequence = Vec<u32>;

impl Conditions {
    /// None if every chunk fulfils them.
    pub(crate) fn of(question: &Question<'_>, analyzer: Analyzer) -> Option<Self> {
        if question.conditions() == 0 {
            return None;
        }
        let mut terms = HashMap::default();
        let mut sequences = |texts: &[&str]| -> Vec<Sequence> {
            let sequence = |text: &&str| {
                let mut sequence = Vec::new();
                analyzer.terms(text, &mut |term| {
                    let next = terms.len() as u32 + 1;
                    sequence.push(*terms.entry(term.into()).or_insert(next));
                });
                sequence
            };
            texts.iter().map(sequence).filter(|sequence| !sequence.is_empty()).collect()
        };
        let (required, excluded) = (sequences(&question.phrases), sequences(&question.excluded));
        let is_nothing = question.only_excludes();
        (!required.is_empty() || !excluded.is_empty() || is_nothing).then_some(Self {
            analyzer,
            required,
            excluded,
            terms,
            is_nothing,
        })
    }

    /// Those of the documents of `live`, all if `None`, that fulfil every condition. `text`: what document is made of.
    ///
    /// A document without one of a phrase's terms needs no look at its text; another one is analyzed anew, 50 ns a word.
    pub(crate) fn kept<'a>(&self, words: &Words, live: Option<&Bits>, text: impl Fn(u32) -> WordsDoc<'a>) -> Bits {
        if self.is_nothing {
            return Bits::zeros(words.len());
        }
        let mut with = vec![Bits::zeros(words.len()); self.terms.len()];
        for (term, number) in &self.terms {
            words.docs(term).for_each(|doc| _ = with[*number as usize - 1].set(doc, true));
        }
        let mut kept = live.cloned().unwrap_or_else(|| Bits::ones(words.len()));
        for term in self.required.iter().flatten() {
            kept.and(&with[*term as usize - 1]);
        }
        // Documents whose terms alone do not tell.
        let mut unclear = Bits::zeros(words.len());
        if self.required.iter().any(|sequence| sequence.len() > 1) {
            unclear = kept.clone();
        }
        for sequence in &self.excluded {
            let mut all = kept.clone();
            sequence.iter().for_each(|term| all.and(&with[*term as usize - 1]));
            if sequence.len() > 1 {
                unclear.or(&all);
            } else {
                all.not();
                kept.and(&all);
            }
        }
        unclear.and(&kept);
        let mut fields = Fields::default();
        for doc in unclear.iter_ones() {
            fields.read(self, &text(doc));
            let fits = self.required.iter().all(|sequence| fields.have(sequence))
                && !self.excluded.iter().any(|sequence| fields.have(sequence));
            kept.set(doc, fits);
        }
        kept
    }
}

/// The terms of a document's fields, one field after the other: numbers of a question's terms, 0 for any other one.
#[derive(Default)]
struct Fields {
    terms: Vec<u32>,
}

impl Fields {
    fn read(&mut self, conditions: &Conditions, doc: &WordsDoc<'_>) {
        self.terms.clear();
        for field in [doc.title, doc.heading, doc.content] {
            conditions.analyzer.terms(field, &mut |term| {
                self.terms.push(conditions.terms.get(term).copied().unwrap_or(0));
            });
            // No phrase goes across.
            self.terms.push(0);
        }
    }

    fn have(&self, sequence: &[u32]) -> bool {
        self.terms.windows(sequence.len()).any(|terms| terms == sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, words: &str, phrases: &[&str], excluded: &[&str]) {
        let question = Question::parse(text);
        let tidy = question.words().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((tidy.as_str(), question.phrases(), question.excluded()), (words, phrases, excluded), "{text:?}");
    }

    #[test]
    fn phrases_stand_in_quotes() {
        check(r#"the "write ahead log" grows"#, "the write ahead log grows", &["write ahead log"], &[]);
        check("„erste“ und “second one”", "erste und second one", &["erste", "second one"], &[]);
        check(r#"("a b")"c""#, "( a b ) c", &["a b", "c"], &[]);
        check(r#""-v --all""#, "-v --all", &["-v --all"], &[]);
    }

    #[test]
    fn exclusions_begin_with_a_dash() {
        check("vacuum -full", "vacuum", &[], &["full"]);
        check(r#"-"dead tuples" vacuum -auto_vacuum, now"#, "vacuum now", &[], &["dead tuples", "auto_vacuum,"]);
        check("a\t-größe -行", "a", &[], &["größe", "行"]);
        check("-a1", "", &[], &["a1"]);
        assert!(Question::parse("-vacuum … -full").only_excludes());
        assert!(!Question::parse("...").only_excludes());
        assert!(!Question::parse("a -full").only_excludes());
    }

    #[test]
    fn what_is_neither_is_plain_text() {
        for text in [
            "",
            "-",
            "\"",
            "a - b",
            "an \"open quote",
            "write-ahead",
            "--max-size",
            "tar -x -v, -1.",
            "a 5\" and a 3\" disk",
            "-(a)",
            "‘a’ – b",
            "-\"open",
        ] {
            let question = Question::parse(text);
            assert_eq!(question, Question::plain(text));
            assert!(!question.only_excludes() && Conditions::of(&question, Analyzer::English).is_none());
        }
        check("\"\" a \"...\"", "a ...", &["", "..."], &[]);
        assert!(Conditions::of(&Question::parse("\"\" a -\"...\""), Analyzer::English).is_none());
    }

    fn kept(question: &str, texts: &[[&str; 3]]) -> Vec<u32> {
        let docs: Vec<_> = texts.iter().map(|[title, heading, content]| WordsDoc { title, heading, content }).collect();
        let words = Words::build(Analyzer::English, &docs);
        let conditions = Conditions::of(&Question::parse(question), Analyzer::English).expect("conditions");
        let even = {
            let mut even = Bits::zeros(docs.len());
            (0..docs.len() as u32).step_by(2).for_each(|doc| _ = even.set(doc, true));
            even
        };
        let all: Vec<u32> = conditions.kept(&words, None, |doc| docs[doc as usize]).iter_ones().collect();
        let of_even: Vec<u32> = conditions.kept(&words, Some(&even), |doc| docs[doc as usize]).iter_ones().collect();
        assert_eq!(of_even, all.iter().copied().filter(|doc| doc % 2 == 0).collect::<Vec<_>>());
        all
    }

    #[test]
    fn hits_have_each_phrase_within_a_field_and_nothing_excluded() {
        let texts = [
            ["vacuum", "", "dead tuples are removed"],
            ["", "dead", "tuples of the dead"],
            ["", "A dead-tuple", "count"],
            ["", "", "the dead, the tuples, the dead tuple"],
            ["", "", "nothing"],
        ];
        assert_eq!(kept(r#""dead tuples""#, &texts), [0, 2, 3]);
        assert_eq!(kept(r#""dead""#, &texts), [0, 1, 2, 3]);
        assert_eq!(kept(r#""dead tuples" "the dead""#, &texts), [3]);
        assert_eq!(kept(r#"tuples -"dead tuples""#, &texts), [1, 4]);
        assert_eq!(kept(r#"tuples -vacuuming -nothing"#, &texts), [1, 2, 3]);
        assert_eq!(kept(r#""dead tuple" -"the dead tuples""#, &texts), [0, 2]);
        assert_eq!(kept(r#""tuples dead""#, &texts), [0_u32; 0]);
        assert_eq!(kept(r#""no such words""#, &texts), [0_u32; 0]);
        assert_eq!(kept("-unknown dead", &texts), [0, 1, 2, 3, 4]);
        assert_eq!(kept("-unknown", &texts), [0_u32; 0], "nothing is asked");
        assert_eq!(kept("\"a\"", &[]), [0_u32; 0]);
    }

    #[test]
    fn identifiers_are_phrases_of_their_parts() {
        let texts = [["", "", "pg_stat_activity"], ["", "", "pg stat activity"], ["", "", "activity of the pg stat"]];
        assert_eq!(kept(r#""pg_stat_activity""#, &texts), [0]);
        assert_eq!(kept(r#""stat activity""#, &texts), [0, 1]);
        assert_eq!(kept("activity -pg_stat_activity", &texts), [1, 2]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_question(text in "(?s)[\"“„” \\-a-cé行_.]{0,24}|.{0,24}") {
            let question = Question::parse(&text);
            let inside = question.phrases().iter().chain(question.excluded());
            for part in inside {
                prop_assert!(text.contains(part));
            }
            prop_assert!(question.conditions() > 0 || question.words() == text);
            let _ = Conditions::of(&question, Analyzer::English);
        }
    }
}
