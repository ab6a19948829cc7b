//! Where in a text the words of a question are, by the same analysis that finds the text: `vacuuming` in the question
//! marks `VACUUM`, `activity` marks the last part of `pg_stat_activity`.

use std::{collections::HashSet, ops::Range};

use crate::analyze::{Analyzer, Word};

/// Stems that are in nearly every text and are marked only if the question has no other word: articles, prepositions, and
/// what questions are made of.
const COMMON: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "can", "do", "doe", "does", "for", "from", "had", "has",
    "have", "how", "i", "if", "in", "into", "is", "it", "me", "my", "no", "not", "of", "on", "or", "such", "that",
    "the", "their", "then", "there", "these", "they", "this", "to", "was", "we", "what", "when", "where", "which",
    "who", "whi", "why", "will", "with", "you", "your", "it's", "don't", "i'm",
];

/// The terms of a question that are worth a mark.
#[derive(Debug)]
pub struct Highlighter {
    analyzer: Analyzer,
    terms: HashSet<Box<str>, foldhash::fast::FixedState>,
    /// What the question's last word begins with, if it is still being typed.
    prefix: Option<Box<str>>,
}

impl Highlighter {
    /// The marks of `question`, plain words as [`Question::words`](crate::Question::words) gives them. With `is_prefix`,
    /// words that begin with the last one are marked too.
    pub fn new(analyzer: Analyzer, question: &str, is_prefix: bool) -> Self {
        let mut terms: HashSet<Box<str>, _> = HashSet::default();
        analyzer.terms(question, &mut |term| _ = terms.insert(term.into()));
        if analyzer == Analyzer::English && terms.iter().any(|term| !COMMON.contains(&&**term)) {
            terms.retain(|term| !COMMON.contains(&&**term));
        }
        let mut prefix: Option<(usize, Box<str>)> = None;
        if is_prefix {
            analyzer.words(question, &mut |word| {
                if prefix.as_ref().is_none_or(|(start, _)| *start != word.start) {
                    prefix = Some((word.start, word.form.into()));
                }
            });
        }
        Self { analyzer, terms, prefix: prefix.map(|(_, form)| form) }
    }

    /// The places of the question's words in `text`, in order, apart from each other, none empty. In UTF-16 code units, as
    /// JavaScript counts: `text.slice(start, end)`. About 50 ns a word.
    pub fn ranges(&self, text: &str) -> Vec<Range<u32>> {
        let mut marked: Vec<Range<usize>> = Vec::new();
        // Of the word or identifier at hand, which begins there: the forms that are marked.
        let (mut start, mut forms) = (0, Vec::<String>::new());
        self.analyzer.words(text, &mut |word: Word<'_>| {
            if word.start != start {
                mark(text, start, &forms, &mut marked);
                (start, forms) = (word.start, Vec::new());
            }
            let is_marked = self.terms.contains(word.term)
                || self.prefix.as_ref().is_some_and(|prefix| word.form.starts_with(&**prefix));
            if is_marked && !forms.iter().any(|form| form == word.form) {
                forms.push(word.form.to_owned());
            }
        });
        mark(text, start, &forms, &mut marked);
        in_utf16(text, merged(marked))
    }
}

/// Adds where `forms`, lower-cased words or names, are in the text from `start` to the next white space.
fn mark(text: &str, start: usize, forms: &[String], marked: &mut Vec<Range<usize>>) {
    if forms.is_empty() {
        return;
    }
    let mut before: Option<char> = None;
    for (at, character) in text[start..].char_indices() {
        if character.is_whitespace() {
            return;
        }
        let at = start + at;
        for form in forms {
            let is_bounded = form.chars().next().is_some_and(is_spaced);
            if is_bounded && before.is_some_and(is_spaced) {
                continue;
            }
            if let Some(end) = end_of(text, at, form)
                && !(is_bounded && text[end..].chars().next().is_some_and(is_spaced))
            {
                marked.push(at..end);
            }
        }
        before = Some(character);
    }
}

/// Whether a character is a letter or digit whose word ends only where another kind of character stands: scripts without
/// spaces begin at U+0E01.
fn is_spaced(character: char) -> bool {
    character < '\u{e01}' && character.is_alphanumeric()
}

/// Where `form` ends that begins at `at` in `text`, in whatever case; `None` if it does not.
fn end_of(text: &str, at: usize, form: &str) -> Option<usize> {
    let mut wanted = form.chars().peekable();
    for (offset, character) in text[at..].char_indices() {
        if wanted.peek().is_none() {
            return Some(at + offset);
        }
        let character = if character == '\u{2019}' { '\'' } else { character };
        for lower in character.to_lowercase() {
            if wanted.next() != Some(lower) {
                return None;
            }
        }
    }
    wanted.peek().is_none().then_some(text.len())
}

/// In order, and as one where they overlap or touch.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    ranges.dedup_by(|next, last| {
        let joins = next.start <= last.end;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}

/// Ranges of bytes, in order and apart, as ranges of UTF-16 code units.
fn in_utf16(text: &str, ranges: Vec<Range<usize>>) -> Vec<Range<u32>> {
    let (mut bytes, mut units) = (0, 0_u32);
    let mut advance = |to: usize| {
        units += text[bytes..to].chars().map(|character| character.len_utf16() as u32).sum::<u32>();
        bytes = to;
        units
    };
    ranges.into_iter().map(|range| advance(range.start)..advance(range.end)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Marks in brackets.
    fn shown(analyzer: Analyzer, question: &str, text: &str) -> String {
        let units: Vec<u16> = text.encode_utf16().collect();
        let (mut shown, mut at) = (String::new(), 0);
        for range in Highlighter::new(analyzer, question, false).ranges(text) {
            let (start, end) = (range.start as usize, range.end as usize);
            assert!(at <= start && start < end, "{range:?} of {text:?}");
            let part = |range: Range<usize>| String::from_utf16(&units[range]).expect("no character is cut");
            shown += &format!("{}[{}]", part(at..start), part(start..end));
            at = end;
        }
        shown + &String::from_utf16(&units[at..]).expect("no character is cut")
    }

    fn check(question: &str, expected: &str) {
        let text = expected.replace(['[', ']'], "");
        assert_eq!(shown(Analyzer::English, question, &text), expected, "{question:?}");
    }

    #[test]
    fn words_are_marked_by_their_stem() {
        check("vacuuming tables", "[VACUUM] reclaims; [vacuumed] [tables], a [table].");
        check("nothing", "of this");
        check("running", "Run, [runs] and [running]. Rerun!".replace("Run,", "[Run],").as_str());
    }

    #[test]
    fn parts_of_identifiers_are_marked() {
        check("activity", "See pg_stat_[activity], pg_catalog.pg_stat_[activity]'s, reactivity.");
        check("pg_stat_activity", "See [pg_stat_activity], [pg]_catalog.[pg_stat_activity].");
        check("vec", "std::[vec]::[Vec], vector::[vec]");
        check("C++", "[C++] and [C]#");
        check("don't", "He [don’t], [DON'T]");
    }

    #[test]
    fn common_words_are_marked_only_alone() {
        check("how do I see the queries?", "how do I [see] the [queries]?");
        check("how is it", "[how] [is] [it] done");
        assert_eq!(shown(Analyzer::Simple, "the word", "the word"), "[the] [word]");
    }

    #[test]
    fn what_begins_with_an_unfinished_word_is_marked() {
        let shown = |question, is_prefix| {
            let text = "Replicas replicate; replication slots of a replica.";
            let ranges = Highlighter::new(Analyzer::English, question, is_prefix).ranges(text);
            ranges.into_iter().map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        assert_eq!(shown("slots repli", false), [(32, 37)]);
        assert_eq!(shown("slots repli", true), [(0, 8), (9, 18), (20, 31), (32, 37), (43, 50)]);
        assert_eq!(shown("replicat slots", true), [(32, 37)], "only the last word is unfinished");
        assert!(shown("", true).is_empty());
    }

    #[test]
    fn other_scripts_are_counted_in_utf16() {
        check("größe", "🙂 Die [GRÖSSE] 🙂 [Größe]".replace("[GRÖSSE]", "GRÖSSE").as_str());
        check("Straße 🙂", "🙂🙂 [STRAßE]");
        check("データ", "この[データ]ベース");
        check("İstanbul", "ab [İSTANBUL] x");
        let found = Highlighter::new(Analyzer::English, "word", false).ranges("🙂 word, 🙂word");
        assert_eq!(found, [3..7, 11..15]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_can_be_marked(question in "\\PC{0,20}", text in "\\PC{0,60}") {
            shown(Analyzer::English, &question, &text);
            shown(Analyzer::Simple, &text, &text);
        }

        #[test]
        fn words_of_a_text_are_all_found(text in "[a-zA-Z_.: 語🙂é]{0,40}") {
            let shown = shown(Analyzer::Simple, &text, &text);
            // What is left outside of the marks has no term of its own.
            let outside: String = shown.split('[').map(|part| part.rsplit(']').next().unwrap_or("")).collect::<Vec<_>>().join(" ");
            let mut terms = Vec::new();
            Analyzer::Simple.terms(&outside, &mut |term| terms.push(term.to_owned()));
            prop_assert!(terms.is_empty(), "{shown:?} leaves {terms:?}");
        }
    }
}
