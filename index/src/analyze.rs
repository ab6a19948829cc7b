//! From text to terms: the same code for documents and for questions, so that one finds the other.
//!
//! Words are lower-cased and, where the analyzer is of a language, stemmed (Snowball; "Porter2" for English).
//! Identifiers are kept whole and also taken apart: `pg_catalog.pg_stat_activity` gives itself, `pg_catalog`,
//! `pg_stat_activity` and their words. Scripts that put no spaces between words (Chinese, Japanese, Thai, …) give
//! overlapping pairs of characters.
//!
//! No word is left out for being common: the weight of a term that is nearly everywhere is nearly nothing.

use std::cell::RefCell;
use std::collections::HashMap;

use rust_stemmers::{Algorithm, Stemmer};
use serde::{Deserialize, Serialize};

/// Grows with every change of what terms a text gives, or of how much its fields weigh: a snapshot keeps both, and what
/// another version made does not answer this one's questions.
pub(crate) const ANALYZER_VERSION: u32 = 3;

/// Longer terms are no words that somebody asks for (hashes, encoded data) and are left out.
const TERM_BYTES_MAX: usize = 100;

/// Stems that a thread remembers at most, of all languages, about 3 MB; when full, it starts anew.
const STEMS_MAX: usize = 32_768;

/// How text becomes terms: by the stems of a language, or as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "names of languages")]
pub enum Analyzer {
    #[default]
    English,
    /// Words stay as they are but for case: for other languages, for several at once, and for what is no language.
    Simple,
    Arabic,
    Danish,
    Dutch,
    Finnish,
    French,
    German,
    Greek,
    Hungarian,
    Italian,
    Norwegian,
    Portuguese,
    Romanian,
    Russian,
    Spanish,
    Swedish,
    Tamil,
    Turkish,
}

impl Analyzer {
    /// All of them, in the order of their declaration, and their names, which are also those of PostgreSQL's text search
    /// configurations.
    pub const ALL: [(Self, &'static str); 19] = [
        (Self::English, "english"),
        (Self::Simple, "simple"),
        (Self::Arabic, "arabic"),
        (Self::Danish, "danish"),
        (Self::Dutch, "dutch"),
        (Self::Finnish, "finnish"),
        (Self::French, "french"),
        (Self::German, "german"),
        (Self::Greek, "greek"),
        (Self::Hungarian, "hungarian"),
        (Self::Italian, "italian"),
        (Self::Norwegian, "norwegian"),
        (Self::Portuguese, "portuguese"),
        (Self::Romanian, "romanian"),
        (Self::Russian, "russian"),
        (Self::Spanish, "spanish"),
        (Self::Swedish, "swedish"),
        (Self::Tamil, "tamil"),
        (Self::Turkish, "turkish"),
    ];

    /// Its name: the language in English and lower case, or `simple`.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// The analyzer of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(analyzer, _)| *analyzer)
    }

    /// Calls `found` with each term of `text`, in order, as often as it occurs. Every term is lower-case, at most 100
    /// bytes long and not empty. Takes about 50 ns a word.
    pub fn terms(self, text: &str, found: &mut impl FnMut(&str)) {
        self.words(text, &mut |word| found(word.term));
    }

    /// Calls `found` with each term of `text` as [`Analyzer::terms`] does, and with what it comes from.
    pub(crate) fn words(self, text: &str, found: &mut impl FnMut(Word<'_>)) {
        let mut span = Span::default();
        let mut stem = String::new();
        let mut at = 0;
        while let Some(kind) = kind_at(text, at) {
            let start = at;
            match kind {
                Kind::Other(bytes) => at += bytes,
                Kind::Unspaced(_) => at = pairs(text, at, &mut |start, term| found(Word { start, form: term, term })),
                Kind::Word(_) => {
                    at = span.read(text, at);
                    span.emit(&mut |form, part| match form {
                        _ if part.len() > TERM_BYTES_MAX => {}
                        Form::Name => found(Word { start, form: part, term: part }),
                        Form::Word => self.each_word(part, &mut |offset, part| {
                            found(Word { start: start + offset, form: part, term: self.stemmed(part, &mut stem) });
                        }),
                    });
                }
            }
        }
    }

    /// Calls `found` with the words that `part` is to the language: two, where an article or an ending stands before or
    /// behind an apostrophe (`l'index`, `dell'indice`, `Ankara'da`). With each comes where it is in `part`.
    fn each_word(self, part: &str, found: &mut impl FnMut(usize, &str)) {
        match self {
            Self::French | Self::Italian | Self::Turkish => {
                let mut at = 0;
                for word in part.split('\'') {
                    if !word.is_empty() {
                        found(at, word);
                    }
                    at += word.len() + 1;
                }
            }
            _ => found(0, part),
        }
    }

    /// The stem of a lower-case word, in `stem`; the word itself where it is not of the language's letters.
    fn stemmed<'a>(self, word: &'a str, stem: &'a mut String) -> &'a str {
        let Some((algorithm, is_letter)) = self.language() else { return word };
        let is_readable = match self {
            // Most text is; without a call for each letter.
            Self::English => word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'\''),
            _ => word.chars().all(is_letter),
        };
        if word.len() < 3 || !is_readable {
            return word;
        }
        stem.clear();
        STEMS.with_borrow_mut(|stems| stems.stem(self, algorithm, word, stem));
        if stem.is_empty() { word } else { stem }
    }

    /// Its stemmer, and what of it knows how to read: a word with another character has no stem.
    fn language(self) -> Option<(Algorithm, IsLetter)> {
        let ascii: IsLetter = |letter| matches!(letter, 'a'..='z' | '\'');
        let latin: IsLetter = |letter| matches!(letter, 'a'..='z' | '\'' | '\u{df}'..='\u{ff}' | '\u{100}'..='\u{17f}' | '\u{219}' | '\u{21b}' | DOT_ABOVE);
        Some(match self {
            Self::Simple => return None,
            Self::English => (Algorithm::English, ascii),
            Self::Arabic => (Algorithm::Arabic, |letter| matches!(letter, '\u{600}'..='\u{6ff}')),
            Self::Danish => (Algorithm::Danish, latin),
            Self::Dutch => (Algorithm::Dutch, latin),
            Self::Finnish => (Algorithm::Finnish, latin),
            Self::French => (Algorithm::French, latin),
            Self::German => (Algorithm::German, latin),
            Self::Greek => (Algorithm::Greek, |letter| matches!(letter, '\u{370}'..='\u{3ff}')),
            Self::Hungarian => (Algorithm::Hungarian, latin),
            Self::Italian => (Algorithm::Italian, latin),
            Self::Norwegian => (Algorithm::Norwegian, latin),
            Self::Portuguese => (Algorithm::Portuguese, latin),
            Self::Romanian => (Algorithm::Romanian, latin),
            Self::Russian => (Algorithm::Russian, |letter| matches!(letter, 'а'..='я' | 'ё')),
            Self::Spanish => (Algorithm::Spanish, latin),
            Self::Swedish => (Algorithm::Swedish, latin),
            Self::Tamil => (Algorithm::Tamil, |letter| matches!(letter, '\u{b80}'..='\u{bff}')),
            Self::Turkish => (Algorithm::Turkish, latin),
        })
    }

    /// Writes `word` as the stemmer expects it.
    fn normalize(self, word: &str, out: &mut String) {
        match self {
            // The lower case of the capital I with a dot has the dot apart.
            Self::Turkish => out.extend(word.chars().filter(|letter| *letter != DOT_ABOVE)),
            // The stemmer is older than the letters with a comma.
            Self::Romanian => out.extend(word.chars().map(|letter| match letter {
                'ș' => 'ş',
                'ț' => 'ţ',
                other => other,
            })),
            _ => out.push_str(word),
        }
    }
}

/// Whether a stemmer knows the letter.
type IsLetter = fn(char) -> bool;

/// A combining dot.
const DOT_ABOVE: char = '\u{307}';

/// A term and where it comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word<'a> {
    /// Where the word or identifier begins that it is of; it tells words apart.
    pub(crate) start: usize,
    /// The term before stemming.
    pub(crate) form: &'a str,
    pub(crate) term: &'a str,
}

/// What the character at a place is to us, and how many bytes it has.
#[derive(Clone, Copy)]
enum Kind {
    /// A letter, digit, mark or underscore.
    Word(usize),
    /// A character of a script without spaces.
    Unspaced(usize),
    Other(usize),
}

#[inline]
fn kind_at(text: &str, at: usize) -> Option<Kind> {
    let byte = *text.as_bytes().get(at)?;
    if byte.is_ascii() {
        return Some(if byte.is_ascii_alphanumeric() || byte == b'_' { Kind::Word(1) } else { Kind::Other(1) });
    }
    let character = text[at..].chars().next()?;
    let bytes = character.len_utf8();
    Some(match u32::from(character) {
        // Marks that join the consonants of a word in the scripts of India, and are no letters.
        0x94d | 0x9cd | 0xa4d | 0xacd | 0xb4d | 0xbcd | 0xc4d | 0xccd | 0xd4d => Kind::Word(bytes),
        // Combining marks, as they come with letters that are written in two code points.
        0x300..=0x36f | 0x1ab0..=0x1aff | 0x1dc0..=0x1dff | 0x20d0..=0x20ff | 0xfe20..=0xfe2f => Kind::Word(bytes),
        // Thai, Lao, Burmese, Khmer; kana; ideographs.
        0x0e01..=0x0eff
        | 0x1000..=0x109f
        | 0x1780..=0x17ff
        | 0x3005..=0x3007
        | 0x3041..=0x30fa
        | 0x30fc..=0x30ff
        | 0x31f0..=0x31ff
        | 0x3400..=0x4dbf
        | 0x4e00..=0x9fff
        | 0xf900..=0xfaff
        | 0xff66..=0xff9f
        | 0x20000..=0x3ffff => Kind::Unspaced(bytes),
        _ if character.is_alphanumeric() => Kind::Word(bytes),
        _ => Kind::Other(bytes),
    })
}

/// Gives the overlapping pairs of a run of characters without spaces, or the one that stands alone; returns its end.
fn pairs(text: &str, start: usize, found: &mut impl FnMut(usize, &str)) -> usize {
    let (mut before, mut at, mut pairs) = (start, start, 0);
    while let Some(Kind::Unspaced(bytes)) = kind_at(text, at) {
        if at > start {
            found(before, &text[before..at + bytes]);
            pairs += 1;
        }
        before = at;
        at += bytes;
    }
    if pairs == 0 {
        found(start, &text[start..at]);
    }
    at
}

/// Characters that belong together, lower-cased: a word, or an identifier of several.
#[derive(Default)]
struct Span {
    text: String,
    /// `.`, `::`
    paths: bool,
    /// `_`, `-`
    joints: bool,
    letters: bool,
    digits: bool,
    /// `++` or `#` at the end, as in C++ and F#.
    sign: usize,
}

impl Span {
    /// Reads the span that starts at `at` and returns its end.
    fn read(&mut self, text: &str, mut at: usize) -> usize {
        self.text.clear();
        *self = Self { text: std::mem::take(&mut self.text), ..Self::default() };
        let bytes = text.as_bytes();
        let word_at = |at| matches!(kind_at(text, at), Some(Kind::Word(_)));
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' => {
                    self.letters = true;
                    self.text.push(char::from(byte.to_ascii_lowercase()));
                }
                b'0'..=b'9' => {
                    self.digits = true;
                    self.text.push(char::from(byte));
                }
                b'_' => {
                    self.joints = true;
                    self.text.push('_');
                }
                b'-' if word_at(at + 1) => {
                    self.joints = true;
                    self.text.push('-');
                }
                b'.' if word_at(at + 1) => {
                    self.paths = true;
                    self.text.push('.');
                }
                b':' if bytes.get(at + 1) == Some(&b':') && word_at(at + 2) => {
                    self.paths = true;
                    self.text.push_str("::");
                    at += 1;
                }
                b'\'' if word_at(at + 1) => self.text.push('\''),
                0x80.. => match kind_at(text, at) {
                    Some(Kind::Word(bytes)) => {
                        self.letters = true;
                        self.text.extend(text[at..at + bytes].chars().flat_map(char::to_lowercase));
                        at += bytes - 1;
                    }
                    // ’, the apostrophe of typographers.
                    _ if text[at..].starts_with('\u{2019}') && word_at(at + 3) => {
                        self.text.push('\'');
                        at += 2;
                    }
                    _ => break,
                },
                _ => break,
            }
            at += 1;
        }
        let sign = match &bytes[at..] {
            [b'+', b'+', ..] => 2,
            [b'#', ..] => 1,
            _ => 0,
        };
        if sign > 0 && self.letters && !self.paths && !self.joints && !word_at(at + sign) {
            self.text.push_str(&text[at..at + sign]);
            self.sign = sign;
            at += sign;
        }
        at
    }

    /// Calls `found` with what the span consists of.
    fn emit(&self, found: &mut impl FnMut(Form, &str)) {
        let span = self.text.as_str();
        if !self.letters && !self.digits {
            return;
        }
        if self.sign > 0 {
            found(Form::Name, span);
            return found(Form::Word, &span[..span.len() - self.sign]);
        }
        if !self.paths && !self.joints {
            return found(Form::Word, span);
        }
        // A possessive is not a part of the name.
        let span = span.strip_suffix("'s").unwrap_or(span);
        found(Form::Name, span);
        if !self.letters && !self.joints {
            // A number: its digits around the point mean nothing alone.
            return;
        }
        for name in span.split(['.', ':']).filter(|name| !name.is_empty()) {
            let mut parts = name.split(['_', '-']).filter(|part| !part.is_empty()).peekable();
            if parts.peek().is_some_and(|part| part.len() < name.len()) && name.len() < span.len() {
                found(Form::Name, name);
            }
            parts.for_each(|part| found(Form::Word, part));
        }
    }
}

/// What a part of a span is.
enum Form {
    /// Stands for itself alone.
    Name,
    /// May be a word of the language.
    Word,
}

/// What a thread knows of stems.
#[derive(Default)]
struct Stems {
    /// By analyzer, in the order of its declaration.
    languages: Vec<HashMap<Box<str>, Box<str>, foldhash::fast::FixedState>>,
    /// Of all languages together.
    len: usize,
}

thread_local! {
    static STEMS: RefCell<Stems> = RefCell::default();
}

impl Stems {
    /// Writes the stem of `word`.
    fn stem(&mut self, analyzer: Analyzer, algorithm: Algorithm, word: &str, stem: &mut String) {
        let at = analyzer as usize;
        if let Some(known) = self.languages.get(at).and_then(|known| known.get(word)) {
            stem.push_str(known);
            return;
        }
        analyzer.normalize(word, stem);
        let made = Stemmer::create(algorithm).stem(stem).into_owned();
        *stem = made;
        if self.len >= STEMS_MAX {
            *self = Self::default();
        }
        if self.languages.len() <= at {
            self.languages.resize_with(at + 1, HashMap::default);
        }
        self.languages[at].insert(word.into(), stem.as_str().into());
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(analyzer: Analyzer, text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        analyzer.terms(text, &mut |term| terms.push(term.to_owned()));
        terms
    }

    fn check(text: &str, expected: &[&str]) {
        assert_eq!(terms(Analyzer::English, text), expected, "{text:?}");
    }

    #[test]
    fn english_words_become_stems() {
        check("Running the servers, relational databases!", &["run", "the", "server", "relat", "databas"]);
        check("I don't; it doesn’t. The server's", &["i", "don't", "it", "doesn't", "the", "server"]);
        check("WAL", &["wal"]);
        check("as is", &["as", "is"]);
    }

    #[test]
    fn identifiers_are_kept_whole_and_taken_apart() {
        check("pg_stat_activity", &["pg_stat_activity", "pg", "stat", "activ"]);
        check("E0499", &["e0499"]);
        check("std::vec::Vec", &["std::vec::vec", "std", "vec", "vec"]);
        check("--max-size=3", &["max-size", "max", "size", "3"]);
        check("foo.bar.baz(x)", &["foo.bar.baz", "foo", "bar", "baz", "x"]);
        check(
            "pg_catalog.pg_class's",
            &["pg_catalog.pg_class", "pg_catalog", "pg", "catalog", "pg_class", "pg", "class"],
        );
        check("CamelCase", &["camelcas"]);
        check("__init__", &["__init__", "init"]);
        check("utf8 x86_64", &["utf8", "x86_64", "x86", "64"]);
    }

    #[test]
    fn numbers_stay_whole() {
        check("3.14", &["3.14"]);
        check("PostgreSQL 15.2.", &["postgresql", "15.2"]);
        check("2024-05-01", &["2024-05-01", "2024", "05", "01"]);
    }

    #[test]
    fn names_of_languages_keep_their_sign() {
        check("C++, C# and C", &["c++", "c", "c#", "c", "and", "c"]);
        check("g++ a+b i++x", &["g++", "g", "a", "b", "i", "x"]);
    }

    #[test]
    fn other_scripts() {
        check("Größe ÉCOLE ΣΊΣΥΦΟΣ", &["größe", "école", "σίσυφοσ"]);
        check("Gro\u{308}ße", &["gro\u{308}ße"]);
        check("Привет, мир", &["привет", "мир"]);
        check("データベース・は速い 行", &["デー", "ータ", "タベ", "ベー", "ース", "は速", "速い", "行"]);
        check("MySQLの表", &["mysql", "の表"]);
        check("हिन्दी தமிழ்", &["हिन्दी", "தமிழ்"]);
    }

    #[test]
    fn nothing_comes_of_nothing() {
        for text in ["", " ", "---", "...", "::", "_ __", "'", "++", "#", "\u{2019}", "🙂"] {
            check(text, &[]);
        }
    }

    #[test]
    fn terms_are_bounded() {
        let word = "a".repeat(TERM_BYTES_MAX);
        assert_eq!(terms(Analyzer::Simple, &word), [word.as_str()]);
        assert_eq!(terms(Analyzer::Simple, &format!("{word}b c")), ["c"]);
        assert_eq!(terms(Analyzer::Simple, &format!("{word}.b")), [word, "b".to_owned()]);
    }

    #[test]
    fn simple_keeps_the_form() {
        assert_eq!(terms(Analyzer::Simple, "Running don't pg_stats"), ["running", "don't", "pg_stats", "pg", "stats"]);
    }

    #[test]
    fn languages_have_their_stems() {
        let same = |analyzer: Analyzer, left: &str, right: &str| {
            assert_eq!(terms(analyzer, left), terms(analyzer, right), "{analyzer:?}");
        };
        same(Analyzer::Arabic, "كتابك", "كتاب");
        same(Analyzer::Danish, "indekserne", "indekser");
        same(Analyzer::Dutch, "databanken", "databank");
        same(Analyzer::Finnish, "tietokannassa", "tietokanta");
        same(Analyzer::French, "l'indexation", "L’Indexation");
        same(Analyzer::French, "continuellement", "continuelle");
        same(Analyzer::German, "Tabellen", "Tabelle");
        same(Analyzer::German, "Häuser", "haus");
        same(Analyzer::Greek, "ΠΊΝΑΚΕΣ", "πίνακες");
        same(Analyzer::Hungarian, "házakban", "házak");
        same(Analyzer::Italian, "abbandonata", "abbandonato");
        same(Analyzer::Norwegian, "tabellene", "tabell");
        same(Analyzer::Portuguese, "tabelas", "tabela");
        same(Analyzer::Romanian, "națiunile", "naţiunile");
        same(Analyzer::Russian, "таблицы", "таблица");
        same(Analyzer::Spanish, "tablas", "tabla");
        same(Analyzer::Swedish, "tabellerna", "tabell");
        same(Analyzer::Tamil, "புத்தகங்கள்", "புத்தகம்");
        same(Analyzer::Turkish, "İstanbul", "istanbul");
        assert_eq!(terms(Analyzer::French, "l'index"), ["l", "index"]);
        assert_eq!(terms(Analyzer::German, "pg_stats läuft"), ["pg_stats", "pg", "stat", "lauft"]);
        assert_eq!(terms(Analyzer::Russian, "running таблицы"), ["running", "таблиц"], "not of its letters");
    }

    #[test]
    fn names_are_those_of_json() {
        for (at, (analyzer, name)) in Analyzer::ALL.into_iter().enumerate() {
            assert_eq!((analyzer as usize, analyzer.name(), Analyzer::named(name)), (at, name, Some(analyzer)));
            assert_eq!(serde_json::to_value(analyzer).unwrap(), name);
        }
        assert_eq!(Analyzer::named("English"), None);
    }

    /// Whatever the words are of: random letters of each language, also in the combinations that stemmers look for.
    #[test]
    fn no_word_is_too_odd_for_a_stemmer() {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let rng = &mut StdRng::seed_from_u64(1);
        for (analyzer, _) in Analyzer::ALL {
            let Some((_, is_letter)) = analyzer.language() else { continue };
            let letters: Vec<char> = ('\''..='\u{fff}').filter(|letter| is_letter(*letter)).collect();
            let usual: Vec<char> = letters.iter().copied().filter(|letter| letter.is_alphabetic()).collect();
            for round in 0..30_000 {
                let letters = if round % 2 == 0 { &letters } else { &usual };
                let few = rng.random_range(1..=letters.len());
                let word: String = (0..rng.random_range(1..14)).map(|_| letters[rng.random_range(0..few)]).collect();
                terms(analyzer, &word);
            }
        }
    }

    #[test]
    fn a_full_memory_of_stems_gives_the_same() {
        let words: Vec<String> = (0..STEMS_MAX + 10)
            .map(|at| {
                let letters = [at % 26, at / 26 % 26, at / 676 % 26, at / 17_576];
                letters.iter().map(|&letter| char::from(b'a' + letter as u8)).chain("ings".chars()).collect()
            })
            .collect();
        let text = words.join(" ");
        assert_eq!(terms(Analyzer::English, &text), terms(Analyzer::English, &text));
    }
}
