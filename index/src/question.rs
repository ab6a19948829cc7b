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
    words::{self, Words, WordsDoc},
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
    numbers: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    /// No chunk is asked for.
    is_nothing: bool,
}

/// Terms that stand one right after the other; not empty.
struct Sequence {
    terms: Vec<Box<str>>,
    numbers: Vec<u32>,
    codes: Vec<u8>,
}

/// What a segment's index of words tells of which documents fulfil conditions.
pub(crate) struct Fitting {
    /// Those that do, or may. None else does.
    pub(crate) kept: Bits,
    /// Those of `kept` whose text must tell.
    unclear: Bits,
}

impl Conditions {
    /// None if every chunk fulfils them.
    pub(crate) fn of(question: &Question<'_>, analyzer: Analyzer) -> Option<Self> {
        if question.conditions() == 0 {
            return None;
        }
        let mut numbers: HashMap<Box<str>, u32, _> = HashMap::default();
        let mut sequences = |texts: &[&str]| -> Vec<Sequence> {
            let sequence = |text: &&str| {
                let mut sequence = Sequence { terms: Vec::new(), numbers: Vec::new(), codes: Vec::new() };
                analyzer.terms(text, &mut |term| {
                    let next = numbers.len() as u32 + 1;
                    sequence.terms.push(term.into());
                    sequence.numbers.push(*numbers.entry(term.into()).or_insert(next));
                    sequence.codes.push(words::trail_code(term));
                });
                sequence
            };
            texts.iter().map(sequence).filter(|sequence| !sequence.terms.is_empty()).collect()
        };
        let (required, excluded) = (sequences(&question.phrases), sequences(&question.excluded));
        let is_nothing = question.only_excludes();
        (!required.is_empty() || !excluded.is_empty() || is_nothing).then_some(Self {
            analyzer,
            required,
            excluded,
            numbers,
            is_nothing,
        })
    }

    /// Which of the documents of `live`, all if `None`, fulfil every condition, as far as `words` knows. Reads no text:
    /// about 50 ns for each document that has all terms of a phrase.
    pub(crate) fn fitting(&self, words: &Words, live: Option<&Bits>) -> Fitting {
        let mut fitting = Fitting { kept: Bits::zeros(words.len()), unclear: Bits::zeros(words.len()) };
        if self.is_nothing {
            return fitting;
        }
        let is_long = |sequence: &&Sequence| sequence.terms.len() > 1;
        let with_terms = |sequences: &[&Sequence], within: Option<&Bits>| {
            let terms: Vec<&str> = sequences.iter().flat_map(|sequence| &sequence.terms).map(|term| &**term).collect();
            let mut docs = words.docs_with_all(&terms, within);
            for sequence in sequences.iter().copied().filter(is_long) {
                docs.retain(|doc| words.may_have(*doc, &sequence.codes));
            }
            docs
        };
        if self.required.is_empty() {
            fitting.kept = live.cloned().unwrap_or_else(|| Bits::ones(words.len()));
        } else {
            let are_unclear = self.required.iter().any(|sequence| is_long(&sequence));
            for doc in with_terms(&self.required.iter().collect::<Vec<_>>(), live) {
                fitting.kept.set(doc, true);
                fitting.unclear.set(doc, are_unclear);
            }
        }
        for sequence in &self.excluded {
            for doc in with_terms(&[sequence], Some(&fitting.kept)) {
                if is_long(&sequence) {
                    fitting.unclear.set(doc, true);
                } else {
                    fitting.kept.set(doc, false);
                }
            }
        }
        fitting
    }

    /// Whether document `doc` of `fitting`, whose text is `text`, fulfils every condition. What is found out is kept there.
    /// Takes 50 ns a word, if the words alone did not tell.
    pub(crate) fn settle<'a>(&self, fitting: &mut Fitting, doc: u32, text: impl FnOnce() -> WordsDoc<'a>) -> bool {
        if fitting.unclear.get(doc) {
            fitting.unclear.set(doc, false);
            let fields = Fields::read(self, &text());
            let fits = self.required.iter().all(|sequence| fields.have(sequence))
                && !self.excluded.iter().any(|sequence| fields.have(sequence));
            fitting.kept.set(doc, fits);
        }
        fitting.kept.get(doc)
    }
}

/// The terms of a document's fields, one field after the other: numbers of a question's terms, 0 for any other one.
struct Fields {
    terms: Vec<u32>,
}

impl Fields {
    fn read(conditions: &Conditions, doc: &WordsDoc<'_>) -> Self {
        let mut terms = Vec::new();
        for (text, _) in doc.fields() {
            conditions.analyzer.terms(text, &mut |term| {
                terms.push(conditions.numbers.get(term).copied().unwrap_or(0));
            });
            // No phrase goes across.
            terms.push(0);
        }
        Self { terms }
    }

    fn have(&self, sequence: &Sequence) -> bool {
        self.terms.windows(sequence.numbers.len()).any(|terms| terms == sequence.numbers)
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
        let kept = |live: Option<&Bits>| -> Vec<u32> {
            let mut fitting = conditions.fitting(&words, live);
            let may: Vec<u32> = fitting.kept.iter_ones().collect();
            may.into_iter().filter(|doc| conditions.settle(&mut fitting, *doc, || docs[*doc as usize])).collect()
        };
        let (all, of_even) = (kept(None), kept(Some(&even)));
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
    fn words_of_the_same_code_are_told_apart_by_the_text() {
        let texts: Vec<String> = (0..2_000).map(|number| format!("alpha w{number} before w7, beta")).collect();
        let docs: Vec<_> = texts.iter().map(|content| WordsDoc { title: "", heading: "", content }).collect();
        let words = Words::build(Analyzer::English, &docs);
        let settled = |question: &str| {
            let conditions = Conditions::of(&Question::parse(question), Analyzer::English).expect("conditions");
            let mut fitting = conditions.fitting(&words, None);
            let before = fitting.kept.count();
            let mut read = 0;
            for doc in 0..docs.len() as u32 {
                let text = || {
                    read += 1;
                    docs[doc as usize]
                };
                let fits = conditions.settle(&mut fitting, doc, text);
                assert_eq!(conditions.settle(&mut fitting, doc, || unreachable!("it is settled")), fits);
            }
            (before, read, fitting.kept.iter_ones().collect::<Vec<_>>())
        };
        let (before, read, kept) = settled(r#""alpha w7""#);
        assert_eq!(kept, [7]);
        assert!(before == read && (2..50).contains(&read), "{read}");
        let (before, read, kept) = settled(r#"beta -"alpha w7""#);
        assert_eq!((before, kept.len(), kept.contains(&7)), (2_000, 1_999, false));
        assert!((2..50).contains(&read), "{read}");
        let (before, read, kept) = settled(r#"beta "w7" -alpha"#);
        assert_eq!((before, read, kept.len()), (0, 0, 0), "no text is needed");
        let (before, read, kept) = settled(r#""w7, beta" -"alpha w7 before""#);
        assert_eq!((before, read, kept.len(), kept.contains(&7)), (2_000, 2_000, 1_999, false));
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
