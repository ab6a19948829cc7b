//! Secrets and public ids that the server makes up: random bytes, written as hexadecimal digits.

use rand::TryRng as _;

use crate::error::Error;

/// So many random bytes of the operating system's generator, as twice as many hexadecimal digits.
///
/// # Errors
/// If the operating system has no randomness to give.
pub fn random_digits<const BYTES: usize>() -> Result<String, Error> {
    let mut bytes = [0; BYTES];
    rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|error| Error::Internal(anyhow::Error::new(error)))?;
    Ok(hex::encode(bytes))
}

/// Whether `text` may be what [`random_digits`] made of so many bytes.
pub fn are_digits(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_each_has_its_form() {
        let [one, other] = [(); 2].map(|()| random_digits::<24>().unwrap());
        assert!(one != other && are_digits(&one, 24) && are_digits(&other, 24));
        for bad in ["", &one[1..], &format!("{one}0"), &one.replace(&one[..1], "g")] {
            assert!(!are_digits(bad, 24), "{bad}");
        }
    }
}
