//! What a document says: its title, and a list of headings, paragraphs, items, code and tables, whatever it was written in.
//!
//! Invariant: no input panics or overflows the stack. Text, Markdown and HTML take linear time and memory: their readers
//! work through the input once, front to back, and keep no tree. PDFs are read by a library that knows no bounds, so what
//! they would take is looked at beforehand and refused past fixed limits. Text that leaves this module has no control
//! characters but line feeds and tabs, so that Postgres takes it. A document that cannot be read is an [`ExtractError`]
//! that says why.

mod html;
mod markdown;
mod pdf;
mod text;

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8};

/// What a document's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaType {
    format: Format,
    /// What the `charset` parameter says; none if there is none or it names nothing known.
    charset: Option<&'static Encoding>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Html,
    Markdown,
    Text,
    Pdf,
}

impl MediaType {
    /// The type that a `Content-Type` such as `text/html; charset=utf-8` names; none if it is not one that is read here.
    pub fn parse(content_type: &str) -> Option<Self> {
        let mut parts = content_type.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
            "text/html" | "application/xhtml+xml" => Format::Html,
            "text/markdown" | "text/x-markdown" => Format::Markdown,
            "text/plain" => Format::Text,
            "application/pdf" => Format::Pdf,
            _ => return None,
        };
        let charset = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let value = value.trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("charset").then(|| Encoding::for_label(value.as_bytes())).flatten()
        });
        Some(Self { format, charset })
    }

    /// The type that files of this name mostly have, by the extension; none if it is not one that is read here.
    pub fn of_file_name(name: &str) -> Option<Self> {
        let (_, extension) = name.rsplit_once('.')?;
        let format = match extension.to_ascii_lowercase().as_str() {
            "html" | "htm" | "xhtml" => Format::Html,
            "md" | "markdown" | "mdx" => Format::Markdown,
            "txt" | "text" | "rst" => Format::Text,
            "pdf" => Format::Pdf,
            _ => return None,
        };
        Some(Self { format, charset: None })
    }

    /// The type without parameters.
    pub fn as_str(&self) -> &'static str {
        match self.format {
            Format::Html => "text/html",
            Format::Markdown => "text/markdown",
            Format::Text => "text/plain",
            Format::Pdf => "application/pdf",
        }
    }
}

/// Characters of a title; a longer one is cut there. It stands in every hit of its document.
const TITLE_CHARS_MAX: usize = 1_000;

/// A document, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The document's own title, if it has one.
    pub title: Option<String>,
    /// What it says, in its order.
    pub blocks: Vec<Block>,
}

/// A piece of a document that reads as one. No text in it is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Opens a section that goes on to the next heading of this level or a higher one (a smaller number).
    Heading {
        /// 1 (the highest) to 6, or 0 for the heading of the whole document.
        level: u8,
        /// One line.
        text: String,
    },
    /// What a definition list explains; the explanation goes on to the matching [`Block::EntryEnd`] and may hold entries.
    EntryStart(String),
    /// The end of the entry that was opened last.
    EntryEnd,
    /// A paragraph, or the first paragraph of a list item.
    Paragraph {
        /// Its lines; a line break is one that the author wrote.
        text: String,
        /// `- ` or `3. ` for the first paragraph of a list item, else empty.
        marker: String,
        /// How many lists the list that it belongs to is in.
        indent: u8,
    },
    /// Lines whose breaks and spaces matter.
    Code(String),
    /// A table: a line for each row, the cells separated by ` | `. Rows of one cell may have several lines.
    Table {
        /// The first row, if it names the columns.
        header: Option<String>,
        /// The others.
        rows: Vec<String>,
    },
}

impl Block {
    /// A paragraph that belongs to no list.
    pub fn paragraph(text: impl Into<String>) -> Self {
        Self::Paragraph { text: text.into(), marker: String::new(), indent: 0 }
    }
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Plain text and Markdown have to be in the charset that they are said to be in.
    #[error("the text is not {charset}: the byte at {at} does not fit; name its charset in Content-Type")]
    NotInCharset {
        /// The charset that was expected.
        charset: &'static str,
        /// How many bytes fit before the one that does not.
        at: usize,
    },
    /// A password would be needed.
    #[error("the PDF is encrypted; hand in a copy without a password")]
    Encrypted,
    /// Pages without text, most often scanned.
    #[error("the PDF has no text, only images or drawings; run it through text recognition (OCR) first")]
    NoTextLayer,
    /// Not a PDF that the reader can make sense of.
    #[error("the PDF cannot be read: {0}")]
    DamagedPdf(String),
    /// It would take more time or memory than one document may.
    #[error("the PDF is too large to be read: {0}")]
    TooLarge(&'static str),
}

/// Reads `content` as `media_type` says.
///
/// Takes up to some seconds for the largest documents, so it belongs on a compute thread.
///
/// # Errors
/// [`ExtractError`], for text that is not in its charset and PDFs that cannot be read. HTML is always read somehow, as
/// browsers do.
pub fn extract(content: &[u8], media_type: &MediaType) -> Result<Extracted, ExtractError> {
    let mut extracted = match media_type.format {
        Format::Html => html::read(&html::decode(content, media_type.charset)),
        Format::Markdown => markdown::read(&decode_strictly(content, media_type.charset)?),
        Format::Text => text::read(&decode_strictly(content, media_type.charset)?),
        Format::Pdf => pdf::read(content)?,
    };
    if let Some(title) = &mut extracted.title
        && let Some((end, _)) = title.char_indices().nth(TITLE_CHARS_MAX)
    {
        title.truncate(end);
    }
    Ok(extracted)
}

/// `content` as text: by its byte order mark, else in `charset`, else in UTF-8.
fn decode_strictly<'a>(content: &'a [u8], charset: Option<&'static Encoding>) -> Result<Cow<'a, str>, ExtractError> {
    let (encoding, start) = Encoding::for_bom(content).unwrap_or((charset.unwrap_or(UTF_8), 0));
    let content = &content[start..];
    encoding.decode_without_bom_handling_and_without_replacement(content).ok_or_else(|| {
        let at = std::str::from_utf8(content).map_or_else(|error| error.valid_up_to(), str::len);
        ExtractError::NotInCharset { charset: encoding.name(), at: if encoding == UTF_8 { start + at } else { 0 } }
    })
}

/// Whether `c` says nothing and is left out: control characters, soft hyphens, zero-width spaces, byte order marks.
fn is_noise(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{ad}' | '\u{200b}' | '\u{feff}')
}

/// Appends `text` to `line` with each run of white space as one space, none at the start.
fn push_collapsed(line: &mut String, space: &mut bool, text: &str) {
    for c in text.chars() {
        if c.is_whitespace() {
            *space = true;
        } else if !is_noise(c) {
            if *space && !line.is_empty() && !line.ends_with('\n') {
                line.push(' ');
            }
            *space = false;
            line.push(c);
        }
    }
}

/// `text` on one line, each run of white space as one space.
fn collapsed(text: &str) -> String {
    let (mut line, mut space) = (String::with_capacity(text.len()), false);
    push_collapsed(&mut line, &mut space, text);
    line
}

/// `text` with its line breaks: no noise, no spaces at the ends of lines, no empty lines around it.
fn tidy_lines(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len());
    for line in text.split('\n') {
        tidy.extend(line.trim_end().chars().filter(|&c| !is_noise(c)).map(|c| if c == '\u{a0}' { ' ' } else { c }));
        tidy.push('\n');
    }
    let end = tidy.trim_end().len();
    tidy.truncate(end);
    let start = tidy.len() - tidy.trim_start_matches('\n').len();
    tidy.drain(..start);
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_read_with_their_parameters() {
        let html = MediaType::parse("Text/HTML; Charset=\"ISO-8859-1\"").unwrap();
        assert_eq!((html.as_str(), html.charset), ("text/html", Some(encoding_rs::WINDOWS_1252)));
        assert_eq!(MediaType::parse("text/markdown;charset=nonsense").unwrap().charset, None);
        assert_eq!(MediaType::parse("application/pdf").unwrap().as_str(), "application/pdf");
        for unknown in ["", ";", "text", "text/css", "application/json", "image/png"] {
            assert_eq!(MediaType::parse(unknown), None, "{unknown:?}");
        }
        assert_eq!(MediaType::of_file_name("a/b.HTML").unwrap().as_str(), "text/html");
        assert_eq!(MediaType::of_file_name("README.md").unwrap().as_str(), "text/markdown");
        assert_eq!(MediaType::of_file_name("Makefile"), None);
        assert_eq!(MediaType::of_file_name("a.html.gz"), None);
    }

    #[test]
    fn plain_text_that_is_not_in_its_charset_is_refused() {
        let read = |bytes: &[u8], media_type: &str| extract(bytes, &MediaType::parse(media_type).unwrap());
        let error = read(b"abc \xff", "text/plain").unwrap_err();
        assert!(matches!(error, ExtractError::NotInCharset { charset: "UTF-8", at: 4 }), "{error}");
        assert!(read(b"\xef\xbb\xbfabc \xff", "text/markdown").is_err());
        let latin1 = read(b"caf\xe9", "text/plain; charset=latin1").unwrap();
        assert_eq!(latin1.blocks, [Block::paragraph("café")]);
        let utf16 = read(b"\xff\xfea\0\xe9\0", "text/plain").unwrap();
        assert_eq!(utf16.blocks, [Block::paragraph("aé")]);
    }

    #[test]
    fn no_format_lets_control_characters_through() {
        for media_type in ["text/plain", "text/markdown", "text/html"] {
            let extracted = extract(b"a\0b\x1b[1mc\x7f", &MediaType::parse(media_type).unwrap()).unwrap();
            let text = format!("{extracted:?}");
            assert!(!text.contains("\\0") && !text.contains("\\u{"), "{media_type}: {text}");
        }
    }

    #[test]
    fn a_title_is_bounded() {
        let long = format!("# {}", "é".repeat(2 * TITLE_CHARS_MAX));
        let extracted = extract(long.as_bytes(), &MediaType::parse("text/markdown").unwrap()).unwrap();
        assert_eq!(extracted.title.unwrap().chars().count(), TITLE_CHARS_MAX);
    }

    #[test]
    fn an_empty_document_has_no_blocks() {
        for media_type in ["text/plain", "text/markdown", "text/html"] {
            for content in ["", "  \n\t\n ", "\u{feff}"] {
                let extracted = extract(content.as_bytes(), &MediaType::parse(media_type).unwrap()).unwrap();
                assert_eq!(extracted, Extracted::default(), "{media_type}: {content:?}");
            }
        }
    }
}
