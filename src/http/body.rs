//! Request bodies: brought in whole, within a size, an inflated size and a time.
//!
//! A body that says it is too long is refused before a byte of it is read; one that turns out to be, as soon as it does. A
//! compressed bomb costs at most the limit and one byte, and shares the thread while it is inflated. Large bodies share a
//! [`Room`], so that many at once do not fill the memory.

use std::{error::Error as StdError, fmt, io, pin::pin, sync::Arc, time::Duration};

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::{
    HeaderMap,
    body::Body,
    header::{CONTENT_ENCODING, CONTENT_LENGTH},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::io::StreamReader;

use super::negotiate::Coding;
use crate::error::Error;

/// Inflated bytes after which other tasks get their turn: about a tenth of a millisecond of work.
const YIELD_BYTES: usize = 64 * 1_024;
/// Bytes that are inflated at once.
const PIECE_BYTES: usize = 16 * 1_024;

/// What one route lets a body have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes, as sent and as inflated.
    pub bytes_max: usize,
    /// When all of it must have arrived.
    pub until: Instant,
}

/// Memory that bodies share, in bytes. Nobody waits for it: a body that finds too little left is refused.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Room for bodies of `bytes` in all.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    /// A place for a body that is yet to come.
    pub fn place(&self) -> Place {
        Place { room: Some(self.clone()), taken: None }
    }
}

/// What one body takes of a [`Room`], given back when this is dropped.
#[derive(Debug, Default)]
pub struct Place {
    /// None for bodies so small that they need no bound in common.
    room: Option<Room>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// `content`, which keeps this place for as long as it is used.
    pub fn keep(self, content: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        struct Kept<T>(T, #[expect(dead_code, reason = "held, and given back when it is dropped")] Place);
        impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
            fn as_ref(&self) -> &[u8] {
                self.0.as_ref()
            }
        }
        match self.taken {
            Some(_) => Bytes::from_owner(Kept(content, self)),
            None => Bytes::from_owner(content),
        }
    }

    fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let Some(Room(room)) = &self.room else { return Ok(()) };
        let more = u32::try_from(bytes).ok().and_then(|bytes| room.clone().try_acquire_many_owned(bytes).ok());
        let more = more.ok_or(NoRoom)?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Other bodies have all of the room.
#[derive(Debug)]
struct NoRoom;

impl From<NoRoom> for Error {
    fn from(NoRoom: NoRoom) -> Self {
        Self::Unavailable {
            detail: "The server has as many documents in hand as it can hold.",
            retry_after: Duration::from_secs(1),
            source: None,
        }
    }
}

/// The whole body, inflated, for which `place` grows.
///
/// # Errors
/// `TooLarge`, `RequestTimeout`; `Unavailable` if there is no room; `UnsupportedCoding` for a coding that is not known or more than one; `Invalid` for a body that
/// does not inflate or ends early.
pub async fn read<B>(headers: &HeaderMap, body: B, limits: Limits, place: &mut Place) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let coding = content_coding(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.unwrap_or(0).max(body.size_hint().lower()) > limits.bytes_max as u64 {
        return Err(Error::TooLarge { limit_bytes: limits.bytes_max });
    }
    let reading = async {
        match coding {
            None => collect(body, limits.bytes_max, place).await,
            Some(coding) => {
                let inflated = inflate(coding, body, limits.bytes_max, place).await;
                inflated.map_err(|error| told(&error, coding, limits))
            }
        }
    };
    tokio::time::timeout_at(limits.until, reading).await.unwrap_or(Err(Error::RequestTimeout))
}

/// The coding that `Content-Encoding` names.
fn content_coding(headers: &HeaderMap) -> Result<Option<Coding>, Error> {
    let mut coding = None;
    for line in headers.get_all(CONTENT_ENCODING) {
        let line = line.to_str().map_err(|_| unsupported("not a name"))?;
        for name in line.split(',').map(str::trim) {
            if name.is_empty() || name.eq_ignore_ascii_case("identity") {
                continue;
            }
            let known = Coding::parse(name).ok_or_else(|| unsupported(name))?;
            if coding.replace(known).is_some() {
                return Err(unsupported("more than one coding"));
            }
        }
    }
    Ok(coding)
}

fn unsupported(what: &str) -> Error {
    Error::UnsupportedCoding { detail: format!("Content-Encoding is {what}; send br, gzip, deflate or none of them.") }
}

async fn collect<B>(body: B, bytes_max: usize, place: &mut Place) -> Result<Bytes, Error>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
    let mut body = pin!(body);
    // Most bodies come in one frame, which is handed on as it is.
    let mut first = Bytes::new();
    let mut all: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ended_early(error.into().as_ref()))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + all.len() + data.len() > bytes_max {
            return Err(Error::TooLarge { limit_bytes: bytes_max });
        }
        place.grow(data.len())?;
        if all.is_empty() && first.is_empty() {
            first = data;
            continue;
        }
        if all.is_empty() {
            all.reserve(announced.clamp(first.len() + data.len(), bytes_max));
            all.extend_from_slice(&std::mem::take(&mut first));
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { first } else { all.into() })
}

/// What went wrong with a compressed body other than its compression.
#[derive(Debug)]
enum Arrival {
    TooLong,
    NoRoom,
    EndedEarly(Box<dyn StdError + Send + Sync>),
    Trailing,
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("the body is too long"),
            Self::NoRoom => f.write_str("there is no room for the body"),
            Self::EndedEarly(error) => write!(f, "the body ended early: {error}"),
            Self::Trailing => f.write_str("something follows the compressed data"),
        }
    }
}

impl StdError for Arrival {}

async fn inflate<B>(coding: Coding, body: B, bytes_max: usize, place: &mut Place) -> io::Result<Bytes>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let mut sent = 0;
    let frames = body.into_data_stream().map(|data| {
        let data = data.map_err(|error| io::Error::other(Arrival::EndedEarly(error.into())))?;
        sent += data.len();
        if sent > bytes_max { Err(io::Error::other(Arrival::TooLong)) } else { Ok(data) }
    });
    let mut source = pin!(StreamReader::new(frames.fuse()));
    let inflated = match coding {
        Coding::Brotli => read_within(BrotliDecoder::new(&mut source), bytes_max, place).await?,
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(&mut source);
            decoder.multiple_members(true);
            read_within(decoder, bytes_max, place).await?
        }
        Coding::Deflate if is_zlib(source.fill_buf().await?) => {
            read_within(ZlibDecoder::new(&mut source), bytes_max, place).await?
        }
        // Some clients send the bare format under this name (RFC 9110, section 8.4.1.2, note).
        Coding::Deflate => read_within(DeflateDecoder::new(&mut source), bytes_max, place).await?,
    };
    if source.fill_buf().await?.is_empty() { Ok(inflated) } else { Err(io::Error::other(Arrival::Trailing)) }
}

/// Everything that `reader` gives, if it is at most `bytes_max`.
async fn read_within(mut reader: impl AsyncRead + Unpin, bytes_max: usize, place: &mut Place) -> io::Result<Bytes> {
    let mut all = Vec::new();
    let mut until_yield = YIELD_BYTES;
    loop {
        // One byte past the limit is asked for, to tell what fits exactly from what does not.
        let room = (bytes_max - all.len() + 1).min(PIECE_BYTES);
        all.reserve(room);
        let read = (&mut reader).take(room as u64).read_buf(&mut all).await?;
        if read == 0 {
            return Ok(all.into());
        }
        if all.len() > bytes_max {
            return Err(io::Error::other(Arrival::TooLong));
        }
        place.grow(read).map_err(|NoRoom| io::Error::other(Arrival::NoRoom))?;
        match until_yield.checked_sub(read) {
            Some(rest) => until_yield = rest,
            None => {
                until_yield = YIELD_BYTES;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Whether deflated data begins with the header of RFC 1950: method 8, window of at most 32 KiB. The bare format begins so
/// only with a stored block whose padding is not zero, which no encoder writes.
fn is_zlib(start: &[u8]) -> bool {
    start.first().is_some_and(|byte| byte & 0x0f == 8 && byte >> 4 <= 7)
}

fn told(error: &io::Error, coding: Coding, limits: Limits) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Arrival::TooLong) => Error::TooLarge { limit_bytes: limits.bytes_max },
        Some(Arrival::NoRoom) => NoRoom.into(),
        Some(Arrival::EndedEarly(error)) => ended_early(error.as_ref()),
        Some(Arrival::Trailing) => {
            Error::invalid(format!("The body has more bytes behind the end of its {} data.", coding.as_str()))
        }
        None => Error::invalid(format!(
            "The body does not inflate as {}, which its Content-Encoding says it is: damaged or cut short.",
            coding.as_str()
        )),
    }
}

fn ended_early(error: &(dyn StdError + 'static)) -> Error {
    tracing::debug!(error, "a request body ended early");
    Error::invalid("The body ended before it was complete.")
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write as _};

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::{body::Frame, header::HeaderValue};

    use super::*;

    /// From now on, and longer than any machine takes.
    fn limits() -> Limits {
        Limits { bytes_max: 1_000_000, until: Instant::now() + Duration::from_secs(60) }
    }

    fn coded(name: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_str(name).unwrap())])
    }

    /// [`super::read`] without a bound in common.
    async fn read<B>(headers: &HeaderMap, body: B, limits: Limits) -> Result<Bytes, Error>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        super::read(headers, body, limits, &mut Place::default()).await
    }

    /// A body that arrives in frames of `size` bytes, so that its length is not known beforehand.
    fn in_frames(bytes: &[u8], size: usize) -> impl Body<Data = Bytes, Error = Infallible> {
        let frames: Vec<_> = bytes.chunks(size).map(|part| Ok(Frame::data(Bytes::copy_from_slice(part)))).collect();
        StreamBody::new(stream::iter(frames))
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn bare_deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    async fn brotli(plain: &[u8]) -> Vec<u8> {
        let mut coded = Vec::new();
        let mut encoder = async_compression::tokio::bufread::BrotliEncoder::new(plain);
        encoder.read_to_end(&mut coded).await.unwrap();
        coded
    }

    /// Every form of `plain` that clients send, by the name they send it under.
    async fn forms(plain: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("br", brotli(plain).await),
            ("gzip", gzip(plain)),
            ("x-gzip", gzip(plain)),
            ("deflate", zlib(plain)),
            ("deflate", bare_deflate(plain)),
        ]
    }

    #[tokio::test]
    async fn a_plain_body_is_read_whole_in_one_frame_or_many() {
        let plain = Bytes::from_static(b"0123456789");
        let none = HeaderMap::new();
        let whole = read(&none, Full::new(plain.clone()), limits()).await.unwrap();
        assert_eq!(whole.as_ptr(), plain.as_ptr(), "a single frame is not copied");
        for size in 1..=10 {
            assert_eq!(read(&none, in_frames(&plain, size), limits()).await.unwrap(), plain);
        }
        assert_eq!(read(&coded("identity"), in_frames(&plain, 3), limits()).await.unwrap(), plain);
        assert_eq!(read(&none, Full::<Bytes>::default(), limits()).await.unwrap(), Bytes::new());
    }

    #[tokio::test]
    async fn a_compressed_body_is_inflated() {
        let plain = "So it goes. ".repeat(5_000);
        for (name, body) in forms(plain.as_bytes()).await {
            for size in [1, 100, usize::MAX >> 1] {
                let inflated = read(&coded(name), in_frames(&body, size.min(body.len())), limits()).await.unwrap();
                assert!(inflated == plain, "{name} in frames of {size}");
            }
        }
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&coded("gzip"), in_frames(&members, 7), limits()).await.unwrap(), "one two");
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused_however_it_arrives() {
        let limits = Limits { bytes_max: 999, ..limits() };
        for (len, fits) in [(999, true), (1_000, false)] {
            let plain = vec![b'a'; len];
            let mut outcomes = vec![
                read(&HeaderMap::new(), Full::new(Bytes::from(plain.clone())), limits).await,
                read(&HeaderMap::new(), in_frames(&plain, 100), limits).await,
            ];
            for (name, body) in forms(&plain).await {
                outcomes.push(read(&coded(name), in_frames(&body, 5), limits).await);
            }
            for outcome in outcomes {
                match outcome {
                    Ok(body) => assert!(fits && body == plain),
                    Err(error) => assert!(!fits && matches!(error, Error::TooLarge { limit_bytes: 999 }), "{error}"),
                }
            }
        }
    }

    #[tokio::test]
    async fn bodies_share_a_room_until_nobody_uses_them() {
        let room = Room::new(2_000);
        let read = async |headers: &HeaderMap, body: Vec<u8>| {
            let mut place = room.place();
            let content = super::read(headers, in_frames(&body, 64), limits(), &mut place).await?;
            Ok::<_, Error>(place.keep(content))
        };
        let plain = vec![b'a'; 1_000];
        let (none, gzipped) = (HeaderMap::new(), coded("gzip"));
        let first = read(&none, plain.clone()).await.unwrap();
        let second = read(&gzipped, gzip(&plain)).await.unwrap();
        assert_eq!((&first[..], &second[..]), (&plain[..], &plain[..]));
        for (headers, body) in [(&none, vec![b'a']), (&gzipped, gzip(b"a"))] {
            assert!(matches!(read(headers, body.clone()).await, Err(Error::Unavailable { .. })));
        }
        let shared = first.clone();
        drop(first);
        assert!(read(&none, vec![b'a']).await.is_err(), "a copy is still used");
        drop(shared);
        assert!(read(&none, vec![b'a'; 1_001]).await.is_err(), "one byte more than is left");
        assert!(read(&none, plain).await.is_ok(), "what was refused has given its part back");
    }

    #[tokio::test]
    async fn a_length_that_is_too_long_is_refused_before_anything_is_read() {
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, HeaderValue::from(1_000_001))]);
        assert!(matches!(read(&headers, never, limits()).await, Err(Error::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_bomb_is_defused_at_the_limit() {
        let bomb = vec![0; 10_000_000];
        for (name, body) in forms(&bomb).await {
            assert!(body.len() < 20_000);
            let limits = Limits { bytes_max: 100_000, ..limits() };
            let outcome = read(&coded(name), Full::new(Bytes::from(body)), limits).await;
            assert!(matches!(outcome, Err(Error::TooLarge { limit_bytes: 100_000 })), "{name}");
        }
    }

    #[tokio::test]
    async fn damaged_and_truncated_bodies_are_invalid() {
        let plain: Vec<u8> = (0..5_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        for (name, body) in forms(&plain).await {
            for cut in [0, 1, body.len() / 2, body.len() - 1] {
                let outcome = read(&coded(name), in_frames(&body[..cut], 1_000), limits()).await;
                assert!(matches!(outcome, Err(Error::Invalid { .. })), "{name} cut at {cut}: {outcome:?}");
            }
            let longer = [&body[..], b"x"].concat();
            let outcome = read(&coded(name), in_frames(&longer, 1_000), limits()).await;
            assert!(matches!(outcome, Err(Error::Invalid { .. })), "{name} with something behind it");
        }
        let outcome = read(&coded("gzip"), Full::new(Bytes::from_static(b"{\"plain\": true}")), limits()).await;
        assert!(matches!(outcome, Err(Error::Invalid { .. })));
    }

    #[tokio::test]
    async fn codings_that_are_not_known_or_stacked_are_refused() {
        for name in ["zstd", "gzip, br", "gzip, gzip", "compress", "gzip;q=1"] {
            let outcome = read(&coded(name), Full::new(Bytes::from_static(b"x")), limits()).await;
            assert!(matches!(outcome, Err(Error::UnsupportedCoding { .. })), "{name}: {outcome:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_runs_into_the_time_limit() {
        let never = || {
            let start = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0x1f, 0x8b, 8])))]);
            StreamBody::new(start.chain(stream::pending()))
        };
        assert!(matches!(read(&HeaderMap::new(), never(), limits()).await, Err(Error::RequestTimeout)));
        assert!(matches!(read(&coded("gzip"), never(), limits()).await, Err(Error::RequestTimeout)));
    }
}
