//! Many strings in one allocation.

use std::collections::HashMap;

use crate::sections::{LoadError, SectionReader, SectionWriter};

/// Strings by their number: one text and where each string ends in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Strings {
    text: String,
    ends: Vec<u64>,
}

impl Strings {
    /// Adds `string` and gives its number.
    pub(crate) fn push(&mut self, string: &str) -> u32 {
        let number = self.ends.len() as u32;
        self.text.push_str(string);
        self.ends.push(self.text.len() as u64);
        number
    }

    /// The string of that number. Panics if there is none: numbers come from [`Strings::push`] or are checked on load.
    pub(crate) fn get(&self, number: u32) -> &str {
        let at = number as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start as usize..self.ends[at] as usize]
    }

    /// The strings in that order.
    #[cfg(test)]
    pub(crate) fn of(strings: &[&str]) -> Self {
        let mut all = Self::default();
        strings.iter().for_each(|string| _ = all.push(string));
        all
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u64>()
    }

    pub(crate) fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        out.put(self.text.as_bytes());
        out.put(&self.ends);
    }

    pub(crate) fn load(from: &mut SectionReader<'_>) -> Result<Self, LoadError> {
        let text = String::from_utf8(from.take::<u8>()?).map_err(|_| LoadError::Damaged("a text is not UTF-8"))?;
        let ends = from.take::<u64>()?;
        let all_fit = ends.is_sorted() && ends.iter().all(|end| text.is_char_boundary(*end as usize));
        if !all_fit || ends.last().copied().unwrap_or(0) != text.len() as u64 {
            return Err(LoadError::Damaged("strings do not fit their text"));
        }
        Ok(Self { text, ends })
    }
}

/// Strings of which each is kept once.
#[derive(Default)]
pub(crate) struct Interner<'a> {
    strings: Strings,
    numbers: HashMap<&'a str, u32, foldhash::fast::RandomState>,
}

impl<'a> Interner<'a> {
    /// The number of `string`, which is added if it is new.
    pub(crate) fn number(&mut self, string: &'a str) -> u32 {
        *self.numbers.entry(string).or_insert_with(|| self.strings.push(string))
    }

    pub(crate) fn finish(mut self) -> Strings {
        self.strings.shrink_to_fit();
        self.strings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_by_number() {
        let mut strings = Strings::default();
        let numbers: Vec<u32> = ["", "één", "", "two"].iter().map(|string| strings.push(string)).collect();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(numbers.iter().map(|number| strings.get(*number)).collect::<Vec<_>>(), ["", "één", "", "two"]);
    }

    #[test]
    fn an_interner_keeps_one_of_each() {
        let mut interner = Interner::default();
        let numbers = ["a", "b", "a", ""].map(|string| interner.number(string));
        assert_eq!(numbers, [0, 1, 0, 2]);
        assert_eq!(interner.finish().len(), 3);
    }
}
