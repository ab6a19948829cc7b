//! Byte-pair encoding of the Llama kind, piece by piece: the tokens of the `tokenizers` library, in a tenth of its
//! time.
//!
//! That library merges the whole text as one word. But no merge crosses from one character to another unless some
//! merge puts just these two beside each other, and most pairs (any letter and the space after it, to begin with)
//! have none. So a text falls apart into pieces that do not touch each other's merges, most of which are single
//! tokens and found by one look-up; the others are merged in place. No cache, no lock.

use std::collections::HashMap;

use foldhash::fast::FixedState;
use serde_json::Value;
use tokenizers::{Model, Tokenizer};

/// What such tokenizers write for a space.
const SPACE: char = '\u{2581}';

/// Longer pieces (encoded data, mostly) are left to the library, whose heap is better for them than going through all
/// pairs.
const SYMBOLS_MAX: usize = 128;

/// Classes of characters: each of ASCII, and all others.
const CLASSES: usize = 129;
const OTHER: usize = 128;

/// Rank of pairs that do not merge.
const NEVER: u32 = u32::MAX;

/// The vocabulary and merges of a tokenizer, with spaces for [`SPACE`].
#[derive(Debug)]
pub(super) struct Bpe {
    /// Pieces that are one token.
    whole: HashMap<Box<str>, u32, FixedState>,
    /// Characters that are a token.
    characters: HashMap<char, u32, FixedState>,
    /// Tokens of the bytes of other characters.
    bytes: Vec<u32>,
    /// Rank of the merge of two tokens.
    ranks: HashMap<(u32, u32), u32, FixedState>,
    /// What the merge of a rank makes.
    merged: Vec<u32>,
    /// Whether some merge joins characters of two classes.
    joined: Vec<bool>,
    /// Texts that are tokens of their own wherever they stand.
    special: Vec<String>,
}

/// A piece under way.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    first: String,
    symbols: Vec<u32>,
    ranks: Vec<u32>,
}

impl Bpe {
    /// `None` where the tokenizer, given as its JSON, has anything that this module does not know.
    pub(super) fn of(tokenizer: &Value) -> Option<Self> {
        let model = &tokenizer["model"];
        let replaces_spaces = serde_json::json!({"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE.to_string()},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()},
        ]});
        let absent = |value: &Value| value.is_null() || *value == "";
        let known = model["type"] == "BPE"
            && tokenizer["normalizer"] == replaces_spaces
            && tokenizer["pre_tokenizer"].is_null()
            && model["byte_fallback"] == true
            && model["ignore_merges"] != true
            && absent(&model["dropout"])
            && absent(&model["continuing_subword_prefix"])
            && absent(&model["end_of_word_suffix"]);
        if !known {
            return None;
        }

        let mut vocabulary: HashMap<String, u32> = HashMap::new();
        for (token, id) in model["vocab"].as_object()? {
            if token.contains(' ') {
                return None;
            }
            vocabulary.insert(token.replace(SPACE, " "), u32::try_from(id.as_u64()?).ok()?);
        }
        let bytes: Option<Vec<u32>> =
            (0..=u8::MAX).map(|byte| vocabulary.get(&format!("<0x{byte:02X}>")).copied()).collect();
        let mut bpe = Self {
            whole: HashMap::default(),
            characters: HashMap::default(),
            bytes: bytes?,
            ranks: HashMap::default(),
            merged: Vec::new(),
            joined: vec![false; CLASSES * CLASSES],
            special: Vec::new(),
        };
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            bpe.special.push(token["content"].as_str().filter(|content| !content.is_empty())?.to_owned());
        }
        for (token, &id) in &vocabulary {
            let mut characters = token.chars();
            if let (Some(character), None) = (characters.next(), characters.next()) {
                bpe.characters.insert(character, id);
            }
        }
        // Bytes of one character stay together.
        bpe.joined[OTHER * CLASSES + OTHER] = true;
        for (rank, merge) in (0_u32..).zip(model["merges"].as_array()?) {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                _ => (merge[0].as_str()?, merge[1].as_str()?),
            };
            let (left, right) = (left.replace(SPACE, " "), right.replace(SPACE, " "));
            let ids = (*vocabulary.get(&left)?, *vocabulary.get(&right)?);
            if bpe.bytes.contains(&ids.0) || bpe.bytes.contains(&ids.1) {
                return None;
            }
            // Of a pair that is there twice the library takes the last.
            bpe.ranks.insert(ids, rank);
            bpe.merged.push(*vocabulary.get(&format!("{left}{right}"))?);
            let (last, first) = (left.chars().next_back()?, right.chars().next()?);
            bpe.joined[class(last) * CLASSES + class(first)] = true;
        }
        // Not every token comes of its own text: some parts may merge otherwise first.
        let mut scratch = Scratch::default();
        for (token, id) in vocabulary {
            if !token.is_empty() && token.chars().count() <= SYMBOLS_MAX {
                bpe.merge(&token, &mut scratch);
                if scratch.symbols == [id] {
                    bpe.whole.insert(token.into(), id);
                }
            }
        }
        Some(bpe)
    }

    /// Appends the tokens of `text` to `ids`; false, with nothing appended, for a text that only `library`, the
    /// tokenizer that this one is made of, can read.
    pub(super) fn tokenize(&self, text: &str, library: &Tokenizer, scratch: &mut Scratch, ids: &mut Vec<u32>) -> bool {
        if text.contains(SPACE) || self.special.iter().any(|special| text.contains(special)) {
            return false;
        }
        let before = ids.len();
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let mut end = start + 1;
            while end < bytes.len() && self.joins(bytes[end - 1], bytes[end]) {
                end += 1;
            }
            // The library puts a space before the text. A first piece that it does not touch just goes with it.
            let done = if start == 0 {
                let mut first = std::mem::take(&mut scratch.first);
                first.clear();
                first.push(' ');
                first.push_str(&text[..end]);
                let done = self.piece(&first, library, scratch, ids);
                scratch.first = first;
                done
            } else {
                self.piece(&text[start..end], library, scratch, ids)
            };
            if !done {
                ids.truncate(before);
                return false;
            }
            start = end;
        }
        true
    }

    fn joins(&self, left: u8, right: u8) -> bool {
        self.joined[usize::from(left).min(OTHER) * CLASSES + usize::from(right).min(OTHER)]
    }

    fn piece(&self, piece: &str, library: &Tokenizer, scratch: &mut Scratch, ids: &mut Vec<u32>) -> bool {
        if let Some(&id) = self.whole.get(piece) {
            ids.push(id);
            return true;
        }
        if piece.len() > SYMBOLS_MAX {
            let Ok(tokens) = library.get_model().tokenize(&piece.replace(' ', "\u{2581}")) else {
                return false;
            };
            ids.extend(tokens.iter().map(|token| token.id));
            return true;
        }
        self.merge(piece, scratch);
        ids.extend_from_slice(&scratch.symbols);
        true
    }

    /// Leaves the tokens of `piece` in the scratch's `symbols`: the pair of the lowest rank is merged, the leftmost
    /// first, until none is left that merges.
    fn merge(&self, piece: &str, scratch: &mut Scratch) {
        let Scratch { symbols, ranks, .. } = scratch;
        symbols.clear();
        for character in piece.chars() {
            match self.characters.get(&character) {
                Some(&id) => symbols.push(id),
                None => {
                    let mut buffer = [0; 4];
                    let bytes = character.encode_utf8(&mut buffer).bytes();
                    symbols.extend(bytes.map(|byte| self.bytes[usize::from(byte)]));
                }
            }
        }
        let rank = |left: u32, right: u32| self.ranks.get(&(left, right)).copied().unwrap_or(NEVER);
        ranks.clear();
        ranks.extend(symbols.windows(2).map(|pair| rank(pair[0], pair[1])));
        while let Some((at, &lowest)) = ranks.iter().enumerate().min_by_key(|(_, rank)| **rank)
            && lowest != NEVER
        {
            symbols[at] = self.merged[lowest as usize];
            symbols.remove(at + 1);
            ranks.remove(at);
            if at > 0 {
                ranks[at - 1] = rank(symbols[at - 1], symbols[at]);
            }
            if at < ranks.len() {
                ranks[at] = rank(symbols[at], symbols[at + 1]);
            }
        }
    }
}

fn class(character: char) -> usize {
    (character as usize).min(OTHER)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::json;

    use super::*;

    fn ids(bpe: &Bpe, library: &Tokenizer, text: &str) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        bpe.tokenize(text, library, &mut Scratch::default(), &mut ids).then_some(ids)
    }

    fn library_ids(library: &Tokenizer, text: &str) -> Vec<u32> {
        library.encode_fast(text, false).unwrap().get_ids().to_vec()
    }

    /// A tokenizer whose merges are drawn by chance from what came before, over few letters, so that merges compete.
    fn drawn(rng: &mut StdRng) -> Value {
        let mut tokens: Vec<String> = ["<unk>", "a", "b", "c", "-", "é", "▁"].map(str::to_owned).to_vec();
        let letters = tokens.len();
        let mut merges = Vec::new();
        while merges.len() < 60 {
            let [left, right] = [1, 1].map(|from| tokens[rng.random_range(from..tokens.len())].clone());
            let merged = format!("{left}{right}");
            // As in Llama's, spaces stand only before others; and no token is made twice.
            if right.starts_with('▁') || merged.chars().count() > 9 || tokens.contains(&merged) {
                continue;
            }
            merges.push(json!([left, right]));
            tokens.push(merged);
        }
        assert!(tokens.len() > letters);
        tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
        let vocabulary: serde_json::Map<String, Value> =
            tokens.into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": [{"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
            ]},
            "pre_tokenizer": null,
            "post_processor": null,
            "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocabulary, "merges": merges}
        })
    }

    #[test]
    fn gives_the_tokens_of_the_library() {
        let rng = &mut StdRng::seed_from_u64(1);
        for _ in 0..20 {
            let json = drawn(rng);
            let library = Tokenizer::from_bytes(json.to_string()).unwrap();
            let bpe = Bpe::of(&json).unwrap();
            for _ in 0..300 {
                let length = rng.random_range(0..40);
                let text: String = (0..length)
                    .map(|_| ['a', 'b', 'c', 'a', '-', 'é', ' ', ' ', 'ü', '\n'][rng.random_range(0..10)])
                    .collect();
                assert_eq!(ids(&bpe, &library, &text).unwrap(), library_ids(&library, &text), "{text:?}");
            }
            let long = "abc".repeat(SYMBOLS_MAX);
            assert_eq!(ids(&bpe, &library, &long).unwrap(), library_ids(&library, &long));
        }
    }

    #[test]
    fn leaves_to_the_library_what_only_it_knows() {
        let json = drawn(&mut StdRng::seed_from_u64(2));
        let library = Tokenizer::from_bytes(json.to_string()).unwrap();
        let bpe = Bpe::of(&json).unwrap();
        assert_eq!(ids(&bpe, &library, "a<unk>b"), None);
        assert_eq!(ids(&bpe, &library, "a▁b"), None);
        assert!(ids(&bpe, &library, "a<b").is_some());

        let refuses = |change: fn(&mut Value)| {
            let mut changed = json.clone();
            change(&mut changed);
            assert!(Bpe::of(&changed).is_none());
        };
        refuses(|json| json["model"]["type"] = "Unigram".into());
        refuses(|json| json["model"]["byte_fallback"] = false.into());
        refuses(|json| json["model"]["ignore_merges"] = true.into());
        refuses(|json| json["model"]["end_of_word_suffix"] = "</w>".into());
        refuses(|json| json["normalizer"] = json!({"type": "NFC"}));
        refuses(|json| json["pre_tokenizer"] = json!({"type": "Whitespace"}));
        refuses(|json| _ = json["model"]["vocab"].as_object_mut().unwrap().remove("<0x0A>"));
    }

    /// With the real weights, if they are there (`make weights`), on text of every kind.
    #[test]
    fn gives_the_tokens_of_the_library_for_wordllama() {
        let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/l2_supercat_tokenizer_config.json");
        let Ok(json) = fs::read(weights) else {
            return eprintln!("skipped: no weights");
        };
        let library = Tokenizer::from_bytes(&json).unwrap();
        let bpe = Bpe::of(&serde_json::from_slice(&json).unwrap()).unwrap();
        let source = concat!(include_str!("../analyze.rs"), include_str!("../words.rs"));
        let texts = [
            "",
            " ",
            "  a",
            "a  ",
            "\n\n",
            "How do I run VACUUM on pg_stat_activity?",
            "Größe, naïve, Привет, 日本語 🙂\u{0}",
            "a\u{301}\u{200b}b\tc",
            "std::vec::Vec<&'a str> --max-size=3.14 E0499 don't",
            "x</s",
            "----------------",
            source,
        ];
        let long = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo".repeat(40);
        for text in texts.into_iter().chain([long.as_str()]).chain(source.lines()) {
            assert!(ids(&bpe, &library, text) == Some(library_ids(&library, text)), "{text:?}");
        }
        assert_eq!(ids(&bpe, &library, "</s>"), None);
    }
}
