//! PDF: the text of its pages, where it has a text layer.
//!
//! The library that reads PDFs panics on some damaged ones and has no bounds, so it is called with care: a panic is
//! caught, streams are measured before anything inflates them, what a page draws is followed before the library does it,
//! so that what is too deep, a circle or too much is refused, and text and time have limits.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use pdf_extract::{
    Dictionary, Document, LoadOptions, Object, ObjectId, OutputError, PlainTextOutput, Stream, content::Content,
    output_doc_page,
};

use super::{Block, ExtractError, Extracted, collapsed};

/// Longest time that one document may take.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Most bytes that all compressed streams of a document may have, inflated.
const INFLATED_BYTES_MAX: u64 = 512 << 20;
/// Largest stream whose inflated size is not measured, since it is coded in another way than Flate, or twice.
const UNMEASURED_BYTES_MAX: usize = 128 << 10;
/// Most bytes of text that one document may have.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Most forms inside one another. The library reads a form on the stack of who draws it; documents have two or three.
const FORMS_DEPTH_MAX: usize = 16;
/// Most bytes of content that may be read at once: a page's and those of forms inside one another. The library takes some
/// forty bytes of memory for each.
const HELD_BYTES_MAX: usize = 16 << 20;
/// Most bytes of content that all pages together may take to read, a form's counted as often as it is drawn.
const READ_BYTES_MAX: usize = 256 << 20;
/// What drawing something takes however small it is, as bytes of content.
const DRAW_BYTES: usize = 256;
/// The answer to what is past these limits.
const LONG_DRAWING: ExtractError = ExtractError::TooLarge("its pages draw too much, or take too long");
const DEEP_FORMS: ExtractError =
    ExtractError::TooLarge("its forms are nested too deep, or draw each other in a circle");

/// The title (from the document's information) and the paragraphs of the PDF `content`.
pub(super) fn read(content: &[u8]) -> Result<Extracted, ExtractError> {
    measure_streams(content, INFLATED_BYTES_MAX)?;
    // The library keeps nothing between calls, so there is nothing that a panic could leave half done.
    catch_unwind(AssertUnwindSafe(|| read_pages(content)))
        .unwrap_or_else(|_| Err(ExtractError::DamagedPdf("its parts do not fit together".into())))
}

fn read_pages(content: &[u8]) -> Result<Extracted, ExtractError> {
    let started = Instant::now();
    let options = LoadOptions::with_filter(slim);
    let mut document = Document::load_mem_with_options(content, options).map_err(|error| damaged(&error))?;
    // Many PDFs are encrypted with an empty password, only to forbid printing.
    if document.is_encrypted() && document.decrypt("").is_err() {
        return Err(ExtractError::Encrypted);
    }
    check_parents(&document)?;
    let until = started + TIME_MAX;
    check_pages(&document, until)?;
    let mut blocks = Vec::new();
    let mut output = Output { text: Vec::new(), bytes_left: TEXT_BYTES_MAX, until };
    let pages = document.get_pages();
    let mut readable = 0;
    let mut failure = None;
    for &number in pages.keys() {
        if Instant::now() > until {
            return Err(LONG_DRAWING);
        }
        output.text.clear();
        let page = catch_unwind(AssertUnwindSafe(|| {
            let writer: &mut dyn std::io::Write = &mut output;
            output_doc_page(&document, &mut PlainTextOutput::new(writer), number)
        }));
        match page {
            Ok(Ok(())) => readable += 1,
            Ok(Err(OutputError::PdfError(error))) => failure = Some(error.to_string()),
            Ok(Err(OutputError::IoError(_) | OutputError::FormatError(_))) => {
                return Err(ExtractError::TooLarge("it has too much text, or takes too long"));
            }
            Err(_) => failure = Some("its parts do not fit together".into()),
        }
        paragraphs(&String::from_utf8_lossy(&output.text), &mut blocks);
    }
    match failure {
        // One page that cannot be read must not pass for one without text: nobody would know that it is missing.
        Some(failure) => Err(ExtractError::DamagedPdf(format!("{readable} of {} pages, then: {failure}", pages.len()))),
        None if blocks.is_empty() => Err(ExtractError::NoTextLayer),
        None => Ok(Extracted { title: title(&document), blocks }),
    }
}

/// Where the text goes; refuses what is too much or too late.
struct Output {
    text: Vec<u8>,
    bytes_left: usize,
    until: Instant,
}

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > self.bytes_left || Instant::now() > self.until {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        self.bytes_left -= bytes.len();
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The paragraphs of a page: blank lines separate them, lines are joined, and words that a hyphen broke made whole.
fn paragraphs(page: &str, blocks: &mut Vec<Block>) {
    let mut paragraph = String::new();
    for line in page.lines().chain([""]) {
        let line = collapsed(line);
        if line.is_empty() {
            if !paragraph.is_empty() {
                blocks.push(Block::paragraph(std::mem::take(&mut paragraph)));
            }
            continue;
        }
        let broken_word = line.starts_with(char::is_lowercase)
            && paragraph.strip_suffix('-').is_some_and(|before| before.ends_with(char::is_lowercase));
        if broken_word {
            paragraph.pop();
        } else if !paragraph.is_empty() {
            paragraph.push(' ');
        }
        paragraph.push_str(&line);
    }
}

fn title(document: &Document) -> Option<String> {
    let information = document.trailer.get(b"Info").ok().and_then(|info| document.dereference(info).ok())?.1;
    let title = information.as_dict().ok()?.get(b"Title").ok()?;
    let title = pdf_extract::decode_text_string(document.dereference(title).ok()?.1).ok()?;
    // What a word processor writes there when nobody gave a title is the file's name.
    Some(collapsed(&title)).filter(|title| !title.is_empty() && !title.eq_ignore_ascii_case("untitled"))
}

fn damaged(error: &pdf_extract::Error) -> ExtractError {
    ExtractError::DamagedPdf(error.to_string())
}

/// Inflates every Flate stream in `content` without keeping what comes out, up to `bytes_max` for all of them.
fn measure_streams(content: &[u8], bytes_max: u64) -> Result<(), ExtractError> {
    let mut left = bytes_max;
    let mut rest = content;
    while let Some(at) = memchr::memmem::find(rest, b"stream") {
        rest = &rest[at + b"stream".len()..];
        let data = rest.strip_prefix(b"\r").unwrap_or(rest);
        let data = data.strip_prefix(b"\n").unwrap_or(data);
        // Any other byte cannot begin a zlib stream (RFC 1950, CM and CINFO).
        if data.first().is_none_or(|first| first & 0x0f != 8) {
            continue;
        }
        let mut inflated = flate2::read::ZlibDecoder::new(data).take(left + 1);
        // Damage is found again, and told, by whoever reads the stream.
        let bytes = std::io::copy(&mut inflated, &mut std::io::sink())
            .unwrap_or_else(|_| left.saturating_sub(inflated.limit()));
        left = left.checked_sub(bytes).ok_or(ExtractError::TooLarge("its compressed parts inflate to too much"))?;
    }
    Ok(())
}

/// Takes out of an object, while it is loaded, what is no text and only costs memory: the dots of images. Streams whose
/// inflated size [`measure_streams`] cannot tell lose their content if they are large.
fn slim(id: ObjectId, object: &mut Object) -> Option<(ObjectId, Object)> {
    if let Object::Stream(stream) = object {
        let is_image = stream.dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|name| name == b"Image");
        let filters =
            stream.filters().map_or_else(|_| Vec::new(), |names| names.iter().map(|name| name.to_vec()).collect());
        let measured = filters.is_empty() || filters == [b"FlateDecode"];
        if is_image || (!measured && stream.content.len() > UNMEASURED_BYTES_MAX) {
            stream.dict.remove(b"Filter");
            stream.set_content(Vec::new());
        }
    }
    // The reader goes on with what is behind the reference, except for the parts of an object stream, which it takes from
    // here and which are never streams themselves.
    let part = if matches!(object, Object::Stream(_)) { Object::Null } else { object.clone() };
    Some((id, part))
}

/// Attributes of a page are looked for in its parents, which a hostile document makes a circle.
fn check_parents(document: &Document) -> Result<(), ExtractError> {
    let mut fine = HashSet::new();
    for page in document.page_iter() {
        let mut seen = Vec::new();
        let mut node = Some(page);
        while let Some(id) = node.filter(|id| !fine.contains(id)) {
            if seen.contains(&id) || seen.len() > 256 {
                return Err(ExtractError::DamagedPdf("its pages are nested in a circle".into()));
            }
            seen.push(id);
            node = document.get_dictionary(id).and_then(|it| it.get(b"Parent")).and_then(Object::as_reference).ok();
        }
        fine.extend(seen);
    }
    Ok(())
}

/// Refuses a document whose pages would take too much to read. Forms (pieces of a page that are drawn by name) may draw
/// forms, which a hostile document makes very deep, a circle, or a few that draw each other millions of times.
fn check_pages(document: &Document, until: Instant) -> Result<(), ExtractError> {
    let mut forms = Forms { document, known: HashMap::new(), until };
    let no_resources = Dictionary::new();
    let mut read_bytes = 0;
    for &page in document.get_pages().values() {
        let mut content = Vec::new();
        for id in document.get_page_contents(page) {
            if let Ok(stream) = document.get_object(id).and_then(Object::as_stream) {
                content.append(&mut plain(stream));
            }
            content.push(b'\n');
            if content.len() > HELD_BYTES_MAX {
                return Err(LONG_DRAWING);
            }
        }
        let resources = page_resources(document, page).unwrap_or(&no_resources);
        read_bytes += forms.cost(&content, resources, FORMS_DEPTH_MAX)?.read_bytes;
        if read_bytes > READ_BYTES_MAX {
            return Err(LONG_DRAWING);
        }
    }
    Ok(())
}

/// What reading a piece of content takes, with all that it draws.
#[derive(Clone, Copy)]
struct Cost {
    /// Forms inside one another, its own included.
    depth: usize,
    /// Bytes that are read at once: a form is read while who draws it is.
    held_bytes: usize,
    /// Bytes that are read in all, a form's as often as it is drawn.
    read_bytes: usize,
}

/// The forms of a document, each looked at once for each dictionary of resources that it draws from.
struct Forms<'a> {
    document: &'a Document,
    /// Both objects by where they are in `document`, which does not change meanwhile.
    known: HashMap<(*const Stream, *const Dictionary), Cost>,
    until: Instant,
}

impl<'a> Forms<'a> {
    /// What `content` takes, if no more than `depth_left` forms are inside one another.
    fn cost(&mut self, content: &[u8], resources: &'a Dictionary, depth_left: usize) -> Result<Cost, ExtractError> {
        let mut cost = Cost { depth: 0, held_bytes: 0, read_bytes: content.len() + DRAW_BYTES };
        // Most pages draw nothing by name, and need not be parsed twice.
        if memchr::memmem::find(content, b"Do").is_some() {
            let forms = self.named(resources);
            // What cannot be parsed draws nothing, and is told when the page is read.
            for operation in Content::decode(content).map(|content| content.operations).unwrap_or_default() {
                let name = operation.operands.first().and_then(|name| name.as_name().ok());
                let Some(form) = name.filter(|_| operation.operator == "Do").and_then(|name| forms?.get(name).ok())
                else {
                    continue;
                };
                let Ok((_, Object::Stream(form))) = self.document.dereference(form) else { continue };
                let drawn = self.cost_of_form(form, resources, depth_left)?;
                cost.depth = cost.depth.max(drawn.depth);
                cost.held_bytes = cost.held_bytes.max(drawn.held_bytes);
                cost.read_bytes += drawn.read_bytes;
                if cost.read_bytes > READ_BYTES_MAX || Instant::now() > self.until {
                    return Err(LONG_DRAWING);
                }
            }
        }
        cost.held_bytes += content.len();
        if cost.held_bytes > HELD_BYTES_MAX { Err(LONG_DRAWING) } else { Ok(cost) }
    }

    fn cost_of_form(
        &mut self,
        form: &'a Stream,
        resources: &'a Dictionary,
        depth_left: usize,
    ) -> Result<Cost, ExtractError> {
        // Without resources of its own a form draws from those of who draws it.
        let resources = dictionary(self.document, &form.dict, b"Resources").unwrap_or(resources);
        let key = (std::ptr::from_ref(form), std::ptr::from_ref(resources));
        let cost = match self.known.get(&key) {
            Some(cost) => *cost,
            None if depth_left == 0 => return Err(DEEP_FORMS),
            None => {
                let cost = self.cost(&plain(form), resources, depth_left - 1)?;
                let cost = Cost { depth: cost.depth + 1, ..cost };
                self.known.insert(key, cost);
                cost
            }
        };
        if cost.depth > depth_left { Err(DEEP_FORMS) } else { Ok(cost) }
    }

    fn named(&self, resources: &'a Dictionary) -> Option<&'a Dictionary> {
        dictionary(self.document, resources, b"XObject")
    }
}

/// A stream's content as the library reads it.
fn plain(stream: &Stream) -> Vec<u8> {
    stream.decompressed_content().unwrap_or_else(|_| stream.content.clone())
}

/// The resources of a page, which may be those of a parent. [`check_parents`] has seen that these end.
fn page_resources(document: &Document, page: ObjectId) -> Option<&Dictionary> {
    let mut node = document.get_dictionary(page).ok()?;
    loop {
        if let Some(resources) = dictionary(document, node, b"Resources") {
            return Some(resources);
        }
        node = node.get(b"Parent").and_then(Object::as_reference).and_then(|id| document.get_dictionary(id)).ok()?;
    }
}

/// The dictionary at `key` of another, where it is one.
fn dictionary<'a>(document: &'a Document, within: &'a Dictionary, key: &[u8]) -> Option<&'a Dictionary> {
    document.dereference(within.get(key).ok()?).ok()?.1.as_dict().ok()
}

#[cfg(test)]
mod tests {
    use pdf_extract::{StringFormat, content::Operation, dictionary};

    use super::*;

    /// A PDF with a page for each content stream, and what `change` makes of it.
    fn pdf(pages: &[Vec<u8>], change: impl FnOnce(&mut Document, ObjectId)) -> Vec<u8> {
        let mut document = Document::with_version("1.5");
        let tree = document.new_object_id();
        let font = document.add_object(dictionary! { "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Courier" });
        let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
        let kids: Vec<Object> = pages
            .iter()
            .map(|content| {
                let content = document.add_object(Stream::new(dictionary! {}, content.clone()));
                document.add_object(dictionary! { "Type" => "Page", "Parent" => tree, "Contents" => content }).into()
            })
            .collect();
        let count = i64::try_from(kids.len()).unwrap();
        let pages = dictionary! {
            "Type" => "Pages", "Kids" => kids, "Count" => count, "Resources" => resources,
            "MediaBox" => vec![0.into(), 0.into(), 595.into(), 842.into()],
        };
        document.objects.insert(tree, Object::Dictionary(pages));
        let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => tree });
        document.trailer.set("Root", catalog);
        change(&mut document, resources);
        let mut bytes = Vec::new();
        document.save_to(&mut bytes).unwrap();
        bytes
    }

    /// A page of these lines; an empty one leaves a gap.
    fn page(lines: &[&str]) -> Vec<u8> {
        let mut operations = vec![
            Operation::new("BT", vec![]),
            Operation::new("Tf", vec!["F1".into(), 12.into()]),
            Operation::new("Td", vec![50.into(), 800.into()]),
        ];
        for line in lines {
            if !line.is_empty() {
                let text = Object::String(line.as_bytes().to_vec(), StringFormat::Literal);
                operations.push(Operation::new("Tj", vec![text]));
            }
            operations.push(Operation::new("Td", vec![0.into(), (-14).into()]));
        }
        operations.push(Operation::new("ET", vec![]));
        Content { operations }.encode().unwrap()
    }

    fn nothing(_: &mut Document, _: ObjectId) {}

    fn error(content: &[u8]) -> String {
        read(content).unwrap_err().to_string()
    }

    #[test]
    fn the_text_of_every_page_is_read() {
        let pages = [
            page(&["Connection pools keep", "a fixed num-", "ber of connections.", "", "", "Second."]),
            page(&["Last."]),
        ];
        let titled = pdf(&pages, |document, _| {
            let title = Object::String(b"Pools".to_vec(), StringFormat::Literal);
            let info = document.add_object(dictionary! { "Title" => title });
            document.trailer.set("Info", info);
        });
        let extracted = read(&titled).unwrap();
        assert_eq!(extracted.title.as_deref(), Some("Pools"));
        assert_eq!(
            extracted.blocks,
            [
                Block::paragraph("Connection pools keep a fixed number of connections."),
                Block::paragraph("Second."),
                Block::paragraph("Last."),
            ]
        );
    }

    #[test]
    fn compressed_pages_are_read() {
        let compressed = pdf(&[page(&["Squeezed."])], |document, _| document.compress());
        assert_eq!(read(&compressed).unwrap().blocks, [Block::paragraph("Squeezed.")]);
    }

    #[test]
    fn a_pdf_without_text_says_so() {
        assert!(matches!(read(&pdf(&[page(&[])], nothing)), Err(ExtractError::NoTextLayer)));
        assert!(matches!(read(&pdf(&[], nothing)), Err(ExtractError::NoTextLayer)));
    }

    #[test]
    fn a_damaged_pdf_is_an_error_and_never_a_panic() {
        assert!(error(b"").starts_with("the PDF cannot be read"));
        assert!(error(b"%PDF-1.5 and then nothing").starts_with("the PDF cannot be read"));
        let whole = pdf(&[page(&["One."]), page(&["Two."])], |document, _| document.compress());
        for at in (0..whole.len()).step_by(7) {
            let _ = read(&whole[..at]);
            let mut flipped = whole.clone();
            flipped[at] ^= 0x55;
            let _ = read(&flipped);
        }
    }

    #[test]
    fn a_page_that_cannot_be_read_is_an_error_and_not_a_gap() {
        let broken = pdf(&[page(&["One."]), b"BT /F9 12 Tf (no such font) Tj ET".to_vec()], nothing);
        assert!(error(&broken).contains("1 of 2 pages"), "{}", error(&broken));
    }

    #[test]
    fn what_inflates_to_too_much_is_refused() {
        let mut bomb = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut bomb, &vec![b' '; 1 << 20]).unwrap();
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 1 << 12);
        let content = pdf(&[page(&["text"])], |document, _| {
            document.add_object(Stream::new(dictionary! { "Filter" => "FlateDecode" }, bomb.clone()));
            document.add_object(Stream::new(dictionary! { "Filter" => "FlateDecode" }, bomb));
        });
        assert!(measure_streams(&content, 2 << 20).is_ok());
        let error = measure_streams(&content, (2 << 20) - 1).unwrap_err();
        assert!(error.to_string().contains("inflate"), "{error}");
    }

    #[test]
    fn circles_are_refused() {
        let parents = pdf(&[page(&["text"])], |document, _| {
            let tree = document.catalog().unwrap().get(b"Pages").and_then(Object::as_reference).unwrap();
            let tree_dictionary = document.get_object_mut(tree).and_then(Object::as_dict_mut).unwrap();
            tree_dictionary.set("Parent", tree);
        });
        assert!(error(&parents).contains("circle"), "{}", error(&parents));
        // Once with resources of its own, once with those of the page.
        for own in [true, false] {
            let forms = pdf(&[b"/X1 Do".to_vec()], |document, resources| {
                let form = document.new_object_id();
                let mut dictionary = dictionary! { "Type" => "XObject", "Subtype" => "Form" };
                if own {
                    dictionary.set("Resources", resources);
                }
                document.objects.insert(form, Stream::new(dictionary, b"/X1 Do".to_vec()).into());
                let resources = document.get_object_mut(resources).and_then(Object::as_dict_mut).unwrap();
                resources.set("XObject", dictionary! { "X1" => form });
            });
            assert!(error(&forms).contains("circle"), "{}", error(&forms));
        }
    }

    /// A PDF of one page that draws the first of `count` forms. Each draws the next `draws` times, the last is `last`.
    fn forms(count: usize, draws: usize, last: &[u8]) -> Vec<u8> {
        pdf(&[b"/X Do".to_vec()], |document, resources| {
            let mut next = None;
            for _ in 0..count {
                let mut own = document.get_object(resources).unwrap().as_dict().unwrap().clone();
                let content = match next {
                    Some(next) => {
                        own.set("XObject", dictionary! { "X" => next });
                        "/X Do ".repeat(draws).into_bytes()
                    }
                    None => last.to_vec(),
                };
                let form = dictionary! { "Type" => "XObject", "Subtype" => "Form", "Resources" => own };
                next = Some(document.add_object(Stream::new(form, content)));
            }
            let resources = document.get_object_mut(resources).and_then(Object::as_dict_mut).unwrap();
            resources.set("XObject", dictionary! { "X" => next.unwrap() });
        })
    }

    #[test]
    fn forms_inside_one_another_have_a_limit() {
        let text = page(&["In a form."]);
        assert_eq!(read(&forms(FORMS_DEPTH_MAX, 1, &text)).unwrap().blocks, [Block::paragraph("In a form.")]);
        for count in [FORMS_DEPTH_MAX + 1, 5_000] {
            assert!(error(&forms(count, 1, &text)).contains("too deep"));
        }
    }

    #[test]
    fn forms_drawn_too_often_are_refused_before_they_are_drawn() {
        // 2^15 small ones are fine; 10^15, or a few of a large one, would take years or minutes.
        assert!(matches!(read(&forms(FORMS_DEPTH_MAX, 2, b"")), Err(ExtractError::NoTextLayer)));
        assert!(error(&forms(FORMS_DEPTH_MAX, 10, b"")).contains("draw too much"));
        assert!(error(&forms(2, 300, &b"0 0 m ".repeat(200_000))).contains("draw too much"));
    }

    #[test]
    fn content_that_would_be_held_all_at_once_is_refused() {
        let shared = pdf(&[b"q ".repeat(1 << 20)], |document, _| {
            let page = document.page_iter().next().unwrap();
            let page = document.get_object_mut(page).and_then(Object::as_dict_mut).unwrap();
            let content = page.get(b"Contents").unwrap().clone();
            page.set("Contents", vec![content; 9]);
        });
        assert!(error(&shared).contains("draw too much"));
    }

    #[test]
    fn a_form_is_read() {
        let pdf = pdf(&[b"/X1 Do".to_vec()], |document, resources| {
            let dictionary = dictionary! { "Type" => "XObject", "Subtype" => "Form", "Resources" => resources };
            let form = document.add_object(Stream::new(dictionary, page(&["In a form."])));
            let outer = document.add_object(dictionary! { "XObject" => dictionary! { "X1" => form } });
            let pages: Vec<ObjectId> = document.page_iter().collect();
            for page in pages {
                document.get_object_mut(page).and_then(Object::as_dict_mut).unwrap().set("Resources", outer);
            }
        });
        assert_eq!(read(&pdf).unwrap().blocks, [Block::paragraph("In a form.")]);
    }

    #[test]
    fn too_much_text_is_refused() {
        let mut output = Output { text: Vec::new(), bytes_left: 3, until: Instant::now() + TIME_MAX };
        assert!(std::io::Write::write_all(&mut output, b"abc").is_ok());
        assert!(std::io::Write::write_all(&mut output, b"d").is_err());
        let mut late = Output { text: Vec::new(), bytes_left: 3, until: Instant::now() - Duration::from_nanos(1) };
        assert!(std::io::Write::write_all(&mut late, b"a").is_err());
    }
}
