//! Plain text: paragraphs are what blank lines separate, and keep their line breaks.

use super::{Block, Extracted, tidy_lines};

/// The paragraphs of `text`. Plain text has no title of its own.
pub(super) fn read(text: &str) -> Extracted {
    let mut blocks = Vec::new();
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        if !line.trim().is_empty() {
            paragraph.push_str(line);
            paragraph.push('\n');
            continue;
        }
        let text = tidy_lines(&paragraph);
        if !text.is_empty() {
            blocks.push(Block::paragraph(text));
        }
        paragraph.clear();
    }
    Extracted { title: None, blocks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_separate_paragraphs() {
        let extracted = read("\r\nOne line,  \r\nanother.\r\n\r\n   \n\n  indented\n    more\n\u{b}\n");
        assert_eq!(
            extracted.blocks,
            [Block::paragraph("One line,\nanother."), Block::paragraph("  indented\n    more")]
        );
    }
}
