//! Answers in the coding that was negotiated: small ones in one go, larger ones while they are sent.
//!
//! Levels are for speed at a good size. Measured on answers of this server (release build, one of two shared 2.x GHz cores):
//! five chunks, 6.9 KB: Brotli 5 takes 0.13 ms to 35 %, Brotli 4 0.10 ms to 38 %, gzip 3 0.06 ms to 40 %; a list of fifty,
//! 13.8 KB: 0.18 ms to 17 %, 0.12 ms to 18 %, 0.07 ms to 22 %. A window of 64 KiB makes Brotli 5 six times slower than
//! one of 256 KiB (another hash table is chosen).

use async_compression::{
    Level,
    brotli::EncoderParams,
    tokio::bufread::{BrotliEncoder, GzipEncoder, ZlibEncoder},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    negotiate::{Choice, Coding},
    respond::{Body, Response},
};

/// Brotli's quality, 0 to 11.
const BROTLI_QUALITY: i32 = 5;
/// Brotli's window, as a power of two.
const BROTLI_WINDOW_BITS: i32 = 18;
/// Level of gzip and deflate, 1 to 9.
const DEFLATE_LEVEL: i32 = 4;
/// Answers of up to this many bytes are compressed in one go, in about half a millisecond at most, and keep a
/// `Content-Length`.
const IN_ONE_GO_BYTES_MAX: usize = 32 * 1_024;

/// `response` in the coding of `choice`, if it is of a kind and size (from `bytes_min` up) that gains from it. For a request
/// that wants no body (`HEAD`) `head_only` saves the work and leaves the same headers, but for the length.
pub fn compress(mut response: Response, choice: Choice, bytes_min: usize, head_only: bool) -> Response {
    let Body::Full(plain) = response.body() else { return response };
    if plain.is_empty() || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let gains = response.headers().get(CONTENT_TYPE).is_some_and(is_compressible);
    if gains {
        response.headers_mut().append(VARY, HeaderValue::from(ACCEPT_ENCODING));
    }
    let Body::Full(plain) = response.body() else { return response };
    let Some(coding) = choice.coding.filter(|_| choice.plain_is_refused || (gains && plain.len() >= bytes_min)) else {
        return response;
    };
    let coded = if head_only { Some(Body::empty()) } else { encode(coding, plain.clone()) };
    if let Some(coded) = coded {
        *response.body_mut() = coded;
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response
}

/// Text of any kind. What is not in this list is either compressed already or unknown.
fn is_compressible(content_type: &HeaderValue) -> bool {
    let media_type = content_type.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || matches!(media_type, "application/json" | "application/openmetrics-text")
}

fn encode(coding: Coding, plain: Bytes) -> Option<Body> {
    let len = plain.len();
    let source = std::io::Cursor::new(plain);
    match coding {
        Coding::Brotli => {
            let params = EncoderParams::default()
                .quality(Level::Precise(BROTLI_QUALITY))
                .window_size(BROTLI_WINDOW_BITS)
                .size_hint(len)
                .text_mode();
            body_of(BrotliEncoder::with_params(source, params), len)
        }
        Coding::Gzip => body_of(GzipEncoder::with_quality(source, Level::Precise(DEFLATE_LEVEL)), len),
        Coding::Deflate => body_of(ZlibEncoder::with_quality(source, Level::Precise(DEFLATE_LEVEL)), len),
    }
}

fn body_of(mut encoder: impl AsyncRead + Unpin + Send + 'static, plain_len: usize) -> Option<Body> {
    if plain_len > IN_ONE_GO_BYTES_MAX {
        return Some(Body::streamed(encoder));
    }
    let mut coded = Vec::with_capacity(plain_len / 2);
    // The source is in memory, so reading never waits. If it failed, the plain form would still be right.
    match encoder.read_to_end(&mut coded).now_or_never() {
        Some(Ok(_)) => Some(Body::Full(coded.into())),
        Some(Err(_)) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;
    use hyper::body::Body as _;

    use super::*;
    use crate::http::respond;

    const BR: Choice = Choice { coding: Some(Coding::Brotli), plain_is_refused: false };

    fn text_of(len: usize) -> String {
        (0..)
            .map(|n: u32| format!("word{} ", n.wrapping_mul(2_654_435_761) % 997))
            .flat_map(|w| w.into_bytes())
            .take(len)
            .map(char::from)
            .collect()
    }

    async fn plain_of(coding: Coding, response: Response) -> Vec<u8> {
        assert_eq!(response.headers()[CONTENT_ENCODING], coding.as_str());
        assert_eq!(response.headers()[VARY], "accept-encoding");
        let coded = response.into_body().collect().await.unwrap().to_bytes();
        let mut plain = Vec::new();
        match coding {
            Coding::Brotli => {
                let mut decoder = async_compression::tokio::bufread::BrotliDecoder::new(&coded[..]);
                decoder.read_to_end(&mut plain).await.unwrap();
            }
            Coding::Gzip => drop(flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut plain).unwrap()),
            Coding::Deflate => drop(flate2::read::ZlibDecoder::new(&coded[..]).read_to_end(&mut plain).unwrap()),
        }
        plain
    }

    #[tokio::test]
    async fn every_coding_gives_back_what_went_in_at_any_size() {
        for len in [1_024, IN_ONE_GO_BYTES_MAX, IN_ONE_GO_BYTES_MAX + 1, 200_000] {
            let text = text_of(len);
            for coding in Coding::ALL {
                let choice = Choice { coding: Some(coding), plain_is_refused: false };
                let response = compress(respond::text(respond::JSON, text.clone()), choice, 1_024, false);
                assert_eq!(response.body().size_hint().exact().is_some(), len <= IN_ONE_GO_BYTES_MAX);
                assert_eq!(plain_of(coding, response).await, text.as_bytes());
            }
        }
    }

    #[tokio::test]
    async fn small_answers_stay_plain_unless_plain_is_refused() {
        let small = || respond::text(respond::JSON, "{}");
        let response = compress(small(), BR, 1_024, false);
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
        assert_eq!(response.headers()[VARY], "accept-encoding");
        let response = compress(small(), Choice { plain_is_refused: true, ..BR }, 1_024, false);
        assert_eq!(plain_of(Coding::Brotli, response).await, b"{}");
    }

    #[test]
    fn what_is_compressed_already_or_empty_stays_as_it_is() {
        let zip = respond::text(HeaderValue::from_static("application/zip"), text_of(9_000));
        for response in [compress(zip, BR, 0, false), compress(respond::no_content(), BR, 0, false)] {
            assert!(!response.headers().contains_key(CONTENT_ENCODING) && !response.headers().contains_key(VARY));
        }
    }

    #[test]
    fn a_head_gets_the_headers_without_the_work() {
        let response = compress(respond::text(respond::JSON, text_of(9_000)), BR, 1_024, true);
        assert_eq!(response.headers()[CONTENT_ENCODING], "br");
        assert!(response.body().is_end_stream());
    }
}
