//! `tertulia settings`: every knob, as the Markdown table that `docs/settings.md` holds.

use std::io::Write as _;

use crate::config::KNOBS;

/// The table of all settings in Markdown.
pub fn table() -> String {
    let mut text = String::from("| setting | environment variable | default | meaning |\n|---|---|---|---|\n");
    for knob in KNOBS {
        let default = if knob.default.is_empty() { "–".into() } else { format!("`{}`", knob.default) };
        text += &format!("| `{}` | `{}` | {default} | {} |\n", knob.name, knob.variable(), knob.meaning);
    }
    text
}

/// Prints the table.
///
/// # Errors
/// If standard output is gone.
pub fn run() -> anyhow::Result<()> {
    Ok(std::io::stdout().write_all(table().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_table_is_the_one_in_code() {
        let documented = include_str!("../../docs/settings.md");
        assert!(documented.contains(&table()), "docs/settings.md is old: put the output of `tertulia settings` there");
    }
}
