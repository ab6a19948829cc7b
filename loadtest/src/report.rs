//! What was measured, as a table for people and as JSON.

use std::{collections::BTreeMap, io::Write as _};

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::Tally;

/// Percentiles in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p99_9_ms: f64,
    max_ms: f64,
}

impl Percentiles {
    /// Those of a histogram of nanoseconds; none if it is empty.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        (!histogram.is_empty()).then(|| Self {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p99_9_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e6,
        })
    }
}

/// One load on one peer.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    connections: u32,
    /// Answered.
    requests: u64,
    /// None for what was timed one by one.
    requests_per_second: Option<f64>,
    latency: Option<Percentiles>,
    /// By the server's own clock, where it tells.
    server: Option<Percentiles>,
    failures: BTreeMap<String, u64>,
}

impl Row {
    /// The row of `tally`.
    pub(crate) fn new(name: &str, connections: u32, tally: &Tally) -> Self {
        Self {
            name: name.to_owned(),
            connections,
            requests: tally.latency.len(),
            requests_per_second: Some(tally.per_second()),
            latency: Percentiles::of(&tally.latency),
            server: Percentiles::of(&tally.server),
            failures: tally.failures.clone(),
        }
    }

    /// Times in nanoseconds of something done again and again over one connection.
    pub(crate) fn timed(name: &str, times: &Histogram<u64>) -> Self {
        Self {
            name: name.to_owned(),
            connections: 1,
            requests: times.len(),
            requests_per_second: None,
            latency: Percentiles::of(times),
            server: None,
            failures: BTreeMap::new(),
        }
    }

    /// The same, with what the server says that it took.
    pub(crate) fn timed_twice(name: &str, times: &Histogram<u64>, server: &Histogram<u64>) -> Self {
        Self { server: Percentiles::of(server), ..Self::timed(name, times) }
    }
}

/// One figure against another: the median over the rounds, and how far the rounds lie apart.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    name: String,
    median: f64,
    min: f64,
    max: f64,
}

impl Ratio {
    /// The ratio named `name` from its value in each round; none without rounds.
    pub(crate) fn new(name: &str, mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        let (min, max) = (*rounds.first()?, *rounds.last()?);
        let upper = rounds[rounds.len() / 2];
        let lower = rounds[(rounds.len() - 1) / 2];
        Some(Self { name: name.to_owned(), median: (lower + upper) / 2.0, min, max })
    }
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What was asked and of whom.
    pub(crate) setting: BTreeMap<&'static str, serde_json::Value>,
    /// Measured loads.
    pub(crate) rows: Vec<Row>,
    /// What the rows say of each other.
    pub(crate) ratios: Vec<Ratio>,
}

impl Report {
    /// Prints it: a table, or one JSON object.
    ///
    /// # Errors
    /// If standard output is gone, or if a load has failures or nothing that was answered: what is printed then is not a
    /// measurement.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        self.write(as_json)?;
        self.check()
    }

    fn check(&self) -> anyhow::Result<()> {
        for row in &self.rows {
            let failed: u64 = row.failures.values().sum();
            ensure!(failed == 0, "{failed} requests failed in: {}", row.name);
            ensure!(row.requests > 0, "no request was answered in: {}", row.name);
        }
        Ok(())
    }

    fn write(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        for (name, value) in &self.setting {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(out, "{name:<16} {text}")?;
        }
        writeln!(out, "\n{}", self.table())?;
        for ratio in &self.ratios {
            writeln!(out, "{:<58} {:>9.3}   (rounds {:.3} to {:.3})", ratio.name, ratio.median, ratio.min, ratio.max)?;
        }
        for row in self.rows.iter().filter(|row| !row.failures.is_empty()) {
            for (why, times) in &row.failures {
                writeln!(out, "FAILED in {} ({} connections): {times} × {why}", row.name, row.connections)?;
            }
        }
        Ok(())
    }

    fn table(&self) -> String {
        let head =
            ["latency in ms", "connections", "requests/s", "count", "p50", "p90", "p99", "p99.9", "max", "failed"];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for row in &self.rows {
            let per_second = row.requests_per_second.map_or_else(String::new, |number| format!("{number:.1}"));
            let mut line = vec![row.name.clone(), row.connections.to_string(), per_second, row.requests.to_string()];
            line.extend(cells(row.latency.as_ref()));
            line.push(row.failures.values().sum::<u64>().to_string());
            lines.push(line);
            if row.server.is_some() {
                let mut line = vec!["  by the server's clock".to_owned(), String::new(), String::new(), String::new()];
                line.extend(cells(row.server.as_ref()));
                lines.push(line);
            }
        }
        align(&lines)
    }
}

fn cells(percentiles: Option<&Percentiles>) -> [String; 5] {
    let Some(it) = percentiles else { return [const { String::new() }; 5] };
    [it.p50_ms, it.p90_ms, it.p99_ms, it.p99_9_ms, it.max_ms].map(|ms| format!("{ms:.3}"))
}

/// Columns side by side: the first to the left, numbers to the right.
fn align(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let mut text = String::new();
    for line in lines {
        let cells: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(column, cell)| match column {
                0 => format!("{cell:<0$}", width(column)),
                _ => format!("{cell:>0$}", width(column)),
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_its_rounds() {
        let ratio = Ratio::new("a / b", vec![3.0, 1.0, 2.0]).expect("there are rounds");
        assert_eq!((ratio.median, ratio.min, ratio.max), (2.0, 1.0, 3.0));
        assert_eq!(Ratio::new("a / b", vec![3.0, 1.0]).expect("there are rounds").median, 2.0);
        assert!(Ratio::new("a / b", vec![]).is_none());
    }

    #[test]
    fn percentiles_are_milliseconds() {
        let mut histogram = Histogram::<u64>::new(3).expect("three digits fit");
        assert!(Percentiles::of(&histogram).is_none());
        for ms in 1..=1_000_u64 {
            histogram.record(ms * 1_000_000).expect("it fits");
        }
        let found = Percentiles::of(&histogram).expect("it is not empty");
        for (found, wanted) in [(found.p50_ms, 500.0), (found.p99_ms, 990.0), (found.max_ms, 1_000.0)] {
            assert!((found / wanted - 1.0).abs() < 2e-3, "{found} is not {wanted}");
        }
    }

    #[test]
    fn a_load_with_failures_or_without_answers_is_no_measurement() {
        let check = |requests: u64, failures: &[(&str, u64)]| {
            let mut times = Histogram::<u64>::new(3).expect("three digits fit");
            times.record_n(1_000, requests).expect("it fits");
            let mut row = Row::timed("load", &times);
            row.failures = failures.iter().map(|(why, times)| ((*why).to_owned(), *times)).collect();
            Report { setting: BTreeMap::new(), rows: vec![row], ratios: Vec::new() }.check()
        };
        check(1, &[]).expect("it was answered");
        let told = check(9, &[("status 503", 2), ("no connection", 1)]).expect_err("some failed").to_string();
        assert_eq!(told, "3 requests failed in: load");
        assert!(check(0, &[]).is_err());
    }

    #[test]
    fn columns_stand_below_each_other() {
        let lines = [["name", "n"], ["é", "100"]].map(|line| line.map(str::to_owned).to_vec());
        assert_eq!(align(&lines), "name    n\né     100\n");
    }
}
