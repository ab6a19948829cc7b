//! Which content coding an answer gets: RFC 9110, section 12.5.3, in full.

use hyper::{
    HeaderMap,
    header::{ACCEPT_ENCODING, HeaderValue},
};

/// The codings that this server speaks, as `Accept-Encoding` tells clients.
pub const CODINGS: HeaderValue = HeaderValue::from_static("br, gzip, deflate");

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
    /// RFC 1950: the name `deflate` means the zlib format.
    Deflate,
}

impl Coding {
    /// Every coding, the preferred ones first.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Gzip, Self::Deflate];

    /// The coding of that name. Names are compared without case, and `x-gzip` is `gzip` (RFC 9110, section 8.4.1.3).
    pub fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("x-gzip") {
            return Some(Self::Gzip);
        }
        Self::ALL.into_iter().find(|coding| coding.as_str().eq_ignore_ascii_case(name))
    }

    /// Its name in `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// What a client's `Accept-Encoding` comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The coding that suits best; none if the plain form does.
    pub coding: Option<Coding>,
    /// Whether the plain form is refused outright, so that even the smallest answer must be coded.
    pub plain_is_refused: bool,
}

impl Choice {
    /// The plain form, for answers that are never negotiated.
    pub const PLAIN: Self = Self { coding: None, plain_is_refused: false };

    /// Whether nothing that this server can send is acceptable.
    pub fn is_hopeless(self) -> bool {
        self.coding.is_none() && self.plain_is_refused
    }
}

/// Quality values in thousandths, 0 to 1,000: what the header says of each coding, of `identity` and of the rest (`*`).
#[derive(Default)]
struct Qualities {
    codings: [Option<u16>; Coding::ALL.len()],
    plain: Option<u16>,
    rest: Option<u16>,
}

/// What `headers` accept. No header at all means that the client did not think of compression: the plain form.
/// Elements that are not well-formed are passed over.
pub fn negotiate(headers: &HeaderMap) -> Choice {
    let mut said = Qualities::default();
    let mut is_said = false;
    for line in headers.get_all(ACCEPT_ENCODING) {
        is_said = true;
        for element in line.to_str().unwrap_or_default().split(',') {
            said.note(element);
        }
    }
    if is_said { said.choose() } else { Choice::PLAIN }
}

impl Qualities {
    fn note(&mut self, element: &str) {
        let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
        let name = name.trim();
        let Some(quality) = quality(parameters.trim()) else { return };
        if name == "*" {
            self.rest = Some(quality);
        } else if name.eq_ignore_ascii_case("identity") {
            self.plain = Some(quality);
        } else if let Some(coding) = Coding::parse(name) {
            self.codings[coding as usize] = Some(quality);
        }
    }

    fn choose(&self) -> Choice {
        // `*` speaks for whatever is not named, the plain form among it.
        let plain = self.plain.or(self.rest);
        let mut best: Option<(Coding, u16)> = None;
        for coding in Coding::ALL {
            let quality = self.codings[coding as usize].or(self.rest).unwrap_or(0);
            // Strictly more: at equal quality the earlier one, which is the preferred one, stays.
            if quality > best.map_or(0, |(_, quality)| quality) {
                best = Some((coding, quality));
            }
        }
        // A plain form that nobody spoke of is acceptable, after everything that was asked for.
        let coding = best.filter(|(_, quality)| plain.is_none_or(|plain| *quality >= plain)).map(|(coding, _)| coding);
        Choice { coding, plain_is_refused: plain == Some(0) }
    }
}

/// Thousandths of a weight (`q=0.5`; no parameter is 1), or none if it is not a weight as RFC 9110, section 12.4.2, has it.
fn quality(parameters: &str) -> Option<u16> {
    if parameters.is_empty() {
        return Some(1_000);
    }
    let (name, value) = parameters.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths =
        fraction.bytes().chain(std::iter::repeat(b'0')).take(3).fold(0, |n, b| n * 10 + u16::from(b - b'0'));
    match (whole, thousandths) {
        ("0", _) => Some(thousandths),
        ("1", 0) => Some(1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BR: Option<Coding> = Some(Coding::Brotli);
    const GZIP: Option<Coding> = Some(Coding::Gzip);
    const DEFLATE: Option<Coding> = Some(Coding::Deflate);

    fn check(lines: &[&str], coding: Option<Coding>, plain_is_refused: bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        assert_eq!(negotiate(&headers), Choice { coding, plain_is_refused }, "{lines:?}");
    }

    #[test]
    fn the_best_coding_that_both_know_is_taken() {
        check(&[], None, false);
        check(&[""], None, false);
        check(&["gzip, deflate, br, zstd"], BR, false);
        check(&["gzip, deflate"], GZIP, false);
        check(&["deflate"], DEFLATE, false);
        check(&["zstd, compress"], None, false);
        check(&["GZip"], GZIP, false);
        check(&["x-gzip"], GZIP, false);
        check(&["deflate", "gzip"], GZIP, false);
        check(&["*"], BR, false);
    }

    #[test]
    fn quality_values_beat_our_preference() {
        check(&["br;q=0.5, gzip;q=0.8, deflate;q=0.8"], GZIP, false);
        check(&["br;q=0.001, gzip;q=0"], BR, false);
        check(&["br;q=0, *"], GZIP, false);
        check(&["gzip; Q=1.000 ,br ; q=0.999"], GZIP, false);
        check(&["br;q=0,gzip;q=0.0,deflate;q=0.000"], None, false);
        check(&["*;q=0.3, deflate;q=0.4"], DEFLATE, false);
    }

    #[test]
    fn the_plain_form_is_a_coding_like_the_others() {
        check(&["identity, gzip;q=0.5"], None, false);
        check(&["identity;q=0.5, gzip;q=0.5"], GZIP, false);
        check(&["br;q=0.2, gzip;q=0.2, deflate;q=0.2, *;q=0.8"], None, false);
        check(&["gzip;q=0.1"], GZIP, false);
        check(&["identity;q=0, gzip"], GZIP, true);
        check(&["identity;q=0.2, *;q=0"], None, false);
    }

    #[test]
    fn nothing_fits_only_where_plain_is_refused_and_no_coding_is_known() {
        check(&["identity;q=0"], None, true);
        check(&["*;q=0"], None, true);
        check(&["zstd, identity;q=0"], None, true);
        check(&["*;q=0, br"], BR, true);
        assert!(Choice { coding: None, plain_is_refused: true }.is_hopeless());
        assert!(!Choice { coding: BR, plain_is_refused: true }.is_hopeless());
    }

    #[test]
    fn malformed_elements_are_passed_over() {
        check(&["br;q=2, gzip;q=0.5"], GZIP, false);
        check(&["br;q=0.1234, gzip;q=1.001, deflate"], DEFLATE, false);
        check(&["br;q=, gzip;q=-1, deflate;q=.5"], None, false);
        check(&["br;level=5, ;;;, ,,"], None, false);
    }
}
