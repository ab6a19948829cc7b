//! Splits a document into passages of bounded length along its own structure.
//!
//! A passage never crosses sections. Its `heading` is the path of headings that it stands under, so that neither a
//! reader nor the encoder has to guess what it is about. Code, tables and paragraphs stay whole where they fit. What a
//! definition list explains at length is a section under its term; short explanations stay in the text around them. Short
//! neighbouring sections of one parent share a passage, under the parent's path, with their headings in the text.
//!
//! Invariants, which the tests check on generated documents: each word of the document is in the heading or content of
//! a passage; no content is empty or has more than [`Limits::tokens_max`] tokens; equal documents give equal passages.
//! Cost: a text is counted about twice, whatever its form, and all else is linear.

use std::{collections::VecDeque, rc::Rc};

use super::extract::{Block, Extracted};

/// Between the headings of a path.
const PATH_SEPARATOR: &str = " › ";
/// Characters of a heading in a path; a longer one is cut there and stands in the text in full.
const HEADING_CHARS_MAX: usize = 160;
/// Headings and terms that may be nested; those below are text.
const DEPTH_MAX: usize = 16;
/// Levels of a list that are indented.
const INDENT_MAX: u8 = 4;
/// A section below this share of a passage (1 in …) is short.
const SHORT_SHARE: usize = 4;
/// A text of more bytes than this for each token that a passage may have is split without being counted first, so that no
/// single count takes long. No tokenizer makes that much of ordinary text into one token.
const BYTES_PER_TOKEN_MAX: usize = 16;
/// Bytes for a token that the first cut of a text without any structure assumes.
const BYTES_PER_TOKEN: usize = 4;

/// How long passages may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most tokens of a passage's content. At least a few dozen: a single character may take several.
    pub tokens_max: usize,
    /// Most tokens that a passage repeats of the one before it in the same section, in whole sentences.
    pub overlap_tokens: usize,
}

/// A piece of a document that is searched and shown as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// 0, 1, 2, … in the document's order.
    pub ordinal: u32,
    /// The headings that it stands under, outermost first, joined by ` › `; empty before the first.
    pub heading: String,
    /// Its text; never empty.
    pub content: String,
}

/// The passages of `document`, in its order; none if it has no text. `count` gives the number of tokens of a text.
pub fn split(document: &Extracted, limits: &Limits, count: &dyn Fn(&str) -> usize) -> Vec<Passage> {
    let mut splitter = Splitter {
        tokens_max: limits.tokens_max.max(1),
        overlap_tokens: limits.overlap_tokens,
        count,
        passages: Vec::new(),
    };
    let mut sections = splitter.sections(&document.blocks);
    splitter.split_section(&mut sections, 0);
    splitter.passages
}

/// How a piece of text is joined to what is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Join {
    /// They are parts of one word.
    None,
    Space,
    Line,
    Blank,
}

impl Join {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Space => " ",
            Self::Line => "\n",
            Self::Blank => "\n\n",
        }
    }

    /// Tokens that it may cost.
    fn tokens(self) -> usize {
        self.as_str().len()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Prose,
    /// A paragraph with a list's marker.
    Item,
    Code,
    /// Rows, which `between` separates; the first `header_bytes` are the header row, if it has one.
    Table {
        header_bytes: usize,
        between: Join,
    },
    /// A term and what explains it.
    Entry,
}

/// A piece of text that stays whole if it fits into a passage.
#[derive(Debug, Clone)]
struct Unit {
    text: String,
    /// None: so many that nobody counted.
    tokens: Option<usize>,
    form: Form,
    join: Join,
    /// The header of the table that this is a row of and its tokens, for a passage that begins with this row.
    header: Option<Rc<(String, usize)>>,
}

impl Unit {
    fn is_prose(&self) -> bool {
        matches!(self.form, Form::Prose | Form::Item)
    }

    /// Whether it announces what comes next and makes little sense without it.
    fn leads_in(&self) -> bool {
        self.is_prose() && self.text.ends_with(':')
    }

    fn is_one_line(&self) -> bool {
        !self.text.contains('\n')
    }
}

/// A heading or term with what belongs to it.
#[derive(Debug)]
struct Section {
    /// In full.
    heading: String,
    /// With those above it.
    path: String,
    opened_by: Opener,
    parts: Vec<Part>,
    /// Tokens of the heading and everything below it; none if nobody counted.
    tokens: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Document,
    Heading(u8),
    Term,
}

#[derive(Debug)]
enum Part {
    Unit(Unit),
    /// Index of a section.
    Section(usize),
}

/// Neighbouring parts of a section that are each too short for a passage of their own.
#[derive(Debug, Default)]
struct Short {
    parts: Vec<ShortPart>,
    tokens: usize,
}

#[derive(Debug)]
enum ShortPart {
    /// Text of the section itself.
    Own(Vec<Unit>),
    /// Index of a section below it.
    Section(usize),
}

struct Splitter<'a> {
    tokens_max: usize,
    overlap_tokens: usize,
    count: &'a dyn Fn(&str) -> usize,
    passages: Vec<Passage>,
}

// The tree of sections.
impl Splitter<'_> {
    /// The tokens of `text`, unless it is so long that it does not fit into a passage anyway.
    fn tokens(&self, text: &str) -> Option<usize> {
        (text.len() <= self.tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX)).then(|| (self.count)(text))
    }

    fn unit(&self, text: String, form: Form, join: Join) -> Unit {
        Unit { tokens: self.tokens(&text), text, form, join, header: None }
    }

    fn is_short(&self, tokens: Option<usize>) -> bool {
        tokens.is_some_and(|tokens| tokens < self.tokens_max / SHORT_SHARE)
    }

    /// The document as a tree: the first section is the root, and each one comes after its parent.
    fn sections(&self, blocks: &[Block]) -> Vec<Section> {
        let root = Section {
            heading: String::new(),
            path: String::new(),
            opened_by: Opener::Document,
            parts: Vec::new(),
            tokens: None,
        };
        let mut sections = vec![root];
        // The sections that are open, the innermost last.
        let mut open = vec![0];
        // Entries that are open but too deep to be sections.
        let mut untracked = 0_usize;
        for block in blocks {
            let innermost = open.last().copied().unwrap_or(0);
            match block {
                Block::Heading { level, text } => {
                    let stays =
                        |&i: &usize| !matches!(sections[i].opened_by, Opener::Heading(above) if above >= *level);
                    // A heading ends those of its level and below it, but not the entry that it stands in.
                    let keep = open.iter().rposition(stays).map_or(1, |at| at + 1);
                    open.truncate(keep);
                    self.open_section(&mut sections, &mut open, text, Opener::Heading(*level));
                }
                Block::EntryStart(term) => {
                    if !self.open_section(&mut sections, &mut open, term, Opener::Term) {
                        untracked += 1;
                    }
                }
                Block::EntryEnd if untracked > 0 => untracked -= 1,
                Block::EntryEnd => {
                    if let Some(at) = open.iter().rposition(|&i| sections[i].opened_by == Opener::Term) {
                        open.truncate(at);
                    }
                }
                Block::Paragraph { text, marker, indent } => {
                    let indent = "  ".repeat(usize::from((*indent).min(INDENT_MAX)));
                    let parts = &mut sections[innermost].parts;
                    // Items stand below each other, and below the text that announces them, without a gap.
                    let below =
                        matches!(parts.last(), Some(Part::Unit(unit)) if unit.form == Form::Item || unit.leads_in());
                    let (form, join) = match (marker.is_empty(), below) {
                        (true, _) => (Form::Prose, Join::Blank),
                        (false, true) => (Form::Item, Join::Line),
                        (false, false) => (Form::Item, Join::Blank),
                    };
                    parts.push(Part::Unit(self.unit(format!("{indent}{marker}{text}"), form, join)));
                }
                Block::Code(text) => {
                    let unit = self.unit(text.clone(), Form::Code, Join::Blank);
                    sections[innermost].parts.push(Part::Unit(unit));
                }
                Block::Table { header, rows } => {
                    let unit = self.table(header.as_deref(), rows);
                    sections[innermost].parts.push(Part::Unit(unit));
                }
            }
        }
        for index in (0..sections.len()).rev() {
            self.measure(&mut sections, index);
        }
        sections
    }

    /// Opens a section, or, if it would be too deep, adds its heading as a paragraph. Says whether it opened one.
    fn open_section(&self, sections: &mut Vec<Section>, open: &mut Vec<usize>, text: &str, opened_by: Opener) -> bool {
        let parent = open.last().copied().unwrap_or(0);
        if open.len() > DEPTH_MAX {
            sections[parent].parts.push(Part::Unit(self.unit(text.to_owned(), Form::Prose, Join::Blank)));
            return false;
        }
        let (name, is_whole) = shortened(text);
        let above = &sections[parent].path;
        let path = if above.is_empty() { name } else { format!("{above}{PATH_SEPARATOR}{name}") };
        let mut parts = Vec::new();
        if !is_whole {
            parts.push(Part::Unit(self.unit(text.to_owned(), Form::Prose, Join::Blank)));
        }
        let index = sections.len();
        sections.push(Section { heading: text.to_owned(), path, opened_by, parts, tokens: None });
        sections[parent].parts.push(Part::Section(index));
        open.push(index);
        true
    }

    fn table(&self, header: Option<&str>, rows: &[String]) -> Unit {
        let has_long_rows = header.into_iter().chain(rows.iter().map(String::as_str)).any(|row| row.contains('\n'));
        let between = if has_long_rows { Join::Blank } else { Join::Line };
        let mut text = header.unwrap_or_default().to_owned();
        for row in rows {
            if !text.is_empty() {
                text.push_str(between.as_str());
            }
            text.push_str(row);
        }
        self.unit(text, Form::Table { header_bytes: header.map_or(0, str::len), between }, Join::Blank)
    }

    /// Takes the short entries of section `index` into its text, and fills in how long it is with all below it. The
    /// sections below it must have been measured.
    fn measure(&self, sections: &mut [Section], index: usize) {
        let mut parts = std::mem::take(&mut sections[index].parts);
        for i in 0..parts.len() {
            let Part::Section(child) = parts[i] else { continue };
            let child = &sections[child];
            if child.opened_by == Opener::Term
                && self.is_short(child.tokens)
                && let Some(mut entry) = entry(child)
            {
                let beside = i > 0
                    && entry.is_one_line()
                    && matches!(&parts[i - 1], Part::Unit(unit) if unit.form == Form::Entry && unit.is_one_line());
                entry.join = if beside { Join::Line } else { Join::Blank };
                parts[i] = Part::Unit(entry);
            }
        }
        let below = parts.iter().try_fold(0_usize, |sum, part| match part {
            Part::Unit(unit) => Some(sum + unit.tokens? + unit.join.tokens()),
            Part::Section(child) => Some(sum + sections[*child].tokens? + Join::Blank.tokens()),
        });
        let own = self.tokens(&sections[index].heading);
        sections[index].tokens = below.zip(own).map(|(below, own)| below + own);
        sections[index].parts = parts;
    }
}

/// A section of a term as text: `term: explanation`. None if there are sections in it.
fn entry(section: &Section) -> Option<Unit> {
    let mut text = section.heading.clone();
    for (i, part) in section.parts.iter().enumerate() {
        let Part::Unit(unit) = part else { return None };
        text.push_str(match (i, unit.form) {
            (0, Form::Prose) if text.ends_with(':') => " ",
            (0, Form::Prose) => ": ",
            (0, _) => "\n",
            _ => unit.join.as_str(),
        });
        text.push_str(&unit.text);
    }
    Some(Unit { text, tokens: section.tokens, form: Form::Entry, join: Join::Blank, header: None })
}

/// A heading for a path, and whether it is all of it.
fn shortened(heading: &str) -> (String, bool) {
    match heading.char_indices().nth(HEADING_CHARS_MAX) {
        None => (heading.to_owned(), true),
        Some((end, _)) => {
            let cut = heading[..end].rfind(char::is_whitespace).filter(|&at| at > 0).unwrap_or(end);
            (format!("{} …", heading[..cut].trim_end()), false)
        }
    }
}

// From sections to runs of text that stand under one path.
impl Splitter<'_> {
    /// The passages of section `index` and those below it. Takes the text out of `sections`.
    ///
    /// Recursion: at most [`DEPTH_MAX`] deep.
    fn split_section(&mut self, sections: &mut [Section], index: usize) {
        let parts = std::mem::take(&mut sections[index].parts);
        if parts.is_empty() {
            // A heading alone is all that there is to find.
            let heading = self.unit(sections[index].heading.clone(), Form::Prose, Join::Blank);
            self.pack(vec![heading], &sections[index].path);
            return;
        }
        let mut short = Short::default();
        let mut run = Vec::new();
        for part in parts {
            match part {
                Part::Unit(unit) => run.push(unit),
                Part::Section(child) => {
                    self.end_run(&mut run, &mut short, sections, index);
                    let Section { opened_by, tokens, .. } = sections[child];
                    match tokens {
                        // A term with a long explanation is one of its own; those with a short one are text by now.
                        Some(tokens) if self.is_short(Some(tokens)) && opened_by != Opener::Term => {
                            self.add_short(ShortPart::Section(child), tokens, &mut short, sections, index);
                        }
                        _ => {
                            self.end_short(&mut short, sections, index);
                            self.split_section(sections, child);
                        }
                    }
                }
            }
        }
        self.end_run(&mut run, &mut short, sections, index);
        self.end_short(&mut short, sections, index);
    }

    fn end_run(&mut self, run: &mut Vec<Unit>, short: &mut Short, sections: &mut [Section], index: usize) {
        let run = std::mem::take(run);
        let tokens = run.iter().try_fold(0_usize, |sum, unit| Some(sum + unit.tokens? + unit.join.tokens()));
        match tokens {
            _ if run.is_empty() => {}
            Some(tokens) if self.is_short(Some(tokens)) => {
                self.add_short(ShortPart::Own(run), tokens, short, sections, index);
            }
            _ => {
                self.end_short(short, sections, index);
                self.pack(run, &sections[index].path);
            }
        }
    }

    fn add_short(&mut self, part: ShortPart, tokens: usize, short: &mut Short, sections: &mut [Section], index: usize) {
        if short.tokens + tokens > self.tokens_max {
            self.end_short(short, sections, index);
        }
        short.tokens += tokens;
        short.parts.push(part);
    }

    /// The passage of the short parts so far: under the path of the one there is, or all together under their parent's.
    fn end_short(&mut self, short: &mut Short, sections: &mut [Section], index: usize) {
        let Short { mut parts, .. } = std::mem::take(short);
        if let [ShortPart::Section(only)] = parts.as_slice() {
            return self.split_section(sections, *only);
        }
        let mut units = Vec::new();
        for part in parts.drain(..) {
            match part {
                ShortPart::Own(own) => units.extend(own),
                ShortPart::Section(child) => self.flatten(sections, child, &mut units),
            }
        }
        self.pack(units, &sections[index].path);
    }

    /// The section and those below it as text under their headings.
    fn flatten(&self, sections: &mut [Section], index: usize, units: &mut Vec<Unit>) {
        units.push(self.unit(sections[index].heading.clone(), Form::Prose, Join::Blank));
        for (i, part) in std::mem::take(&mut sections[index].parts).into_iter().enumerate() {
            match part {
                Part::Unit(mut unit) => {
                    if i == 0 {
                        unit.join = Join::Line;
                    }
                    units.push(unit);
                }
                Part::Section(child) => self.flatten(sections, child, units),
            }
        }
    }
}

// From runs to passages.
impl Splitter<'_> {
    /// Makes passages of `units`, which stand under one path, as even as their boundaries allow.
    fn pack(&mut self, units: Vec<Unit>, path: &str) {
        let mut queue = VecDeque::with_capacity(units.len());
        for unit in units {
            self.explode(unit, &mut queue);
        }
        let mut left: usize = queue.iter().map(|unit| unit.tokens.unwrap_or(0) + unit.join.tokens()).sum();
        // What the passage begins with besides its own units: the end of the one before it, or a table's header.
        let mut overlap: Option<(String, usize)> = None;
        let mut is_first = true;
        while let Some(first) = queue.pop_front() {
            let repeats = first.header.as_deref().filter(|_| !is_first).cloned().or(overlap.take());
            let mut prefix =
                repeats.filter(|(_, tokens)| tokens + Join::Blank.tokens() + size(&first) <= self.tokens_max);
            let room = if left > self.tokens_max {
                self.tokens_max - self.overlap_tokens.min(self.tokens_max / 2)
            } else {
                left
            };
            let goal = left.div_ceil(left.div_ceil(room.max(1)).max(1));
            let mut tokens = prefix.as_ref().map_or(0, |(_, tokens)| tokens + Join::Blank.tokens());
            let mut own = size(&first);
            let mut taken = vec![first];
            while let Some(next) = queue.front() {
                let more = size(next) + next.join.tokens();
                let leads_in = taken.last().is_some_and(Unit::leads_in);
                if tokens + own + more > self.tokens_max || (own + more / 2 > goal && !leads_in) {
                    break;
                }
                own += more;
                taken.extend(queue.pop_front());
            }
            // What announces the next unit goes along with it.
            let mut moved = false;
            if let (Some(last), Some(next)) = (taken.last(), queue.front())
                && taken.len() > 1
                && last.leads_in()
                && size(last) + next.join.tokens() + size(next) <= self.tokens_max
            {
                if let Some(last) = taken.pop() {
                    queue.push_front(last);
                }
                moved = true;
            }
            tokens += taken.iter().map(|unit| size(unit) + unit.join.tokens()).sum::<usize>();
            let content = loop {
                let content = joined(prefix.as_ref().map(|(text, _)| text.as_str()), &taken);
                // Whatever tokens the joints really cost, two for each are enough.
                let is_certain = tokens + 2 * taken.len() <= self.tokens_max || (taken.len() == 1 && prefix.is_none());
                if is_certain || (self.count)(&content) <= self.tokens_max {
                    break content;
                }
                if prefix.take().is_none() {
                    if let Some(last) = taken.pop() {
                        queue.push_front(last);
                    }
                    moved = true;
                }
                tokens = self.tokens_max;
            };
            left = left.saturating_sub(taken.iter().map(|unit| size(unit) + unit.join.tokens()).sum());
            overlap = if moved || queue.is_empty() { None } else { self.overlap(&taken) };
            self.push(path, &content);
            is_first = false;
        }
    }

    fn push(&mut self, heading: &str, content: &str) {
        let content = content.trim_end().trim_start_matches('\n');
        if !content.trim_start().is_empty() {
            let ordinal = u32::try_from(self.passages.len()).unwrap_or(u32::MAX);
            self.passages.push(Passage { ordinal, heading: heading.to_owned(), content: content.to_owned() });
        }
    }

    /// The last whole sentences of `taken`, out of one paragraph and within the limit.
    fn overlap(&self, taken: &[Unit]) -> Option<(String, usize)> {
        let mut repeated: VecDeque<&str> = VecDeque::new();
        let mut tokens = 0;
        'units: for (i, unit) in taken.iter().enumerate().rev() {
            if !unit.is_prose() {
                break;
            }
            for (sentence, _) in sentences(&unit.text).into_iter().rev() {
                if sentence.len() > self.overlap_tokens * BYTES_PER_TOKEN_MAX {
                    break 'units;
                }
                let more = (self.count)(sentence) + Join::Space.tokens();
                if tokens + more > self.overlap_tokens {
                    break 'units;
                }
                tokens += more;
                repeated.push_front(sentence);
            }
            // All of the passage again would be no overlap but a copy; and a paragraph's end is where it stops.
            if i == 0 {
                return None;
            }
            if unit.join != Join::Space {
                break;
            }
        }
        (!repeated.is_empty()).then(|| (repeated.into_iter().collect::<Vec<_>>().join(" "), tokens))
    }

    /// `unit`, or the pieces of it that fit into a passage each.
    fn explode(&self, unit: Unit, queue: &mut VecDeque<Unit>) {
        if size(&unit) <= self.tokens_max {
            queue.push_back(unit);
            return;
        }
        match unit.form {
            Form::Prose | Form::Item => {
                for (i, (sentence, join)) in sentences(&unit.text).into_iter().enumerate() {
                    let join = if i == 0 { unit.join } else { join };
                    self.cut_if_needed(sentence, unit.form, join, None, queue);
                }
            }
            Form::Code | Form::Entry => {
                for (i, line) in unit.text.split('\n').enumerate() {
                    let join = if i == 0 { unit.join } else { Join::Line };
                    self.cut_if_needed(line, unit.form, join, None, queue);
                }
            }
            Form::Table { header_bytes, between } => {
                let (header, rows) = unit.text.split_at(header_bytes);
                let header_tokens = if header.is_empty() { None } else { self.tokens(header) };
                let repeated = header_tokens.map(|tokens| Rc::new((header.to_owned(), tokens)));
                if !header.is_empty() {
                    self.cut_if_needed(header, unit.form, unit.join, None, queue);
                }
                let rows = rows.strip_prefix(between.as_str()).unwrap_or(rows);
                for (i, row) in rows.split(between.as_str()).enumerate() {
                    let join = if i == 0 && header.is_empty() { unit.join } else { between };
                    self.cut_if_needed(row, unit.form, join, repeated.clone(), queue);
                }
            }
        }
    }

    /// `text` as a unit, or cut at words, or at characters where a word does not fit.
    fn cut_if_needed(
        &self,
        text: &str,
        form: Form,
        join: Join,
        header: Option<Rc<(String, usize)>>,
        queue: &mut VecDeque<Unit>,
    ) {
        let whole = self.tokens(text);
        if whole.is_some_and(|tokens| tokens <= self.tokens_max) {
            queue.push_back(Unit { text: text.to_owned(), tokens: whole, form, join, header });
            return;
        }
        let bytes_max = self.tokens_max.saturating_mul(BYTES_PER_TOKEN_MAX);
        let mut bytes = self.tokens_max.saturating_mul(BYTES_PER_TOKEN);
        let (mut rest, mut join) = (text, join);
        while !rest.is_empty() {
            let (piece, tokens, after) = loop {
                let (piece, after) = prefix(rest, bytes);
                let tokens = (self.count)(piece);
                if tokens <= self.tokens_max || piece.chars().nth(1).is_none() {
                    break (piece, tokens, after);
                }
                // What would fit if tokens were spread evenly, less a little; shorter each time.
                bytes = (piece.len() * self.tokens_max / tokens * 9 / 10).min(piece.len() - 1);
            };
            let unit = Unit { text: piece.to_owned(), tokens: Some(tokens), form, join, header: header.clone() };
            queue.push_back(unit);
            bytes = (piece.len() * self.tokens_max / tokens.max(1) * 19 / 20).clamp(1, bytes_max.max(1));
            rest = &rest[piece.len()..];
            if after != Join::None {
                rest = rest.trim_start();
            }
            join = after;
        }
    }
}

/// Tokens of a unit that fits; one that nobody counted does not.
fn size(unit: &Unit) -> usize {
    unit.tokens.unwrap_or(usize::MAX / 4)
}

fn joined(prefix: Option<&str>, units: &[Unit]) -> String {
    let mut content = prefix.unwrap_or_default().to_owned();
    for unit in units {
        if !content.is_empty() {
            content.push_str(unit.join.as_str());
        }
        content.push_str(&unit.text);
    }
    content
}

/// The longest prefix of `text` that ends with a word and has at most `bytes` bytes; part of a word if there is none,
/// and at least one character. And how it is joined to what follows.
fn prefix(text: &str, bytes: usize) -> (&str, Join) {
    if text.len() <= bytes {
        return (text, Join::None);
    }
    let end = text.floor_char_boundary(bytes);
    let first = text.chars().next().map_or(0, char::len_utf8);
    let end = end.max(first);
    // A word may end exactly there.
    let ends_word = text[end..].starts_with(char::is_whitespace);
    let word_end = if ends_word { Some(end) } else { text[..end].rfind(char::is_whitespace) };
    match word_end.map(|at| text[..at].trim_end()).filter(|piece| !piece.is_empty()) {
        Some(piece) => (piece, Join::Space),
        None => (&text[..end], Join::None),
    }
}

/// The sentences of `text`, each with how it is joined to the one before it. A sentence ends with `.`, `!`, `?` or `…`
/// and quotes or brackets after it, before white space and something other than a lower-case letter; or with a Chinese or
/// Japanese full stop.
fn sentences(text: &str) -> Vec<(&str, Join)> {
    let mut sentences = Vec::new();
    let (mut start, mut join) = (0, Join::Blank);
    let mut chars = text.char_indices().peekable();
    while let Some((_, c)) = chars.next() {
        let is_wide = matches!(c, '。' | '！' | '？');
        if !is_wide && !matches!(c, '.' | '!' | '?' | '…') {
            continue;
        }
        while chars
            .next_if(|(_, c)| matches!(c, '.' | '!' | '?' | '…' | '"' | '\'' | ')' | ']' | '”' | '’' | '»' | '」'))
            .is_some()
        {}
        let end = chars.peek().map_or(text.len(), |&(at, _)| at);
        let rest = &text[end..];
        let gap = rest.len() - rest.trim_start().len();
        let begins_sentence = rest[gap..].chars().next().is_some_and(|c| !c.is_lowercase());
        if begins_sentence && (is_wide || gap > 0) {
            sentences.push((&text[start..end], join));
            start = end + gap;
            join = match &rest[..gap] {
                "" => Join::None,
                white if white.contains('\n') => Join::Line,
                _ => Join::Space,
            };
        }
    }
    if start < text.len() {
        sentences.push((&text[start..], join));
    }
    sentences
}
