//! Text to unit vectors, by a static embedding: a table with a vector for each token, of which a text has the mean.
//!
//! Two sides, one space: documents and questions have their own functions, since an encoder may treat them apart; this
//! kind does not.

mod bpe;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use thiserror::Error;
use tokenizers::{PostProcessorWrapper, Tokenizer};
use xxhash_rust::xxh3::Xxh3Default;

use self::bpe::Bpe;
use crate::kernels;

/// A tokenizer and its table of vectors. Immutable; share it.
pub struct Encoder {
    fingerprint: String,
    dimensions: usize,
    table: Table,
    tokenizer: Tokenizer,
    /// The same tokens as `tokenizer`'s, an order of magnitude sooner, where it is of a kind that allows it.
    bpe: Option<Bpe>,
    /// The token that stands for what the tokenizer does not know. It means nothing and is left out.
    unknown: Option<u32>,
}

/// `[tokens * dimensions]`. Half precision stays as it is: it costs no time to widen and half the cache to read.
enum Table {
    Half(Vec<u16>),
    Single(Vec<f32>),
}

/// Why a folder holds no encoder.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// A file or the folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No file of the kind is there, or more than one.
    #[error("{} has {found} {kind}, and should have one", dir.display())]
    Files {
        /// The folder.
        dir: PathBuf,
        /// What should be there.
        kind: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The weights are damaged or of a form that this encoder does not know.
    #[error("cannot use the weights {}: {message}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The tokenizer is damaged or does not fit the weights.
    #[error("cannot use the tokenizer {}: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// What encoding a text needs of memory, kept by its thread.
#[derive(Default)]
struct Scratch {
    ids: Vec<u32>,
    bpe: bpe::Scratch,
}

thread_local! {
    // Bound: a few bytes for each of the longest text's tokens.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Encoder {
    /// Reads a folder with one `*.safetensors` that holds one table (f16, bf16 or f32), and one JSON file of the
    /// `tokenizers` library under whatever name: WordLlama's and model2vec's are such. Takes about 0.2 s.
    ///
    /// # Errors
    /// Where a file is missing, damaged, or does not fit the other.
    pub fn load(dir: &Path) -> Result<Self, EncoderError> {
        let weights_path = only(dir, "file of weights (*.safetensors)", files(dir, "safetensors")?)?;
        let weights = read(&weights_path)?;
        let (dimensions, table) =
            read_table(&weights).map_err(|message| EncoderError::Weights { path: weights_path.clone(), message })?;

        let mut tokenizers = Vec::new();
        for path in files(dir, "json")? {
            let json = read(&path)?;
            // Configurations lie beside it; a tokenizer is known by its vocabulary.
            if let Ok(value) = serde_json::from_slice::<Value>(&json)
                && !value["model"]["vocab"].is_null()
            {
                tokenizers.push((path, json, value));
            }
        }
        if tokenizers.len() != 1 {
            let kind = "tokenizer (JSON of the tokenizers library)";
            return Err(EncoderError::Files { dir: dir.into(), kind, found: tokenizers.len() });
        }
        let (path, json, value) = tokenizers.remove(0);
        let mut hash = Xxh3Default::new();
        hash.update(&weights);
        hash.update(&json);
        let fingerprint = format!("static-{dimensions}-{:016x}", hash.digest());
        Self::new(fingerprint, dimensions, table, &json, &value)
            .map_err(|message| EncoderError::Tokenizer { path, message })
    }

    fn new(fingerprint: String, dimensions: usize, table: Table, json: &[u8], value: &Value) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|error| error.to_string())?;
        // A table has tokens of text only, all of them.
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);
        let largest = tokenizer.get_vocab(true).values().copied().max().unwrap_or(0) as usize;
        let tokens = table.len() / dimensions;
        if largest >= tokens {
            return Err(format!("token {largest} is past the {tokens} rows of the weights"));
        }
        let unknown = value["model"]["unk_token"].as_str().and_then(|token| tokenizer.token_to_id(token));
        let bpe = Bpe::of(value);
        Ok(Self { fingerprint, dimensions, table, tokenizer, bpe, unknown })
    }

    /// Names the space: kind, dimensions and a hash of weights and tokenizer. Vectors of two fingerprints do not
    /// compare.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Numbers in each vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// How many tokens `text` has: a text's share of what it is embedded as, and of what a model reads.
    pub fn count_tokens(&self, text: &str) -> usize {
        SCRATCH.with_borrow_mut(|scratch| {
            self.tokenize(text, scratch);
            scratch.ids.len()
        })
    }

    /// A vector of unit length for each text, in order, on the rayon pool that it is called in. A text with no token
    /// gets a vector all the same, one that no other text has.
    pub fn encode_documents(&self, texts: &[String]) -> Vec<Vec<f32>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The vector of a question, as [`Encoder::encode_documents`] gives; some microseconds, on the calling thread.
    pub fn encode_query(&self, text: &str) -> Vec<f32> {
        self.encode(text)
    }

    fn encode(&self, text: &str) -> Vec<f32> {
        let mut sum = vec![0.0_f32; self.dimensions];
        SCRATCH.with_borrow_mut(|scratch| {
            self.tokenize(text, scratch);
            match &self.table {
                Table::Half(table) => kernels::sum_half(table, &scratch.ids, &mut sum),
                Table::Single(table) => kernels::sum_single(table, &scratch.ids, &mut sum),
            }
        });
        // The mean is the sum but for its length, which goes anyway.
        let length = kernels::dot(&sum, &sum).sqrt();
        if length.is_finite() && length > 1e-12 {
            sum.iter_mut().for_each(|value| *value /= length);
        } else {
            sum.fill(0.0);
            sum[0] = 1.0;
        }
        sum
    }

    /// Puts the tokens of `text` in the scratch's `ids`.
    fn tokenize(&self, text: &str, scratch: &mut Scratch) {
        scratch.ids.clear();
        if let Some(bpe) = &self.bpe
            && bpe.tokenize(text, &self.tokenizer, &mut scratch.bpe, &mut scratch.ids)
        {
            return;
        }
        // Fails only for models of kinds that `load` refuses, or without an unknown token for what they do not know.
        if let Ok(encoding) = self.tokenizer.encode_fast(text, false) {
            scratch.ids.extend(encoding.get_ids().iter().filter(|&&id| Some(id) != self.unknown));
        }
    }
}

impl Table {
    fn len(&self) -> usize {
        match self {
            Self::Half(values) => values.len(),
            Self::Single(values) => values.len(),
        }
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Encoder").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, EncoderError> {
    fs::read(path).map_err(|source| EncoderError::Read { path: path.into(), source })
}

/// Files in `dir` with an extension, by name.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, EncoderError> {
    let failed = |source| EncoderError::Read { path: dir.into(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|found| found == extension) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn only(dir: &Path, kind: &'static str, mut found: Vec<PathBuf>) -> Result<PathBuf, EncoderError> {
    match found.len() {
        1 => Ok(found.remove(0)),
        found => Err(EncoderError::Files { dir: dir.into(), kind, found }),
    }
}

/// Dimensions and table of a safetensors file.
fn read_table(weights: &[u8]) -> Result<(usize, Table), String> {
    let tensors = SafeTensors::deserialize(weights).map_err(|error| error.to_string())?;
    // Further tensors (weights of tokens, a mapping of vocabularies) would change what a row means.
    let [name] = tensors.names()[..] else {
        return Err(format!("it holds {} tensors, and should hold one table", tensors.len()));
    };
    let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
    let &[rows, dimensions] = tensor.shape() else {
        return Err(format!("{name} has {} dimensions, and should have two", tensor.shape().len()));
    };
    if rows == 0 || dimensions == 0 {
        return Err(format!("{name} is empty"));
    }
    let (pairs, quads) = (tensor.data().as_chunks::<2>().0, tensor.data().as_chunks::<4>().0);
    let table = match tensor.dtype() {
        Dtype::F16 => Table::Half(pairs.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect()),
        Dtype::BF16 => Table::Single(pairs.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
        Dtype::F32 => Table::Single(quads.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        other => return Err(format!("{name} is of type {other:?}, and should be F16, BF16 or F32")),
    };
    let finite = match &table {
        Table::Half(values) => values.iter().all(|&bits| f16::from_bits(bits).is_finite()),
        Table::Single(values) => values.iter().all(|value| value.is_finite()),
    };
    if !finite {
        return Err(format!("{name} holds a number that is not finite"));
    }
    Ok((dimensions, table))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use safetensors::tensor::TensorView;
    use serde_json::json;

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn write_weights(dir: &Path, dtype: Dtype, shape: &[usize], data: &[u8]) {
        let tensor = TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let file = safetensors::serialize(HashMap::from([("embedding.weight", tensor)]), None).unwrap();
        fs::write(dir.join("table.safetensors"), file).unwrap();
    }

    fn write_tokenizer(dir: &Path) {
        let tokenizer = json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "left": 1, "up": 2}, "unk_token": "[UNK]"}
        });
        fs::write(dir.join("words.json"), tokenizer.to_string()).unwrap();
        fs::write(dir.join("config.json"), r#"{"normalize": true}"#).unwrap();
    }

    fn folder(values: &[f32]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_weights(dir.path(), Dtype::F32, &[3, values.len() / 3], &bytes(values));
        write_tokenizer(dir.path());
        dir
    }

    #[test]
    fn a_text_is_the_mean_of_its_known_tokens_at_unit_length() {
        let dir = folder(&[9.0, 9.0, -2.0, 0.0, 0.0, 2.0]);
        let encoder = Encoder::load(dir.path()).unwrap();
        assert_eq!(encoder.dimensions(), 2);
        assert_eq!(encoder.encode_query("LEFT nowhere"), [-1.0, 0.0]);
        let both = encoder.encode_query("up left");
        assert!((both[0] + 0.5_f32.sqrt()).abs() < 1e-6 && (both[1] - 0.5_f32.sqrt()).abs() < 1e-6, "{both:?}");
        assert_eq!(encoder.count_tokens("up left up unknown"), 3, "no truncation, no unknown token");
    }

    #[test]
    fn no_token_or_none_that_is_left_gives_a_unit_vector() {
        let encoder = Encoder::load(folder(&[0.0, 0.0, 1.0, 0.5, -1.0, -0.5]).path()).unwrap();
        for text in ["", "   ", "nothing known", "left up"] {
            assert_eq!(encoder.encode_query(text), [1.0, 0.0], "{text:?}");
        }
    }

    #[test]
    fn documents_keep_their_order_and_share_the_space_of_questions() {
        let encoder = Encoder::load(folder(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]).path()).unwrap();
        let texts: Vec<String> = (0..200).map(|at| ["left", "up", "left up"][at % 3].to_owned()).collect();
        let vectors = encoder.encode_documents(&texts);
        assert!(texts.iter().zip(&vectors).all(|(text, vector)| *vector == encoder.encode_query(text)));
    }

    #[test]
    fn half_precision_means_the_same() {
        let values = [0.1_f32, -3.0, 6.1e-5, 5.96e-8, 1_000.0, -0.25];
        let [dir, halves] = [folder(&values), folder(&values)];
        let half: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
        let data: Vec<u8> = half.iter().flat_map(|value| value.to_le_bytes()).collect();
        write_weights(halves.path(), Dtype::F16, &[3, 2], &data);
        write_weights(dir.path(), Dtype::F32, &[3, 2], &bytes(&half.iter().map(|v| v.to_f32()).collect::<Vec<_>>()));
        let [single, half] = [dir, halves].map(|dir| Encoder::load(dir.path()).unwrap());
        for text in ["left", "up", "left up up"] {
            assert_eq!(single.encode_query(text), half.encode_query(text));
        }
        assert_ne!(single.fingerprint(), half.fingerprint());
    }

    #[test]
    fn the_fingerprint_tells_weights_and_tokenizers_apart() {
        let of = |dir: &tempfile::TempDir| Encoder::load(dir.path()).unwrap().fingerprint().to_owned();
        let dir = folder(&[1.0; 6]);
        let first = of(&dir);
        assert!(first.starts_with("static-2-") && first.len() == "static-2-".len() + 16, "{first}");
        assert_eq!(first, of(&folder(&[1.0; 6])));
        assert_ne!(first, of(&folder(&[1.0, 1.0, 1.0, 1.0, 1.0, 2.0])));
        let path = dir.path().join("words.json");
        let text = fs::read_to_string(&path).unwrap().replace("Lowercase", "NFC");
        fs::write(path, text).unwrap();
        assert_ne!(first, of(&dir));
    }

    #[test]
    fn what_is_no_encoder_is_refused_with_a_reason() {
        let check = |dir: &Path, reason: &str| {
            let message = Encoder::load(dir).unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        };
        let dir = folder(&[1.0; 6]);
        check(&dir.path().join("nowhere"), "cannot read");
        write_weights(dir.path(), Dtype::F32, &[2, 3], &bytes(&[1.0; 6]));
        check(dir.path(), "token 2 is past the 2 rows");
        write_weights(dir.path(), Dtype::F32, &[6], &bytes(&[1.0; 6]));
        check(dir.path(), "1 dimensions");
        write_weights(dir.path(), Dtype::F32, &[3, 2], &bytes(&[1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0]));
        check(dir.path(), "not finite");
        write_weights(dir.path(), Dtype::I32, &[3, 2], &bytes(&[1.0; 6]));
        check(dir.path(), "type I32");
        fs::write(dir.path().join("table.safetensors"), b"\x10\0\0\0\0\0\0\0{").unwrap();
        check(dir.path(), "cannot use the weights");
        fs::remove_file(dir.path().join("table.safetensors")).unwrap();
        check(dir.path(), "0 file of weights");
        write_weights(dir.path(), Dtype::F32, &[3, 2], &bytes(&[1.0; 6]));
        fs::copy(dir.path().join("words.json"), dir.path().join("again.json")).unwrap();
        check(dir.path(), "2 tokenizer");
    }
}
