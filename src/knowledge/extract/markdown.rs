//! Markdown: CommonMark with tables, definition lists, footnotes, task lists and front matter.

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, MetadataBlockKind, Options, Parser, Tag, TagEnd};

use super::{Block, Extracted, collapsed, html, push_collapsed, tidy_lines};

/// The title and the blocks of `markdown`. The title is the front matter's `title`, else the first heading.
pub(super) fn read(markdown: &str) -> Extracted {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_DEFINITION_LIST
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    let mut reader = Reader::default();
    for event in Parser::new_ext(markdown, options) {
        reader.event(event);
    }
    reader.flush();
    reader.finish()
}

/// Whose lines a text belongs to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Context {
    #[default]
    Flow,
    Heading(u8),
    Code,
    Html,
    FrontMatter(MetadataBlockKind),
    Cell,
    Term,
}

#[derive(Debug, Default)]
struct Reader {
    context: Context,
    line: String,
    space: bool,
    marker: Option<String>,
    /// The next number of each list that is open; none for bullets.
    lists: Vec<Option<u64>>,
    cells: Vec<String>,
    header: Option<String>,
    rows: Vec<String>,
    terms: Vec<String>,
    entries_open: usize,
    title: Option<String>,
    blocks: Vec<Block>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Code(text) | Event::InlineMath(text) | Event::DisplayMath(text) => {
                self.text(&text);
            }
            Event::Html(html) if self.context == Context::Html => self.line.push_str(&html),
            // The text between two tags is an event of its own.
            Event::Html(html) | Event::InlineHtml(html) => {
                if html.to_ascii_lowercase().starts_with("<br") {
                    self.line_break();
                }
            }
            Event::FootnoteReference(name) => self.text(&format!("[{name}]")),
            Event::SoftBreak => self.space = true,
            Event::HardBreak => self.line_break(),
            Event::Rule => self.flush(),
            Event::TaskListMarker(done) => self.text(if done { "[x] " } else { "[ ] " }),
        }
    }

    fn text(&mut self, text: &str) {
        match self.context {
            Context::Code | Context::Html | Context::FrontMatter(_) => self.line.push_str(text),
            Context::Flow | Context::Heading(_) | Context::Cell | Context::Term => {
                push_collapsed(&mut self.line, &mut self.space, text);
            }
        }
    }

    fn line_break(&mut self) {
        if !self.line.is_empty() {
            self.line.push('\n');
        }
        self.space = false;
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::BlockQuote(_) | Tag::DefinitionList => self.flush(),
            Tag::Heading { level, .. } => self.begin(Context::Heading(number(level))),
            Tag::CodeBlock(kind) => {
                self.begin(Context::Code);
                // A diagram's or an example's language is no part of what it says.
                let (CodeBlockKind::Indented | CodeBlockKind::Fenced(_)) = kind;
            }
            Tag::HtmlBlock => self.begin(Context::Html),
            Tag::MetadataBlock(kind) => self.begin(Context::FrontMatter(kind)),
            Tag::List(first) => {
                self.flush();
                self.lists.push(first);
            }
            Tag::Item => {
                self.flush();
                self.marker = Some(match self.lists.last_mut() {
                    Some(Some(number)) => {
                        let marker = format!("{number}. ");
                        *number = number.saturating_add(1);
                        marker
                    }
                    _ => "- ".to_owned(),
                });
            }
            Tag::FootnoteDefinition(name) => {
                self.flush();
                self.marker = Some(format!("[{name}] "));
            }
            Tag::DefinitionListTitle => {
                self.end_entry();
                self.begin(Context::Term);
            }
            Tag::DefinitionListDefinition => {
                self.flush();
                if !self.terms.is_empty() {
                    self.blocks.push(Block::EntryStart(std::mem::take(&mut self.terms).join(" / ")));
                    self.entries_open += 1;
                }
            }
            Tag::Table(_) => self.flush(),
            Tag::TableHead | Tag::TableRow => self.cells.clear(),
            Tag::TableCell => self.begin(Context::Cell),
            Tag::Emphasis
            | Tag::Strong
            | Tag::Strikethrough
            | Tag::Superscript
            | Tag::Subscript
            | Tag::Link { .. }
            | Tag::Image { .. } => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::TableHead => self.header = self.end_row(),
            TagEnd::TableRow => {
                let row = self.end_row();
                self.rows.extend(row);
            }
            TagEnd::Table => {
                let (mut rows, mut header) = (std::mem::take(&mut self.rows), self.header.take());
                if rows.is_empty() {
                    rows.extend(header.take());
                }
                if !rows.is_empty() {
                    self.blocks.push(Block::Table { header, rows });
                }
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
                self.marker = None;
            }
            TagEnd::Item | TagEnd::FootnoteDefinition => {
                self.flush();
                self.marker = None;
            }
            TagEnd::DefinitionList => {
                self.end_entry();
                for term in std::mem::take(&mut self.terms) {
                    self.blocks.push(Block::paragraph(term));
                }
            }
            TagEnd::Paragraph
            | TagEnd::BlockQuote(_)
            | TagEnd::Heading(_)
            | TagEnd::CodeBlock
            | TagEnd::HtmlBlock
            | TagEnd::MetadataBlock(_)
            | TagEnd::TableCell
            | TagEnd::DefinitionListTitle
            | TagEnd::DefinitionListDefinition => self.flush(),
            TagEnd::Emphasis
            | TagEnd::Strong
            | TagEnd::Strikethrough
            | TagEnd::Superscript
            | TagEnd::Subscript
            | TagEnd::Link
            | TagEnd::Image => {}
        }
    }

    fn begin(&mut self, context: Context) {
        self.flush();
        self.context = context;
    }

    /// Ends the run of text: it becomes what the context makes of it, and what follows is a paragraph again.
    fn flush(&mut self) {
        let (line, context) = (std::mem::take(&mut self.line), std::mem::take(&mut self.context));
        self.space = false;
        let text = match context {
            Context::Heading(_) | Context::Term => collapsed(&line),
            Context::Html => {
                self.blocks.extend(html::read_fragment(&line));
                return;
            }
            Context::FrontMatter(kind) => {
                self.title = title_in(&line, kind);
                return;
            }
            Context::Cell => {
                // An empty cell keeps its place in the row.
                self.cells.push(collapsed(&line));
                return;
            }
            Context::Flow => tidy_lines(line.trim()),
            Context::Code => tidy_lines(&line),
        };
        if text.is_empty() {
            return;
        }
        match context {
            Context::Heading(level) => self.blocks.push(Block::Heading { level, text }),
            Context::Code => self.blocks.push(Block::Code(text)),
            Context::Term => self.terms.push(text),
            _ => {
                let marker = self.marker.take().unwrap_or_default();
                let indent = self.lists.len().saturating_sub(1).min(usize::from(u8::MAX)) as u8;
                self.blocks.push(Block::Paragraph { text, marker, indent });
            }
        }
    }

    fn end_row(&mut self) -> Option<String> {
        let row = std::mem::take(&mut self.cells).join(" | ").trim_end_matches([' ', '|']).to_owned();
        Some(row).filter(|row| !row.is_empty())
    }

    fn end_entry(&mut self) {
        self.flush();
        if self.entries_open > 0 {
            self.blocks.push(Block::EntryEnd);
            self.entries_open -= 1;
        }
    }

    fn finish(self) -> Extracted {
        let title = self.title.or_else(|| {
            self.blocks.iter().find_map(|block| match block {
                Block::Heading { text, .. } => Some(text.clone()),
                _ => None,
            })
        });
        Extracted { title, blocks: self.blocks }
    }
}

/// The `title` of front matter: YAML's `title: …` or TOML's `title = "…"` at the outermost level. Other values are
/// metadata that the caller may hand in; they are not text.
fn title_in(front_matter: &str, kind: MetadataBlockKind) -> Option<String> {
    let separator = match kind {
        MetadataBlockKind::YamlStyle => ':',
        MetadataBlockKind::PlusesStyle => '=',
    };
    front_matter.lines().find_map(|line| {
        let value = line.strip_prefix("title")?.trim_start().strip_prefix(separator)?.trim();
        let unquoted = ['"', '\''].iter().find_map(|&quote| value.strip_prefix(quote)?.strip_suffix(quote));
        Some(collapsed(unquoted.unwrap_or(value))).filter(|title| !title.is_empty())
    })
}

fn number(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(marker: &str, indent: u8, text: &str) -> Block {
        Block::Paragraph { text: text.into(), marker: marker.into(), indent }
    }

    #[test]
    fn each_kind_of_block_is_kept_as_what_it_is() {
        let extracted = read(
            "---\ntitle: 'Pools: an *overview*'\ndraft: false\n---\n\n\
             # Pools\n\nA pool has `size`\nconnections [^1].\\\nSee [there](http://a.b/c).\n\n\
             3. third\n4. fourth\n   - nested\n\n     more of it\n5. [ ] to do\n\n\
             ```sql\nSELECT 1\n\n  FROM t;\n```\n\n\
             | name | unit |\n|---|---|\n| `a` | |\n| b | ms |\n\n\
             term\n: what it means\n\nplain <b>bold</b><br>text\n\n<div>An <i>HTML</i> block</div>\n\n[^1]: A note.\n",
        );
        assert_eq!(extracted.title.as_deref(), Some("Pools: an *overview*"));
        assert_eq!(
            extracted.blocks,
            [
                Block::Heading { level: 1, text: "Pools".into() },
                Block::paragraph("A pool has size connections [1].\nSee there."),
                paragraph("3. ", 0, "third"),
                paragraph("4. ", 0, "fourth"),
                paragraph("- ", 1, "nested"),
                paragraph("", 1, "more of it"),
                paragraph("5. ", 0, "[ ] to do"),
                Block::Code("SELECT 1\n\n  FROM t;".into()),
                Block::Table { header: Some("name | unit".into()), rows: vec!["a".into(), "b | ms".into()] },
                Block::EntryStart("term".into()),
                Block::paragraph("what it means"),
                Block::EntryEnd,
                Block::paragraph("plain bold\ntext"),
                Block::paragraph("An HTML block"),
                paragraph("[1] ", 0, "A note."),
            ]
        );
    }

    #[test]
    fn the_title_is_the_front_matters_or_the_first_heading() {
        assert_eq!(read("+++\ntitle = \"From TOML\"\n+++\n# H\n").title.as_deref(), Some("From TOML"));
        assert_eq!(read("---\nsubtitle: no\n---\ntext\n\n## First *one*\n").title.as_deref(), Some("First one"));
        assert_eq!(read("just text").title, None);
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        for piece in ["> ", "- ", "[", "*a ", "<div>", "1. "] {
            let extracted = read(&format!("{}text", piece.repeat(20_000)));
            assert!(format!("{:?}", extracted.blocks.last()).contains("text"), "{piece}");
        }
    }
}
