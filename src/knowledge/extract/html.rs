//! HTML: read as a stream of tags and text, without building a tree.
//!
//! A stack of open elements, at most [`DEPTH_MAX`] deep, says what a text belongs to. It closes elements as a browser
//! does where authors leave out end tags (`<p>`, `<li>`, `<dt>`, `<td>`, …), and ignores end tags that fit nothing. Each
//! element hands its parent's state down to its children ([`Frame`]), so that closing one is only a pop.
//!
//! What is not the document's own text is left out: scripts, styles and hidden elements always; navigation, headers,
//! footers, sidebars and forms if there is any text besides them. If the page marks its main part (`<main>`, `<article>`
//! and what Sphinx and others use), only that is kept. Every block carries its flags until the end, when what there
//! is can be compared; so a page that is all header still says something.

use std::{borrow::Cow, convert::Infallible};

use encoding_rs::{Encoding, UTF_8};
use html5gum::{
    Tokenizer,
    emitters::callback::{CallbackEmitter, CallbackEvent},
};

use super::{Block, Extracted, collapsed, push_collapsed, tidy_lines};

/// Elements that are tracked at once; what is nested deeper belongs to the innermost tracked one. Browsers stop at 512.
const DEPTH_MAX: usize = 512;
/// Bytes of an attribute's value that are looked at.
const ATTRIBUTE_BYTES_MAX: usize = 1_024;
/// Bytes at the start of a page in which it may name its charset (WHATWG, "prescan a byte stream").
const CHARSET_PRESCAN_BYTES: usize = 1_024;
/// The marked main part must have at least this share of a page's text (1 in …) to be taken for all of it.
const MAIN_SHARE: usize = 4;

/// `content` as text. In this order: byte order mark, `charset` (from `Content-Type`), UTF-8 if it is valid, what a
/// `<meta>` names, UTF-8 with replacement characters.
pub(super) fn decode<'a>(content: &'a [u8], charset: Option<&'static Encoding>) -> Cow<'a, str> {
    if let Some((encoding, bom_bytes)) = Encoding::for_bom(content) {
        return encoding.decode_without_bom_handling(&content[bom_bytes..]).0;
    }
    if let Some(encoding) = charset {
        return encoding.decode_without_bom_handling(content).0;
    }
    match std::str::from_utf8(content) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => meta_charset(content).unwrap_or(UTF_8).decode_without_bom_handling(content).0,
    }
}

/// The charset that the page's `<meta charset=…>` or `<meta http-equiv content="…; charset=…">` names.
fn meta_charset(content: &[u8]) -> Option<&'static Encoding> {
    let start = &content[..content.len().min(CHARSET_PRESCAN_BYTES)];
    let lower = start.to_ascii_lowercase();
    let mut rest = lower.as_slice();
    while let Some(at) = find(rest, b"charset") {
        rest = &rest[at + b"charset".len()..];
        let value = rest.trim_ascii_start();
        let Some(value) = value.strip_prefix(b"=") else { continue };
        let value = value.trim_ascii_start().trim_start_with(b"\"'");
        let end = value.iter().position(|b| b"\"'; />\t\n\r".contains(b)).unwrap_or(value.len());
        // A page that says UTF-16 in ASCII is not in UTF-16.
        if let Some(encoding) = Encoding::for_label(&value[..end]).filter(|it| it.is_ascii_compatible()) {
            return Some(encoding);
        }
    }
    None
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// `trim_start_matches` for bytes.
trait TrimStartWith {
    fn trim_start_with(&self, bytes: &[u8]) -> &Self;
}

impl TrimStartWith for [u8] {
    fn trim_start_with(&self, bytes: &[u8]) -> &Self {
        let start = self.iter().position(|b| !bytes.contains(b)).unwrap_or(self.len());
        &self[start..]
    }
}

/// The title and the blocks of `html`.
pub(super) fn read(html: &str) -> Extracted {
    let mut reader = Reader { xml: html.trim_start().starts_with("<?xml"), ..Reader::default() };
    reader.run(html);
    reader.finish()
}

/// The blocks of a piece of HTML that stands in another document.
pub(super) fn read_fragment(html: &str) -> Vec<Block> {
    read(html).blocks
}

/// What holds for an element and everything in it, unless an element in it says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flags(u8);

impl Flags {
    /// Not text at all, or never to be seen.
    const SKIP: Self = Self(1);
    /// Navigation and the like.
    const BOILERPLATE: Self = Self(1 << 1);
    /// The main part, said so by the page.
    const MAIN: Self = Self(1 << 2);
    /// An article, or a container that usually holds the main part.
    const ARTICLE: Self = Self(1 << 3);
    /// A `<section>`, in which a `<header>` is the section's own.
    const SECTION: Self = Self(1 << 4);
    /// A note or warning, whose heading is a lead-in and opens no section.
    const ADMONITION: Self = Self(1 << 5);
    /// In a table that lays out the page: its cells are containers.
    const LAYOUT: Self = Self(1 << 6);
    /// SVG or MathML, where `/>` closes an element.
    const FOREIGN: Self = Self(1 << 7);

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What a run of text becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Flow,
    Title,
    Heading(u8),
    Lead,
    Code,
    Term,
    Cell,
}

/// What an element does besides holding text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Inline,
    Block,
    Paragraph,
    Heading,
    List {
        next: Option<u32>,
    },
    Item,
    Definitions {
        entry_open: bool,
    },
    /// `<dt>` or `<dd>`.
    Definition,
    Table,
    /// `<thead>`, `<tbody>`, `<tfoot>`.
    RowGroup {
        head: bool,
    },
    Row,
    Cell {
        head: bool,
    },
}

/// An open element.
#[derive(Debug, Clone, Copy)]
struct Frame {
    name: u128,
    kind: Kind,
    /// Its own and its ancestors'.
    flags: Flags,
    context: Context,
    list_depth: u8,
    /// Elements in it that are open but not tracked.
    untracked: u32,
}

const BOTTOM: Frame =
    Frame { name: 0, kind: Kind::Block, flags: Flags(0), context: Context::Flow, list_depth: 0, untracked: 0 };

/// The first 16 bytes of an element's name, which tell all elements apart that matter here.
fn packed(name: &[u8]) -> u128 {
    name.iter().take(16).fold(0, |packed, &byte| (packed << 8) | u128::from(byte))
}

/// The attributes of a start tag that are looked at.
#[derive(Debug, Default)]
struct Attributes {
    class: String,
    id: String,
    role: String,
    style: String,
    alt: String,
    start: String,
    hidden: bool,
    aria_hidden: bool,
}

impl Attributes {
    fn clear(&mut self) {
        let Self { class, id, role, style, alt, start, hidden, aria_hidden } = self;
        for text in [class, id, role, style, alt, start] {
            text.clear();
        }
        (*hidden, *aria_hidden) = (false, false);
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let text = match name {
            b"class" => &mut self.class,
            b"id" => &mut self.id,
            b"role" => &mut self.role,
            b"style" => &mut self.style,
            b"alt" => &mut self.alt,
            b"start" => &mut self.start,
            b"aria-hidden" => {
                self.aria_hidden = value == b"true";
                return;
            }
            _ => return,
        };
        text.clear();
        text.push_str(&String::from_utf8_lossy(&value[..value.len().min(ATTRIBUTE_BYTES_MAX)]));
    }
}

/// A table's rows while they are read.
#[derive(Debug, Default)]
struct TableRows {
    header: Option<String>,
    rows: Vec<String>,
    /// The cells of the row that is read, each the pieces of text in it.
    cells: Vec<Vec<String>>,
    /// Whether all of them head a column.
    all_head: bool,
}

#[derive(Debug, Default)]
struct Reader {
    xml: bool,
    stack: Vec<Frame>,
    tag: Vec<u8>,
    attribute: Vec<u8>,
    attributes: Attributes,
    /// The text since the last boundary between blocks, white space collapsed (outside `<pre>`).
    line: String,
    /// Whether white space is owed before the next character.
    space: bool,
    /// The marker of the list item that has just begun.
    marker: Option<String>,
    /// The heading of the note that has just begun.
    lead: Option<String>,
    /// `<dt>`s that wait for their `<dd>`.
    terms: Vec<String>,
    table: Option<TableRows>,
    title: Option<String>,
    blocks: Vec<(Block, Flags)>,
}

impl Reader {
    fn run(&mut self, html: &str) {
        let mut emitter = CallbackEmitter::<_, Infallible>::new(|event: CallbackEvent<'_>, _| {
            self.event(event);
            None
        });
        emitter.naively_switch_states(true);
        let Ok(()) = Tokenizer::new_with_emitter(html, emitter).finish();
    }

    fn event(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::String { value } => self.text(&String::from_utf8_lossy(value)),
            CallbackEvent::OpenStartTag { name } => {
                self.tag.clear();
                self.tag.extend_from_slice(name);
                self.attributes.clear();
            }
            CallbackEvent::AttributeName { name } => {
                self.attributes.hidden |= name == b"hidden";
                self.attribute.clear();
                self.attribute.extend_from_slice(name);
            }
            CallbackEvent::AttributeValue { value } => self.attributes.set(&self.attribute, value),
            CallbackEvent::CloseStartTag { self_closing } => {
                let tag = std::mem::take(&mut self.tag);
                self.open(&tag, self_closing);
                self.tag = tag;
            }
            CallbackEvent::EndTag { name } => self.close(name),
            CallbackEvent::Comment { .. } | CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => {}
        }
    }

    fn top(&self) -> Frame {
        self.stack.last().copied().unwrap_or(BOTTOM)
    }

    fn text(&mut self, text: &str) {
        let top = self.top();
        if top.flags.has(Flags::SKIP) {
            return;
        }
        if top.context == Context::Code {
            self.line.push_str(text);
        } else {
            push_collapsed(&mut self.line, &mut self.space, text);
        }
    }

    fn line_break(&mut self) {
        let top = self.top();
        if top.flags.has(Flags::SKIP) {
            return;
        }
        if !self.line.is_empty() || top.context == Context::Code {
            self.line.push('\n');
        }
        self.space = false;
    }

    fn open(&mut self, name: &[u8], self_closing: bool) {
        let parent = self.top();
        let is_skipped = parent.flags.has(Flags::SKIP);
        match name {
            b"br" => return self.line_break(),
            b"hr" if !is_skipped => return self.flush(),
            b"img" => return self.image(),
            b"area" | b"base" | b"basefont" | b"bgsound" | b"col" | b"embed" | b"frame" | b"hr" | b"input"
            | b"keygen" | b"link" | b"meta" | b"param" | b"source" | b"track" | b"wbr" => return,
            _ => {}
        }
        let kind = self.kind(name);
        // What is skipped interrupts nothing: an icon may stand in the middle of a sentence.
        if kind != Kind::Inline && !is_skipped {
            self.close_implied(name, kind);
            self.flush();
        }
        let parent = self.top();
        let flags = self.flags(name, parent.flags);
        let foreign = flags.has(Flags::FOREIGN);
        if self_closing && (self.xml || foreign) {
            return;
        }
        // A skipped element is tracked even where it is too deep, or its text would show.
        let skip_begins = flags.has(Flags::SKIP) && !parent.flags.has(Flags::SKIP);
        if self.stack.len() >= DEPTH_MAX && !skip_begins {
            if let Some(top) = self.stack.last_mut() {
                top.untracked += 1;
            }
            return;
        }
        let mut frame = Frame {
            name: packed(name),
            kind,
            flags,
            context: parent.context,
            list_depth: parent.list_depth,
            untracked: 0,
        };
        self.enter(name, &mut frame);
        self.stack.push(frame);
    }

    /// What begins with the element `frame`, which is about to be pushed.
    fn enter(&mut self, name: &[u8], frame: &mut Frame) {
        if frame.flags.has(Flags::SKIP) {
            return;
        }
        match frame.kind {
            Kind::Heading => {
                self.stop_reading_cells();
                frame.context = match name {
                    _ if frame.flags.has(Flags::ADMONITION) => Context::Lead,
                    [b'h', level @ b'1'..=b'6'] => Context::Heading(level - b'0'),
                    _ => Context::Heading(6),
                };
            }
            Kind::Paragraph
                if frame.flags.has(Flags::ADMONITION) && has_class(&self.attributes, "admonition-title") =>
            {
                frame.context = Context::Lead;
            }
            Kind::List { .. } => frame.list_depth = frame.list_depth.saturating_add(1),
            Kind::Item if frame.context == Context::Flow => {
                let marker = match self.stack.iter_mut().rev().find_map(|frame| match &mut frame.kind {
                    Kind::List { next } => Some(next),
                    _ => None,
                }) {
                    Some(Some(number)) => {
                        let marker = format!("{number}. ");
                        *number = number.saturating_add(1);
                        marker
                    }
                    _ => "- ".to_owned(),
                };
                self.marker = Some(marker);
            }
            Kind::Definitions { .. } => self.flush_terms(),
            Kind::Definition if frame.context == Context::Flow => self.enter_definition(name, frame),
            Kind::Table => {
                self.stop_reading_cells();
                frame.context = Context::Flow;
                frame.flags = frame.flags.without(Flags::LAYOUT);
                self.table = Some(TableRows::default());
            }
            Kind::Row => {
                if let Some(table) = self.reading_cells(frame.flags) {
                    table.end_row();
                    table.all_head = true;
                }
            }
            Kind::Cell { head } => {
                let in_head = self.stack.iter().rev().find_map(|frame| match frame.kind {
                    Kind::RowGroup { head } => Some(head),
                    Kind::Table => Some(false),
                    _ => None,
                });
                if let Some(table) = self.reading_cells(frame.flags) {
                    table.cells.push(Vec::new());
                    table.all_head &= head || in_head == Some(true);
                    frame.context = Context::Cell;
                }
            }
            _ => {}
        }
        match name {
            b"title" => frame.context = Context::Title,
            b"pre" | b"listing" | b"xmp" | b"plaintext" => {
                // Code in a table's first cells: the table only puts line numbers beside it.
                let no_text_yet = self.table.as_ref().is_some_and(|table| {
                    table.header.is_none() && table.rows.is_empty() && table.cells.iter().flatten().next().is_none()
                });
                if frame.context == Context::Cell && no_text_yet {
                    self.stop_reading_cells();
                    frame.context = Context::Flow;
                    frame.flags = frame.flags.with(Flags::LAYOUT);
                }
                if frame.context == Context::Flow {
                    frame.context = Context::Code;
                }
            }
            _ => {}
        }
    }

    /// `<dt>`: a term to come, and the end of the entry before it. `<dd>`: the entry of the terms before it begins.
    fn enter_definition(&mut self, name: &[u8], frame: &mut Frame) {
        let Some(at) = self.stack.iter().rposition(|frame| matches!(frame.kind, Kind::Definitions { .. })) else {
            return;
        };
        let Kind::Definitions { entry_open } = self.stack[at].kind else { return };
        let flags = self.stack[at].flags;
        if name == b"dt" {
            if entry_open {
                self.emit(Block::EntryEnd, flags);
                self.stack[at].kind = Kind::Definitions { entry_open: false };
            }
            frame.context = Context::Term;
        } else if !self.terms.is_empty() {
            if entry_open {
                self.emit(Block::EntryEnd, flags);
            }
            let term = std::mem::take(&mut self.terms).join(" / ");
            self.emit(Block::EntryStart(term), flags);
            self.stack[at].kind = Kind::Definitions { entry_open: true };
        }
    }

    fn close(&mut self, name: &[u8]) {
        match name {
            b"br" => return self.line_break(),
            // What follows them is still part of the page.
            b"body" | b"html" => return,
            _ => {}
        }
        if let Some(top) = self.stack.last_mut().filter(|top| top.untracked > 0) {
            top.untracked -= 1;
            return;
        }
        let packed = packed(name);
        let kind = self.kind(name);
        let mut at = None;
        for (i, frame) in self.stack.iter().enumerate().rev() {
            if frame.name == packed {
                at = Some(i);
                break;
            }
            let stops = match kind {
                Kind::Inline => frame.kind != Kind::Inline,
                Kind::Table => false,
                Kind::Row | Kind::RowGroup { .. } | Kind::Cell { .. } => frame.kind == Kind::Table,
                _ => matches!(frame.kind, Kind::Table | Kind::Cell { .. }),
            };
            if stops {
                break;
            }
        }
        if let Some(at) = at {
            self.pop_to(at);
        }
    }

    /// Closes the elements that end where one of `kind` begins, though nobody wrote so.
    fn close_implied(&mut self, name: &[u8], kind: Kind) {
        // Whether an element closes, stops the search or is passed over, from the innermost outwards.
        let closes: fn(Kind) -> Option<bool> = match kind {
            Kind::Item => |open| match open {
                Kind::Item => Some(true),
                Kind::List { .. } | Kind::Table | Kind::Cell { .. } | Kind::Definition => Some(false),
                _ => None,
            },
            Kind::Definition => |open| match open {
                Kind::Definition => Some(true),
                Kind::Definitions { .. } | Kind::Table | Kind::Cell { .. } | Kind::Item => Some(false),
                _ => None,
            },
            Kind::Cell { .. } => |open| match open {
                Kind::Cell { .. } => Some(true),
                Kind::Row | Kind::Table => Some(false),
                _ => None,
            },
            Kind::Row => |open| match open {
                Kind::Row => Some(true),
                Kind::Table => Some(false),
                _ => None,
            },
            Kind::RowGroup { .. } => |open| match open {
                Kind::RowGroup { .. } | Kind::Row => Some(true),
                Kind::Table => Some(false),
                _ => None,
            },
            Kind::Heading => |open| match open {
                Kind::Heading | Kind::Paragraph => Some(true),
                Kind::Inline => None,
                _ => Some(false),
            },
            _ if name == b"body" => |_| None,
            _ => |open| match open {
                Kind::Paragraph => Some(true),
                Kind::Inline => None,
                _ => Some(false),
            },
        };
        let mut at = None;
        for (i, frame) in self.stack.iter().enumerate().rev() {
            match closes(frame.kind) {
                None => {}
                Some(false) => break,
                Some(true) => {
                    at = Some(i);
                    // A group of rows ends together with the row in it; everything else is alone.
                    if !matches!(kind, Kind::RowGroup { .. }) {
                        break;
                    }
                }
            }
        }
        if let Some(at) = at {
            self.pop_to(at);
        }
    }

    /// Closes the elements from `at` on, the innermost first.
    fn pop_to(&mut self, at: usize) {
        while self.stack.len() > at {
            let top = self.top();
            if top.kind != Kind::Inline && !top.flags.has(Flags::SKIP) {
                self.flush();
            }
            self.stack.pop();
            if !top.flags.has(Flags::SKIP) {
                self.leave(&top);
            }
        }
    }

    /// What ends with the element `frame`, which was just popped.
    fn leave(&mut self, frame: &Frame) {
        match frame.kind {
            Kind::Item => self.marker = None,
            Kind::Definitions { entry_open } => {
                if entry_open {
                    self.emit(Block::EntryEnd, frame.flags);
                }
                self.flush_terms();
            }
            Kind::Row => {
                if let Some(table) = self.reading_cells(frame.flags) {
                    table.end_row();
                }
            }
            Kind::Table if !frame.flags.has(Flags::LAYOUT) => self.end_table(frame.flags),
            _ => {}
        }
        let note_ends = frame.flags.has(Flags::ADMONITION) && !self.top().flags.has(Flags::ADMONITION);
        if note_ends && let Some(lead) = self.lead.take() {
            self.emit(Block::paragraph(lead), frame.flags);
        }
    }

    /// The table whose cells are being read, unless `flags` say that it only lays out the page.
    fn reading_cells(&mut self, flags: Flags) -> Option<&mut TableRows> {
        self.table.as_mut().filter(|_| !flags.has(Flags::LAYOUT))
    }

    /// Makes the tables that are open into layout: something in them opens a section or is a table itself.
    fn stop_reading_cells(&mut self) {
        if self.table.is_none() {
            return;
        }
        let Some(innermost) = self.stack.iter().rposition(|frame| frame.kind == Kind::Table) else { return };
        let flags = self.stack[innermost].flags;
        if let Some(table) = self.table.as_mut() {
            table.end_row();
        }
        self.end_table(flags);
        for frame in &mut self.stack[innermost..] {
            frame.flags = frame.flags.with(Flags::LAYOUT);
            if frame.context == Context::Cell {
                frame.context = Context::Flow;
            }
        }
    }

    fn end_table(&mut self, flags: Flags) {
        let Some(mut table) = self.table.take() else { return };
        table.end_row();
        if table.rows.is_empty() {
            table.rows.extend(table.header.take());
        }
        if !table.rows.is_empty() {
            self.emit(Block::Table { header: table.header, rows: table.rows }, flags);
        }
    }

    /// `<dt>`s without a `<dd>` are paragraphs.
    fn flush_terms(&mut self) {
        let flags = self.top().flags;
        for term in std::mem::take(&mut self.terms) {
            self.emit(Block::paragraph(term), flags);
        }
    }

    /// Ends the run of text: it becomes what the innermost element makes of it.
    fn flush(&mut self) {
        self.space = false;
        let line = std::mem::take(&mut self.line);
        if line.trim().is_empty() {
            return;
        }
        let top = self.top();
        let text = match top.context {
            Context::Code => tidy_lines(&line),
            Context::Flow | Context::Cell => tidy_lines(line.trim()),
            Context::Title | Context::Heading(_) | Context::Lead | Context::Term => collapsed(&line),
        };
        if text.is_empty() {
            return;
        }
        match top.context {
            Context::Flow => {
                let marker = self.marker.take().unwrap_or_default();
                let indent = top.list_depth.saturating_sub(1);
                self.emit(Block::Paragraph { text, marker, indent }, top.flags);
            }
            Context::Title => {
                self.title.get_or_insert(text);
            }
            Context::Heading(level) => self.emit(Block::Heading { level, text }, top.flags),
            Context::Lead => self.lead = Some(text.trim_end_matches(':').to_owned()),
            Context::Code => self.emit(Block::Code(text), top.flags),
            Context::Term => self.terms.push(text),
            Context::Cell => {
                if let Some(cell) = self.table.as_mut().and_then(|table| table.cells.last_mut()) {
                    cell.push(text);
                }
            }
        }
    }

    fn emit(&mut self, block: Block, flags: Flags) {
        match (self.lead.take(), block) {
            (Some(lead), Block::Paragraph { text, marker, indent }) if marker.is_empty() => {
                self.blocks.push((Block::Paragraph { text: format!("{lead}: {text}"), marker, indent }, flags));
            }
            (Some(lead), block) => {
                self.blocks.push((Block::paragraph(format!("{lead}:")), flags));
                self.blocks.push((block, flags));
            }
            (None, block) => self.blocks.push((block, flags)),
        }
    }

    /// An image's description, where it is more than a file's name.
    fn image(&mut self) {
        let alt = std::mem::take(&mut self.attributes.alt);
        let is_path = !alt.contains(char::is_whitespace) && (alt.contains('/') || alt.contains('.'));
        if !is_path && !alt.trim().is_empty() {
            self.space = true;
            self.text(&alt);
            self.space = true;
        }
        self.attributes.alt = alt;
    }

    fn kind(&self, name: &[u8]) -> Kind {
        match name {
            b"p" => Kind::Paragraph,
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" => Kind::Heading,
            b"ul" | b"menu" | b"dir" => Kind::List { next: None },
            b"ol" => Kind::List { next: Some(self.attributes.start.trim().parse().unwrap_or(1)) },
            b"li" => Kind::Item,
            b"dl" => Kind::Definitions { entry_open: false },
            b"dt" | b"dd" => Kind::Definition,
            b"table" => Kind::Table,
            b"thead" => Kind::RowGroup { head: true },
            b"tbody" | b"tfoot" => Kind::RowGroup { head: false },
            b"tr" => Kind::Row,
            b"td" => Kind::Cell { head: false },
            b"th" => Kind::Cell { head: true },
            b"address" | b"article" | b"aside" | b"blockquote" | b"body" | b"caption" | b"center" | b"details"
            | b"dialog" | b"div" | b"fieldset" | b"figcaption" | b"figure" | b"footer" | b"form" | b"frameset"
            | b"head" | b"header" | b"hgroup" | b"html" | b"legend" | b"listing" | b"main" | b"nav" | b"optgroup"
            | b"option" | b"plaintext" | b"pre" | b"search" | b"section" | b"select" | b"summary" | b"title"
            | b"xmp" => Kind::Block,
            _ => Kind::Inline,
        }
    }

    /// The flags of an element of this name with the current attributes in an element with the flags `parent`.
    fn flags(&self, name: &[u8], parent: Flags) -> Flags {
        let attributes = &self.attributes;
        let own = match name {
            b"script" | b"style" | b"template" | b"noscript" | b"iframe" | b"object" | b"video" | b"audio"
            | b"canvas" | b"select" | b"datalist" | b"textarea" | b"button" | b"dialog" | b"noembed" | b"noframes"
            | b"annotation" | b"annotation-xml" => Flags::SKIP,
            b"svg" => Flags::SKIP.with(Flags::FOREIGN),
            b"math" => Flags::FOREIGN,
            b"nav" | b"form" | b"search" => Flags::BOILERPLATE,
            // Inside the main part these are notes, and the article's own heading.
            b"aside" if !parent.has(Flags::MAIN.with(Flags::ARTICLE)) => Flags::BOILERPLATE,
            b"header" if !parent.has(Flags::MAIN.with(Flags::ARTICLE).with(Flags::SECTION)) => Flags::BOILERPLATE,
            b"footer" => Flags::BOILERPLATE,
            b"main" => Flags::MAIN,
            b"article" => Flags::ARTICLE,
            b"section" => Flags::SECTION,
            // Scripts put all kinds of classes on these.
            b"html" | b"body" => return parent,
            _ => Flags::default(),
        };
        let own = attributes.class.split_ascii_whitespace().fold(own, |own, class| own.with(class_flags(name, class)));
        // A table of contents of docutils; alone, the class may as well be the page's main part.
        let own = if has_class(attributes, "contents")
            && (has_class(attributes, "topic") || has_class(attributes, "local"))
        {
            own.with(Flags::BOILERPLATE)
        } else {
            own
        };
        let own = own.with(match attributes.role.as_str() {
            "main" => Flags::MAIN,
            "article" => Flags::ARTICLE,
            "navigation" | "search" | "banner" | "contentinfo" | "complementary" | "menu" | "menubar" => {
                Flags::BOILERPLATE
            }
            _ => Flags::default(),
        });
        let own = own.with(match attributes.id.as_str() {
            "content" | "main" | "main-content" | "bodyContent" | "mw-content-text" => Flags::ARTICLE,
            id if is_cookie_banner(id) => Flags::BOILERPLATE,
            _ => Flags::default(),
        });
        let hidden = attributes.hidden || attributes.aria_hidden || hides(&attributes.style);
        let own = if hidden { own.with(Flags::SKIP) } else { own };
        // Some pages are one form with everything in it; what says that it is the main part is.
        if own.has(Flags::MAIN) {
            parent.without(Flags::BOILERPLATE).with(own.without(Flags::BOILERPLATE))
        } else {
            parent.with(own)
        }
    }

    fn finish(mut self) -> Extracted {
        self.flush();
        self.pop_to(0);
        self.flush_terms();
        let flags = self.top().flags;
        if let Some(lead) = self.lead.take() {
            self.emit(Block::paragraph(lead), flags);
        }
        let mut blocks = own_text(self.blocks);
        let heading = blocks.iter_mut().find_map(|block| match block {
            Block::Heading { level, text } => Some((level, text)),
            _ => None,
        });
        // A `<title>` mostly is the heading and the site's name, which says nothing about this page. Such a heading is
        // the whole page's, also where the page gives other headings the same level, as DocBook's reference pages do.
        let title = match (self.title, heading) {
            (Some(title), Some((level, heading))) if title.contains(heading.as_str()) => {
                *level = 0;
                Some(heading.clone())
            }
            (title, heading) => title.or(heading.map(|(_, heading)| heading.clone())),
        };
        Extracted { title, blocks }
    }
}

impl TableRows {
    /// Puts the cells of the row into one text: side by side, or what a single cell says as it is.
    fn end_row(&mut self) {
        let mut cells = std::mem::take(&mut self.cells);
        let row = match cells.as_mut_slice() {
            [cell] => std::mem::take(cell).join("\n"),
            cells => {
                let cells: Vec<String> = cells.iter().map(|cell| cell.join(" ").replace('\n', " ")).collect();
                // A row may lack its last cells, and then needs no separators for them.
                cells.join(" | ").trim_end_matches([' ', '|']).to_owned()
            }
        };
        if row.trim().is_empty() {
            return;
        }
        if self.all_head && self.header.is_none() && self.rows.is_empty() {
            self.header = Some(row);
        } else {
            self.rows.push(row);
        }
    }
}

/// The blocks that are the page's own text, as far as the page tells.
fn own_text(blocks: Vec<(Block, Flags)>) -> Vec<Block> {
    let text_bytes = |keep: &dyn Fn(Flags) -> bool| -> usize {
        blocks.iter().filter(|(_, flags)| keep(*flags)).map(|(block, _)| text_bytes(block)).sum()
    };
    let no_boilerplate = |flags: Flags| !flags.has(Flags::BOILERPLATE);
    let all = text_bytes(&no_boilerplate);
    if all == 0 {
        return blocks.into_iter().map(|(block, _)| block).collect();
    }
    for main in [Flags::MAIN, Flags::MAIN.with(Flags::ARTICLE)] {
        let in_main = |flags: Flags| no_boilerplate(flags) && flags.has(main);
        if text_bytes(&in_main) * MAIN_SHARE >= all {
            return blocks.into_iter().filter(|(_, flags)| in_main(*flags)).map(|(block, _)| block).collect();
        }
    }
    blocks.into_iter().filter(|(_, flags)| no_boilerplate(*flags)).map(|(block, _)| block).collect()
}

fn text_bytes(block: &Block) -> usize {
    match block {
        Block::Heading { text, .. } | Block::EntryStart(text) | Block::Paragraph { text, .. } | Block::Code(text) => {
            text.len()
        }
        Block::EntryEnd => 0,
        Block::Table { header, rows } => header.iter().chain(rows).map(String::len).sum(),
    }
}

/// What a class says, on an element of this name: the habits of Sphinx, DocBook, MediaWiki, Read the Docs and others.
fn class_flags(name: &[u8], class: &str) -> Flags {
    match class {
        "headerlink" | "viewcode-link" | "linenos" | "lineno" | "mw-editsection" | "copybtn" | "sr-only"
        | "visually-hidden" | "screen-reader-text" | "noprint" => Flags::SKIP,
        "navheader" | "navfooter" | "toc" | "sphinxsidebar" | "related" | "toctree-wrapper" | "breadcrumb"
        | "breadcrumbs" | "breadcrumb-nav" | "wy-nav-side" | "wy-nav-top" | "rst-footer-buttons" | "sidebar-drawer"
        | "toc-drawer" | "navbar" | "pagination" | "skip-link" | "skiplink"
            if !matches!(name, b"main" | b"article" | b"section") =>
        {
            Flags::BOILERPLATE
        }
        "body" | "document" | "rst-content" | "markdown-body" | "entry-content" | "post-content" | "book"
        | "refentry"
            if name == b"div" =>
        {
            if class == "body" {
                Flags::MAIN
            } else {
                Flags::ARTICLE
            }
        }
        "admonition" | "note" | "tip" | "warning" | "caution" | "important" | "danger" | "hint" | "attention"
            if !matches!(name, b"main" | b"article" | b"section") =>
        {
            Flags::ADMONITION
        }
        class if is_cookie_banner(class) => Flags::BOILERPLATE,
        _ => Flags::default(),
    }
}

/// `cookie-banner`, `cookieConsent`, `gdpr-notice`, but not the name of a function that is about cookies.
fn is_cookie_banner(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (name.contains("cookie") || name.contains("gdpr"))
        && ["banner", "consent", "notice", "bar", "popup", "modal"].iter().any(|part| name.contains(part))
}

fn hides(style: &str) -> bool {
    let style: String = style.chars().filter(|c| !c.is_whitespace()).collect();
    style.contains("display:none") || style.contains("visibility:hidden")
}

fn has_class(attributes: &Attributes, class: &str) -> bool {
    attributes.class.split_ascii_whitespace().any(|it| it == class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading(level: u8, text: &str) -> Block {
        Block::Heading { level, text: text.into() }
    }

    fn item(marker: &str, indent: u8, text: &str) -> Block {
        Block::Paragraph { text: text.into(), marker: marker.into(), indent }
    }

    fn entry(term: &str, blocks: &[Block]) -> Vec<Block> {
        [&[Block::EntryStart(term.into())], blocks, &[Block::EntryEnd]].concat()
    }

    fn check(html: &str, expected: &[Block]) {
        assert_eq!(read(html).blocks, expected, "{html}");
    }

    fn p(text: &str) -> Block {
        Block::paragraph(text)
    }

    #[test]
    fn a_sphinx_page_is_its_body() {
        let page = r##"<!DOCTYPE html>
<html lang="en" class="no-js"><head><meta charset="utf-8"/>
<title>pool — Pools of connections &#8212; Example 1.2 documentation</title>
<style>p { color: red }</style><script>document.write("<p>no</p>")</script></head><body>
<div class="related" role="navigation"><h3>Navigation</h3><ul><li><a href="x">next</a> |</li></ul></div>
<div class="document"><div class="documentwrapper"><div class="bodywrapper"><div class="body" role="main">
<section id="pools">
<h1><a class="reference" href="#">pool</a> — Pools of connections<a class="headerlink" href="#pools" title="Permalink">¶</a></h1>
<p><strong>Source code:</strong> <a href="#"><span class="pre">Lib/pool.py</span></a></p>
<nav class="contents local"><ul><li>Use</li></ul></nav>
<div class="admonition note"><p class="admonition-title">Note</p><p>A pool is not
   a lake.</p></div>
<dl class="py function"><dt class="sig" id="pool.take">
<span>pool.</span><span>take</span><span class="sig-paren">(</span><em>timeout=None</em><span class="sig-paren">)</span><a class="headerlink" href="#pool.take">¶</a></dt>
<dd><p>Takes one.</p>
<div class="highlight-python"><div class="highlight"><pre><span></span><span class="gp">&gt;&gt;&gt; </span><span>pool</span><span>.</span><span>take</span><span>()</span>

<span class="go">  &lt;Connection&gt;</span>
</pre></div></div>
</dd></dl>
<table class="docutils"><thead><tr class="row-odd"><th class="head"><p>Name</p></th><th class="head"><p>Meaning</p></th></tr></thead>
<tbody><tr><td><p><code>a</code></p></td><td><p>first</p><p>of all</p></td></tr><tr><td></td><td>b</td></tr></tbody></table>
</section></div></div></div>
<div class="sphinxsidebar" role="navigation"><h4>Previous topic</h4><p>lakes</p></div></div>
<div class="footer">&copy; Copyright</div></body></html>"##;
        let expected = [
            &[
                heading(0, "pool — Pools of connections"),
                p("Source code: Lib/pool.py"),
                p("Note: A pool is not a lake."),
            ],
            entry(
                "pool.take(timeout=None)",
                &[p("Takes one."), Block::Code(">>> pool.take()\n\n  <Connection>".into())],
            )
            .as_slice(),
            &[Block::Table {
                header: Some("Name | Meaning".into()),
                rows: vec!["a | first of all".into(), " | b".into()],
            }],
        ]
        .concat();
        let extracted = read(page);
        assert_eq!(extracted.title.as_deref(), Some("pool — Pools of connections"));
        assert_eq!(extracted.blocks, expected);
    }

    #[test]
    fn a_docbook_page_is_what_stands_between_its_navigation() {
        let page = r#"<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>20.4. Memory</title></head><body id="docContent">
<div class="navheader"><table><tr><th colspan="5">20.4. Memory</th></tr><tr><td>Prev</td></tr></table><hr /></div>
<div class="sect1"><div class="titlepage"><div><div><h2 class="title">20.4. Memory</h2></div></div></div>
<div class="toc"><dl class="toc"><dt><span><a href="x">20.4.1. More</a></span></dt></dl></div>
<a id="anchor" /><p>Two
   settings:</p>
<div class="variablelist"><dl class="variablelist"><dt id="A"><span class="term"><code>size</code> (<code>integer</code>)
      <a id="i" class="indexterm"></a></span></dt><dd><p>Its size.</p><p>In MB.</p></dd><dt><span class="term">old</span></dt><dt>older</dt><dd><p>Its age.</p></dd></dl></div>
<div class="warning"><h3 class="title">Warning</h3><p>Take care.</p></div>
<div class="itemizedlist"><ul><li class="listitem"><p>one</p><ol start="4"><li>four</li><li><p>five</p><p>more</p></li></ol></li></ul></div>
<div class="table"><p class="title"><strong>Table 9.5. Functions</strong></p><table><tbody><tr><td class="func_table_entry"><p class="func_signature">
  <code>abs</code> ( <em>x</em> ) → <em>x</em></p><p>Absolute value</p></td></tr></tbody></table></div>
<h2>See Also</h2><p>Nothing</p></div><div class="navfooter"><hr></hr><p>Next</p></div></body></html>"#;
        let expected = [
            &[heading(0, "20.4. Memory"), p("Two settings:")],
            entry("size (integer)", &[p("Its size."), p("In MB.")]).as_slice(),
            &entry("old / older", &[p("Its age.")]),
            &[
                p("Warning: Take care."),
                item("- ", 0, "one"),
                item("4. ", 1, "four"),
                item("5. ", 1, "five"),
                item("", 1, "more"),
                p("Table 9.5. Functions"),
                Block::Table { header: None, rows: vec!["abs ( x ) → x\nAbsolute value".into()] },
                heading(2, "See Also"),
                p("Nothing"),
            ],
        ]
        .concat();
        let extracted = read(page);
        assert_eq!(extracted.title.as_deref(), Some("20.4. Memory"));
        assert_eq!(extracted.blocks, expected);
    }

    #[test]
    fn end_tags_that_authors_leave_out_are_implied() {
        check("<p>a<p>b<div>c</div>d", &[p("a"), p("b"), p("c"), p("d")]);
        check(
            "<ul><li>a<li>b<ul><li>c</ul><li>d</ul>e",
            &[item("- ", 0, "a"), item("- ", 0, "b"), item("- ", 1, "c"), item("- ", 0, "d"), p("e")],
        );
        check("<dl><dt>a<dd>b<dd>c<dt>d<dd>e</dl>", &[entry("a", &[p("b"), p("c")]), entry("d", &[p("e")])].concat());
        let rows = vec!["1 | 2".to_owned(), "3 | 4".to_owned()];
        check(
            "<table><thead><tr><th>a<th>b<tbody><tr><td>1<td>2<tr><td>3<td>4</table>",
            &[Block::Table { header: Some("a | b".into()), rows }],
        );
        check("<h1>a<h2>b</h2>c", &[heading(1, "a"), heading(2, "b"), p("c")]);
        check("a</p></div></table>b<b><i>c</b>d</i></span>e", &[p("abcde")]);
        check("a</body></html>b", &[p("ab")]);
    }

    #[test]
    fn text_is_what_a_reader_sees() {
        check("a &amp; b&nbsp;&lt;c&gt; &eacute;&#x263a;&unknown;", &[p("a & b <c> é☺&unknown;")]);
        check(
            "  one\n\ttwo <b> three</b><i>four </i> five<br>six<br/>\n seven ",
            &[p("one two threefour five\nsix\nseven")],
        );
        check("<p>so<wbr>ft hy\u{ad}phen zero\u{200b}width</p>", &[p("soft hyphen zerowidth")]);
        check("<pre>\n  a\n\n    b  \n</pre>", &[Block::Code("  a\n\n    b".into())]);
        check(
            "<p>see <img src=x alt='the big picture'> and <img alt='img/a.png'>.</p>",
            &[p("see the big picture and .")],
        );
        check("<!-- <p>no</p> --><![CDATA[no]]><textarea>no</textarea><p>yes", &[p("yes")]);
        check("<table><tr><td>", &[]);
        check("<p>a<script>if (a < b) { '</p>' }</script>b</p>", &[p("ab")]);
    }

    #[test]
    fn what_is_hidden_is_left_out() {
        for hidden in [
            "<span aria-hidden=true>no</span>",
            "<a class='headerlink other' href=#>no</a>",
            "<svg><title>no</title><path d='M0'/></svg>",
            "<noscript>no</noscript><template><p>no</p></template><button>no</button>",
        ] {
            check(&format!("<p>a {hidden} b</p>"), &[p("a b")]);
        }
        for hidden in [
            "<p hidden>no</p>",
            "<div style='color:red; display : none'><p>no</div>",
            "<div hidden>no<div>no</div>no</div>",
            "<select><option>no</select>",
        ] {
            check(&format!("<p>a</p>{hidden}<p>b</p>"), &[p("a"), p("b")]);
        }
    }

    #[test]
    fn navigation_goes_unless_there_is_nothing_else() {
        let around = |main: &str| {
            format!(
                "<body><header><a>Logo</a></header><nav><ul><li>Home</ul></nav><div id=cookie-consent>Yum</div>{main}\
                 <aside>Ads</aside><form>Search <input></form><footer>Imprint</footer></body>"
            )
        };
        check(&around("<p>text</p>"), &[p("text")]);
        check(
            &around("<main><header><h1>T</h1></header><p>text</p><aside>aside</aside></main>"),
            &[heading(1, "T"), p("text"), p("aside")],
        );
        check("<p>outside</p><article><p>the article's long text</p></article>", &[p("the article's long text")]);
        check(
            "<p>much more text outside than the article has</p><article>x</article>",
            &[p("much more text outside than the article has"), p("x")],
        );
        check("<form><div>everything is in a form</div></form>", &[p("everything is in a form")]);
        check("<form><nav>no</nav><main>everything is in a form</main></form>", &[p("everything is in a form")]);
    }

    #[test]
    fn tables_that_lay_out_a_page_are_no_tables() {
        let page = "<table><tr><td class=linenos><pre>1\n2</pre></td><td class=code><pre>a\nb</pre></td></tr></table>";
        check(page, &[Block::Code("a\nb".into())]);
        let page = "<table><tr><td>side</td><td><h1>T</h1><p>text<table><tr><td>1<td>2</table>after</td></tr><tr><td>last</table>";
        let table = |row: &str| Block::Table { header: None, rows: vec![row.into()] };
        check(page, &[table("side"), heading(1, "T"), p("text"), table("1 | 2"), p("after"), p("last")]);
    }

    #[test]
    fn the_title_is_the_pages_own() {
        let title = |html: &str| read(html).title;
        assert_eq!(title("<title>A &amp; B - Site</title><h1>A &amp; B</h1>").as_deref(), Some("A & B"));
        assert_eq!(title("<title>Site</title><h1>Other</h1>").as_deref(), Some("Site"));
        assert_eq!(title("<h2>Only <i>this</i></h2>").as_deref(), Some("Only this"));
        assert_eq!(title("<p>text"), None);
    }

    #[test]
    fn the_charset_is_found() {
        let check = |bytes: &[u8], charset: Option<&'static Encoding>, expected: &str| {
            assert_eq!(decode(bytes, charset), expected);
        };
        check("é".as_bytes(), None, "é");
        check(b"\xef\xbb\xbfa\xc3\xa9", Some(encoding_rs::WINDOWS_1252), "aé");
        check(b"\xff\xfee\0", None, "e");
        check(b"\xe9", Some(encoding_rs::WINDOWS_1252), "é");
        check(b"<meta charset=latin1>\xe9", None, "<meta charset=latin1>é");
        let page = b"<META http-equiv=\"Content-Type\" content=\"text/html; charset=windows-1251\">\xcf";
        assert!(decode(page, None).ends_with('П'));
        check(b"<meta charset='utf-16'>\xff", None, "<meta charset='utf-16'>\u{fffd}");
        check(b"<meta charset", None, "<meta charset");
        // A page in UTF-8 that says otherwise is still in UTF-8.
        check("<meta charset=latin1>é".as_bytes(), None, "<meta charset=latin1>é");
    }

    #[test]
    fn hostile_pages_are_read_in_linear_time_and_without_recursion() {
        let n = 100_000;
        let attributes: String = (0..n).map(|i| format!(" a{i}=b")).collect();
        let pages = [
            "<div>".repeat(n) + "text",
            "<div>".repeat(n) + "text" + &"</div>".repeat(n),
            "<b><p>".repeat(n) + "text",
            "<table><tr><td>".repeat(n) + "text",
            "<dl><dt>a<dd>".repeat(n) + "text",
            "<ul><li>".repeat(n) + "text",
            "<svg>".repeat(n) + &"</svg>".repeat(n) + "text",
            "</p></x>".repeat(n) + "text",
            format!("<p{attributes}>text"),
            "<".repeat(n) + "text",
            "&".repeat(n) + "text",
            "<p>".to_owned() + &"x".repeat(10 * n) + " text",
            "<!--".repeat(n) + "-->text",
            "<h1>".repeat(n) + "text",
            "<table><td><h1>".repeat(n) + "text",
        ];
        for page in pages {
            let blocks = read(&page).blocks;
            assert!(format!("{blocks:?}").contains("text"), "{}", &page[..60]);
        }
    }

    #[test]
    fn a_skipped_element_stays_skipped_below_the_depth_that_is_tracked() {
        let page = "<div>".repeat(DEPTH_MAX * 2)
            + "<script>no</script>a<div hidden>no<div>no</div>no</div>b<style>no</style>"
            + &"</div>".repeat(DEPTH_MAX * 2)
            + "<p>c</p>";
        let text = format!("{:?}", read(&page).blocks);
        assert!(!text.contains("no") && text.contains('a') && text.contains('b') && text.contains('c'), "{text}");
    }
}
