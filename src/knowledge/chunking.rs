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
/// Longest paragraph that is taken for the caption of the table or code below it.
const CAPTION_TOKENS_MAX: usize = 24;
/// A section below this share of a passage (1 in …) is short.
const SHORT_SHARE: usize = 4;
/// A text of more bytes than this for each token that a passage may have is split without being counted first, so that no
/// single count takes long. No tokenizer makes that much of ordinary text into one token.
const BYTES_PER_TOKEN_MAX: usize = 16;
/// Bytes for a token that the first cut of a text without any structure assumes.
const BYTES_PER_TOKEN: usize = 4;

/// What may follow the end of a sentence and still belongs to it.
const CLOSING: &str = ".!?…\"')]”’»」";

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

    /// Whether it announces something and makes little sense without it.
    fn leads_in(&self) -> bool {
        self.is_prose() && self.text.ends_with(':')
    }

    /// Whether it announces `next`: it says so, or is the caption of a table or example.
    fn leads_in_to(&self, next: &Unit) -> bool {
        let is_caption = self.form == Form::Prose && self.tokens.is_some_and(|tokens| tokens <= CAPTION_TOKENS_MAX);
        self.leads_in() || (is_caption && matches!(next.form, Form::Table { .. } | Form::Code))
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
    /// Whether the heading is the first of the parts, since the path only has its start.
    heading_in_text: bool,
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
            heading_in_text: false,
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
        sections.push(Section {
            heading: text.to_owned(),
            path,
            opened_by,
            parts,
            heading_in_text: !is_whole,
            tokens: None,
        });
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
    let mut text = if section.heading_in_text { String::new() } else { section.heading.clone() };
    for (i, part) in section.parts.iter().enumerate() {
        let Part::Unit(unit) = part else { return None };
        text.push_str(match (i, unit.form) {
            _ if text.is_empty() => "",
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
                    self.lead_in(&mut run, &short, &mut sections[child]);
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

    /// Moves a few words such as `It takes one parameter:` into the section of the term that they announce.
    fn lead_in(&self, run: &mut Vec<Unit>, short: &Short, term: &mut Section) {
        let announces = run.last().is_some_and(Unit::leads_in) && term.opened_by == Opener::Term;
        let tokens = run.iter().try_fold(0_usize, |sum, unit| Some(sum + unit.tokens? + unit.join.tokens()));
        if announces && short.parts.is_empty() && self.is_short(tokens) {
            term.parts.splice(0..0, run.drain(..).map(Part::Unit));
        }
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
        let heading_first = !sections[index].heading_in_text;
        if heading_first {
            units.push(self.unit(sections[index].heading.clone(), Form::Prose, Join::Blank));
        }
        for (i, part) in std::mem::take(&mut sections[index].parts).into_iter().enumerate() {
            match part {
                Part::Unit(mut unit) => {
                    if i == 0 && heading_first {
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
                repeats.filter(|(_, tokens)| tokens + first.join.tokens() + size(&first) <= self.tokens_max);
            // Room for what will be repeated, where something will be.
            let repeated = if first.is_prose() { self.overlap_tokens.min(self.tokens_max / 2) } else { 0 };
            let room = if left > self.tokens_max { self.tokens_max - repeated } else { left };
            let goal = left.div_ceil(left.div_ceil(room.max(1)).max(1));
            let mut tokens = prefix.as_ref().map_or(0, |(_, tokens)| tokens + first.join.tokens());
            let mut own = size(&first);
            let mut taken = vec![first];
            while let Some(next) = queue.front() {
                let more = size(next) + next.join.tokens();
                let leads_in = taken.last().is_some_and(|last| last.leads_in_to(next));
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
                && last.leads_in_to(next)
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
    while let Some((at, c)) = chars.next() {
        let is_wide = matches!(c, '。' | '！' | '？');
        if !is_wide && !matches!(c, '.' | '!' | '?' | '…') {
            continue;
        }
        // `e.g.`, `i.e.`, initials.
        let mut before = text[start..at].chars().rev();
        let is_initial = c == '.'
            && before.next().is_some_and(char::is_alphabetic)
            && before.next().is_none_or(|c| !c.is_alphanumeric());
        // Three dots that stand for something left out.
        let stands_alone = at == start || text[..at].ends_with(char::is_whitespace);
        while chars.next_if(|&(_, c)| CLOSING.contains(c)).is_some() {}
        let end = chars.peek().map_or(text.len(), |&(at, _)| at);
        let rest = &text[end..];
        let gap = rest.len() - rest.trim_start().len();
        let begins_sentence = rest[gap..].chars().next().is_some_and(|c| !c.is_lowercase());
        if begins_sentence && !stands_alone && !is_initial && (is_wide || gap > 0) {
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

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::HashSet, time::Instant};

    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

    use super::*;
    use crate::knowledge::extract::{MediaType, extract};

    /// A token for each word and each line break, and for each 8 bytes of a longer word.
    fn words(text: &str) -> usize {
        let breaks = text.matches('\n').count();
        breaks + text.split_whitespace().map(|word| word.len().div_ceil(8)).sum::<usize>()
    }

    fn limits(tokens_max: usize, overlap_tokens: usize) -> Limits {
        Limits { tokens_max, overlap_tokens }
    }

    fn markdown(text: &str, tokens_max: usize, overlap_tokens: usize) -> Vec<(String, String)> {
        let document = extract(text.as_bytes(), &MediaType::parse("text/markdown").unwrap()).unwrap();
        let passages = split(&document, &limits(tokens_max, overlap_tokens), &words);
        assert!(passages.iter().enumerate().all(|(i, passage)| passage.ordinal as usize == i));
        passages.into_iter().map(|passage| (passage.heading, passage.content)).collect()
    }

    fn check(text: &str, tokens_max: usize, overlap_tokens: usize, expected: &[(&str, &str)]) {
        let passages = markdown(text, tokens_max, overlap_tokens);
        let passages: Vec<(&str, &str)> = passages.iter().map(|(h, c)| (h.as_str(), c.as_str())).collect();
        assert_eq!(passages, expected);
    }

    fn numbered(word: &str, numbers: std::ops::Range<usize>) -> String {
        numbers.map(|i| format!("{word}{i}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_document_without_text_has_no_passages() {
        assert_eq!(markdown("", 32, 8), []);
        assert_eq!(split(&Extracted { title: Some("only".into()), blocks: vec![] }, &limits(32, 8), &words), []);
    }

    #[test]
    fn sections_are_not_mixed_and_carry_their_path() {
        let (a, b) = (numbered("a", 0..20), numbered("b", 0..20));
        check(
            &format!("before\n\n# One\n\n## Two\n\n{a}\n\n### Three\n\n{b}\n\n# Four\n\n{a}"),
            32,
            0,
            &[("", "before"), ("One › Two", &a), ("One › Two › Three", &b), ("Four", &a)],
        );
    }

    #[test]
    fn short_neighbours_share_a_passage_with_their_headings_in_the_text() {
        check(
            "# Top\n\nintro\n\n## A\n\na b c\n\n## B\n\n- d\n- e\n\n## Empty\n\n## Long\n\n",
            64,
            0,
            &[("Top", "intro\n\nA\na b c\n\nB\n- d\n- e\n\nEmpty\n\nLong")],
        );
        let long = numbered("w", 0..30);
        check(
            &format!("# Top\n\n## A\n\nx\n\n## B\n\n{long}\n\n## C\n\ny\n\n## D\n\nz"),
            64,
            0,
            &[("Top › A", "x"), ("Top › B", &long), ("Top", "C\ny\n\nD\nz")],
        );
    }

    #[test]
    fn a_heading_alone_is_still_found() {
        check("# Only a heading", 32, 0, &[("Only a heading", "Only a heading")]);
        check(&format!("# A\n\n{}\n\n# B", numbered("w", 0..20)), 32, 0, &[("A", &numbered("w", 0..20)), ("B", "B")]);
    }

    #[test]
    fn short_entries_are_text_and_long_ones_are_sections() {
        let long = numbered("w", 0..20);
        check(
            &format!(
                "Options:\n\nsize\n: Its size.\n\ncolor\n: Its color.\n\nmode\n: {long}\n\nlast\n: One:\n\n  ```\n  code\n  ```\n"
            ),
            64,
            0,
            &[("", "Options:\n\nsize: Its size.\ncolor: Its color."), ("mode", &long), ("", "last: One:\n\ncode")],
        );
        check(
            &format!("It takes one option:\n\nmode\n: {long}\n"),
            64,
            0,
            &[("mode", &format!("It takes one option:\n\n{long}"))],
        );
    }

    #[test]
    fn a_long_section_is_split_evenly_between_paragraphs() {
        let paragraphs: Vec<String> = (0..6).map(|i| numbered(&format!("p{i}w"), 0..10)).collect();
        let text = paragraphs.join("\n\n");
        check(&text, 40, 0, &[("", &paragraphs[..3].join("\n\n")), ("", &paragraphs[3..].join("\n\n"))]);
    }

    #[test]
    fn a_long_paragraph_is_split_between_sentences_and_overlaps_in_whole_ones() {
        let sentences: Vec<String> = (0..8).map(|i| format!("Sentence{i} {} end.", numbered("w", 0..4))).collect();
        check(
            &sentences.join(" "),
            24,
            8,
            &[
                ("", &sentences[..2].join(" ")),
                ("", &sentences[1..4].join(" ")),
                ("", &sentences[3..6].join(" ")),
                ("", &sentences[5..].join(" ")),
            ],
        );
        // Too long to be repeated, so it is not.
        let passages = markdown(&sentences.join(" "), 24, 5);
        assert!(
            passages.windows(2).all(|pair| !pair[1].1.starts_with(&pair[0].1[pair[0].1.rfind("Sentence").unwrap()..]))
        );
        // Another section's words are never repeated.
        let text = format!("# A\n\n{}\n\n# B\n\n{}", sentences[..3].join(" "), sentences[3..6].join(" "));
        for (heading, content) in markdown(&text, 20, 8) {
            let own = if heading == "A" { 0..3 } else { 3..6 };
            assert!(
                (0..6).all(|i| own.contains(&i) || !content.contains(&format!("Sentence{i} "))),
                "{heading}: {content}"
            );
        }
    }

    #[test]
    fn code_stays_whole_where_it_fits_and_is_split_at_lines_where_not() {
        let code =
            |lines: std::ops::Range<usize>| lines.map(|i| format!("  line{i} a b")).collect::<Vec<_>>().join("\n");
        let before = numbered("w", 0..12);
        check(&format!("{before}\n\n```\n{}\n```", code(0..4)), 20, 0, &[("", &before), ("", &code(0..4))]);
        check(&format!("```\n{}\n```", code(0..8)), 20, 4, &[("", &code(0..5)), ("", &code(5..8))]);
    }

    #[test]
    fn what_announces_code_goes_along_with_it() {
        check(
            &format!("{}\n\nFor example:\n\n```\n{}\n```", numbered("w", 0..10), numbered("c", 0..8)),
            18,
            8,
            &[("", &numbered("w", 0..10)), ("", &format!("For example:\n\n{}", numbered("c", 0..8)))],
        );
    }

    #[test]
    fn a_tables_header_is_repeated_where_it_fits() {
        let rows: String = (0..6).map(|i| format!("| a{i} | b{i} |\n")).collect();
        check(
            &format!("| x | y |\n|---|---|\n{rows}"),
            16,
            0,
            &[("", "x | y\na0 | b0\na1 | b1\na2 | b2"), ("", "x | y\na3 | b3\na4 | b4\na5 | b5")],
        );
        let header = numbered("h", 0..14);
        let passages = markdown(&format!("| {header} | y |\n|---|---|\n{rows}"), 16, 0);
        assert!(passages[1..].iter().all(|(_, content)| !content.contains("h0")), "{passages:?}");
    }

    #[test]
    fn a_heading_too_long_for_a_path_stands_in_the_text() {
        let heading = numbered("heading", 0..100);
        let passages = markdown(&format!("# {heading}\n\ntext"), 400, 0);
        let [(path, content)] = passages.as_slice() else { panic!("{passages:?}") };
        assert!(path.ends_with(" …") && path.chars().count() <= HEADING_CHARS_MAX + 2, "{path}");
        assert_eq!(*content, format!("{heading}\n\ntext"));
    }

    #[test]
    fn sentences_end_where_people_end_them() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<&str> = sentences(text).into_iter().map(|(sentence, _)| sentence).collect();
            assert_eq!(found, expected);
        };
        check("", &[]);
        check("One. Two! (Three?) \"Four.\" Five", &["One.", "Two!", "(Three?)", "\"Four.\"", "Five"]);
        check("See e.g. this, i.e. 1.5 of foo.bar. Then", &["See e.g. this, i.e. 1.5 of foo.bar.", "Then"]);
        check("ALTER TABLE ... ENABLE it. … So", &["ALTER TABLE ... ENABLE it.", "… So"]);
        check("你好。再见！ok", &["你好。", "再见！ok"]);
        check("...", &["..."]);
    }

    #[test]
    fn a_huge_word_is_cut_within_the_limit_and_in_linear_time() {
        let counted = Cell::new(0);
        let count = |text: &str| {
            counted.set(counted.get() + text.len());
            words(text)
        };
        for text in [
            "x".repeat(1 << 15),
            "é".repeat(1 << 16),
            "ab cd ".repeat(1 << 15),
            "a.\n".repeat(1 << 16),
            " \u{3000}y".repeat(1 << 15),
        ] {
            counted.set(0);
            let started = Instant::now();
            let document = Extracted { title: None, blocks: vec![Block::Code(text.clone())] };
            let passages = split(&document, &limits(64, 8), &count);
            assert!(passages.iter().all(|passage| words(&passage.content) <= 64 && !passage.content.is_empty()));
            let kept: usize = passages.iter().map(|passage| non_space(&passage.content)).sum();
            assert_eq!(kept, non_space(&text));
            assert!(counted.get() < 6 * text.len(), "{} of {} bytes counted", counted.get(), text.len());
            // Quadratic time would be hours; this only tells those apart.
            assert!(started.elapsed().as_secs() < 60);
        }
    }

    fn non_space(text: &str) -> usize {
        text.chars().filter(|c| !c.is_whitespace()).count()
    }

    #[test]
    fn deep_nesting_is_flattened() {
        let mut blocks: Vec<Block> = (0..50_000).map(|i| Block::EntryStart(format!("t{i}"))).collect();
        blocks.push(Block::paragraph("inside"));
        blocks.extend(std::iter::repeat_n(Block::EntryEnd, 60_000));
        blocks.push(Block::paragraph("after"));
        let passages = split(&Extracted { title: None, blocks }, &limits(64, 8), &words);
        assert!(passages.iter().all(|passage| passage.heading.matches(PATH_SEPARATOR).count() <= DEPTH_MAX));
        assert_eq!(passages.last().map(|it| (it.heading.as_str(), it.content.as_str())), Some(("", "after")));
        let found: HashSet<&str> =
            passages.iter().flat_map(|it| it.heading.split_whitespace().chain(it.content.split_whitespace())).collect();
        assert!((0..50_000).all(|i| found.iter().any(
            |_| found.contains(format!("t{i}").trim_end_matches(':')) || found.contains(format!("t{i}:").as_str())
        )));
    }

    /// Any document: blocks of every kind in any order, also entries that end before they start.
    fn document(random: &mut SmallRng) -> Extracted {
        let mut word = 0;
        let mut blocks = Vec::new();
        let mut text = |random: &mut SmallRng, words_max: usize, separators: &[&str]| -> String {
            let mut text = String::new();
            for _ in 0..random.random_range(1..=words_max) {
                if !text.is_empty() {
                    text.push_str(separators.choose(random).unwrap());
                }
                // Each word is another one, so that one that gets lost is noticed; some are longer than a passage.
                word += 1;
                text.push_str(&format!("w{word}"));
                if random.random_range(0..200) == 0 {
                    text.push_str(&"ü".repeat(random.random_range(1..400)));
                }
            }
            text
        };
        for _ in 0..random.random_range(0..30) {
            let size = if random.random_range(0..4) == 0 { 200 } else { 20 };
            let separators = [" ", " ", " ", ". S", "! ", "\n", "... ", "。"];
            blocks.push(match random.random_range(0..10) {
                0..=1 => Block::Heading { level: random.random_range(0..=6), text: text(random, size.min(60), &[" "]) },
                2 => Block::EntryStart(text(random, 5, &[" "])),
                3 => Block::EntryEnd,
                4 => Block::Code(text(random, size, &[" ", "\n", "\n\n  "])),
                5 => Block::Table {
                    header: random.random_bool(0.5).then(|| text(random, 6, &[" | "])),
                    rows: (0..random.random_range(1..20))
                        .map(|_| text(random, size / 4, &[" ", " | ", "\n"]))
                        .collect(),
                },
                6 => Block::Paragraph {
                    text: text(random, size, &separators),
                    marker: "- ".into(),
                    indent: random.random_range(0..9),
                },
                _ => Block::paragraph(text(random, size, &separators) + if random.random_bool(0.2) { ":" } else { "" }),
            });
        }
        Extracted { title: None, blocks }
    }

    #[test]
    fn on_any_document_the_invariants_hold() {
        // Three ways to count: by words, by bytes, and one where parts together may have more tokens than apart.
        let counts: [&dyn Fn(&str) -> usize; 3] =
            [&words, &|text| text.len().div_ceil(4), &|text| words(text) + text.len() / 64 + 1];
        let mut random = SmallRng::seed_from_u64(5);
        for round in 0..400 {
            let document = document(&mut random);
            let count = *counts.choose(&mut random).unwrap();
            let tokens_max = random.random_range(32..200);
            let limits = limits(tokens_max, random.random_range(0..tokens_max / 2));
            let passages = split(&document, &limits, count);
            assert_eq!(passages, split(&document, &limits, count), "round {round}: not deterministic");
            let mut all = String::new();
            for (i, passage) in passages.iter().enumerate() {
                assert_eq!(passage.ordinal as usize, i);
                assert!(!passage.content.trim().is_empty(), "round {round}: empty");
                assert!(count(&passage.content) <= tokens_max, "round {round}: {} tokens", count(&passage.content));
                all.push_str(&format!("{} {} ", passage.heading, passage.content));
            }
            // A word may be cut, so its start is looked for.
            for word in format!("{:?}", document.blocks).split(|c: char| !c.is_ascii_alphanumeric()) {
                if word.strip_prefix('w').is_some_and(|number| number.parse::<u32>().is_ok()) {
                    assert!(all.contains(word), "round {round}: {word} got lost");
                }
            }
        }
    }

    #[test]
    fn only_a_neighbour_under_the_same_heading_repeats_words() {
        let mut random = SmallRng::seed_from_u64(6);
        for round in 0..100 {
            let document = document(&mut random);
            let passages = split(&document, &limits(48, 20), &words);
            let headers: HashSet<&str> = document
                .blocks
                .iter()
                .filter_map(|block| match block {
                    Block::Table { header, .. } => header.as_deref(),
                    _ => None,
                })
                .flat_map(str::split_whitespace)
                .collect();
            for (i, passage) in passages.iter().enumerate() {
                let own: HashSet<&str> = passage.content.split_whitespace().filter(|it| it.starts_with('w')).collect();
                for (j, other) in passages.iter().enumerate().skip(i + 1) {
                    let shared = other.content.split_whitespace().find(|it| own.contains(it) && !headers.contains(it));
                    let may = j == i + 1 && passage.heading == other.heading;
                    assert!(may || shared.is_none(), "round {round}: {i} and {j} share {shared:?}");
                }
            }
        }
    }
}
