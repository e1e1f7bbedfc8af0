//! What the demo found, for a person and for a program.

use std::path::PathBuf;

use serde_json::{Value, json};
use tabpool::{Precision, cosine_similarity};

use super::measure::{Measured, Measurement, Together};
use super::reference::Source;
use crate::failure::Verdict;
use crate::quantity::{bytes, duration, milliseconds, rate};
use crate::table::{Mark, Side, Table};
use crate::terminal::{Terminal, shortened};

/// Everything found.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) model: String,
    pub(super) root: String,
    pub(super) texts: Vec<String>,
    /// The embeddings that results are held against.
    pub(super) expected: Vec<Vec<f32>>,
    pub(super) source: Source,
    pub(super) measured: Vec<Measured>,
    pub(super) together: Option<Together>,
    /// Workers that did not start.
    pub(super) missing: Vec<String>,
    pub(super) database: PathBuf,
}

/// The number furthest from the reference; infinite where there is nothing to compare with.
fn difference(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    if got.len() != want.len() || got.iter().zip(want).any(|(got, want)| got.len() != want.len()) {
        return f64::INFINITY;
    }
    let numbers = got.iter().flatten().zip(want.iter().flatten());
    let differences = numbers.map(|(got, want)| (f64::from(*got) - f64::from(*want)).abs());
    // `max` passes over what is no number; here that is the worst there is.
    differences.fold(0.0, |worst: f64, one| if one.is_nan() { f64::INFINITY } else { worst.max(one) })
}

impl Shown {
    pub(super) fn verdict(&self, tolerance: f64) -> Verdict {
        let alone = self.measured.iter().all(|one| one.result.as_ref().is_ok_and(|run| self.worst(run) < tolerance));
        let together = self.together.as_ref().is_none_or(|all| difference(&all.embeddings, &self.expected) < tolerance);
        if alone && together && self.missing.is_empty() { Verdict::Fine } else { Verdict::Bad }
    }

    fn worst(&self, run: &Measurement) -> f64 {
        difference(&run.embeddings, &self.expected)
    }

    /// The embeddings shown: by the workers together, or by the one there was.
    fn embeddings(&self) -> &[Vec<f32>] {
        let alone = || self.measured.iter().find_map(|one| one.result.as_ref().ok());
        match (&self.together, alone()) {
            (Some(all), _) => &all.embeddings,
            (None, Some(run)) => &run.embeddings,
            (None, None) => &[],
        }
    }

    fn cosines(&self) -> Vec<Vec<f32>> {
        let embeddings = self.embeddings();
        let row =
            |one: &Vec<f32>| embeddings.iter().map(|other| cosine_similarity(one, other).unwrap_or(f32::NAN)).collect();
        embeddings.iter().map(row).collect()
    }

    pub(super) fn text(&self, terminal: &Terminal, tolerance: f64) -> String {
        let mut text =
            format!("{}\n", terminal.bold(&format!("How alike {} sentences are (cosine, percent)", self.texts.len())));
        text.push_str(&self.similarity_table(terminal));
        text.push_str(&format!("\n{}\n", terminal.bold(&format!("{} on each worker alone", self.model))));
        text.push_str(&self.worker_table(terminal, tolerance));
        for failure in self.measured.iter().filter_map(Measured::failure) {
            text.push_str(&format!("{} {failure}\n", terminal.styled("✗", "1;31")));
        }
        for missing in &self.missing {
            text.push_str(&format!("{} {missing} did not start\n", terminal.styled("✗", "1;31")));
        }
        text.push('\n');
        if let Some(all) = &self.together {
            text.push_str(&format!("all together    {} texts/s\n", rate(all.throughput)));
            let shares = all.shares.iter().map(|(name, texts)| format!("{name} {}", share(*texts, all.texts)));
            text.push_str(&wrapped(shares, 16, terminal.width));
        }
        let (fetched, cached) = self.traffic();
        text.push_str(&format!(
            "weights         {} fetched by browsers, {} from their caches\n",
            bytes(fetched),
            bytes(cached)
        ));
        let reference = match &self.source {
            Source::Published => "PyTorch's embeddings of the published model".to_owned(),
            Source::Worker(name) => format!("{name}, as nothing is known here of these weights"),
        };
        text.push_str(&format!("reference       {reference} (limit {tolerance:.0e})\n"));
        text.push_str(&format!("measurements    {}\n", self.database.display()));
        text
    }

    fn similarity_table(&self, terminal: &Terminal) -> String {
        const CELL: usize = 4;
        const NUMBER: usize = 3;
        let room = terminal.width.min(120).saturating_sub(self.texts.len() * CELL + NUMBER + 2).max(10);
        let numbers: Vec<String> = (1..=self.texts.len()).map(|number| number.to_string()).collect();
        let mut columns = vec![("", Side::Right), ("", Side::Left)];
        columns.extend(numbers.iter().map(|number| (number.as_str(), Side::Right)));
        let mut table = Table::new(terminal, &columns).gap(1);
        for ((number, text), row) in numbers.iter().zip(&self.texts).zip(self.cosines()) {
            let mut cells = vec![(number.clone(), Mark::Faint), (shortened(text, room), Mark::None)];
            cells.extend(row.iter().map(|cosine| {
                #[expect(clippy::cast_possible_truncation, reason = "a cosine is between -1 and 1")]
                let percent = (cosine * 100.0).round() as i32;
                (format!("{percent:>3}"), Mark::Heat(u8::try_from(percent.clamp(0, 100)).unwrap_or(0)))
            }));
            table.row(cells);
        }
        table.render()
    }

    fn worker_table(&self, terminal: &Terminal, tolerance: f64) -> String {
        let wide = terminal.width >= 124;
        let mut columns = vec![
            ("WORKER", Side::Left),
            ("API", Side::Left),
            ("LOAD", Side::Right),
            ("FETCHED", Side::Right),
            ("CACHED", Side::Right),
            ("MEDIAN", Side::Right),
            ("P95", Side::Right),
            ("TEXTS/S", Side::Right),
            ("DIFF", Side::Right),
        ];
        if wide {
            columns.push(("ADAPTER", Side::Left));
        }
        let mut table = Table::new(terminal, &columns).gap(if terminal.width >= 96 { 2 } else { 1 });
        let mut adapters = String::new();
        for one in &self.measured {
            // The native worker takes blocks from this process's own disk.
            let moved = |size| if one.native { "–".to_owned() } else { bytes(size) };
            let plain = |text: String| (text, Mark::None);
            let exact = one.loads.precision == Precision::F32;
            let api = if exact { one.api.to_string() } else { format!("{} {}", one.api, one.loads.precision) };
            let mut cells = vec![plain(one.worker.clone()), plain(api)];
            cells.push(plain(duration(one.loads.time)));
            cells.extend([plain(moved(one.loads.fetched)), plain(moved(one.loads.cached))]);
            match &one.result {
                Ok(run) => {
                    let (median, p95) = run.quantiles();
                    let worst = self.worst(run);
                    let mark = if worst < tolerance { Mark::Good } else { Mark::Bad };
                    cells.extend([plain(duration(median)), plain(duration(p95)), plain(rate(run.throughput))]);
                    cells.push((format!("{worst:.1e}"), mark));
                }
                Err(_) => {
                    cells.extend([plain(String::new()), plain(String::new()), plain(String::new())]);
                    cells.push(("failed".to_owned(), Mark::Bad));
                }
            }
            if wide {
                cells.push((shortened(&one.adapter, terminal.width.saturating_sub(96).max(20)), Mark::Faint));
            } else if !one.adapter.is_empty() {
                let line = format!("{} {}: {}", one.worker, one.api, one.adapter);
                adapters.push_str(&format!("{}\n", terminal.dim(&shortened(&line, terminal.width))));
            }
            table.row(cells);
        }
        table.render() + &adapters
    }

    /// Weights that browsers fetched, and those they still had.
    fn traffic(&self) -> (u64, u64) {
        let browsers = self.measured.iter().filter(|one| !one.native);
        browsers.fold((0, 0), |(fetched, cached), one| (fetched + one.loads.fetched, cached + one.loads.cached))
    }

    pub(super) fn json(&self, tolerance: f64, verdict: Verdict) -> Value {
        let finite = |number: f64| if number.is_finite() { json!(number) } else { Value::Null };
        let worker = |one: &Measured| {
            let run = one.result.as_ref().ok();
            let quantiles = run.map(Measurement::quantiles);
            json!({
                "worker": one.worker,
                "browser": one.browser,
                "version": one.version,
                "api": one.api.name(),
                "precision": one.loads.precision.name(),
                "adapter": one.adapter,
                "in_process": one.native,
                "programs_loaded": one.loads.programs,
                "load_ms": milliseconds(one.loads.time),
                "bytes_fetched": one.loads.fetched,
                "bytes_cached": one.loads.cached,
                "median_ms": quantiles.map(|(median, _)| milliseconds(median)),
                "p95_ms": quantiles.map(|(_, p95)| milliseconds(p95)),
                "texts_per_s": run.map(|run| run.throughput),
                "rounds": run.map(|run| run.rounds),
                "largest_difference": run.map_or(Value::Null, |run| finite(self.worst(run))),
                "failure": one.result.as_ref().err(),
            })
        };
        let (fetched, cached) = self.traffic();
        json!({
            "model": self.model,
            "root": self.root,
            "sentences": self.texts,
            "cosines": self.cosines(),
            "reference": match &self.source {
                Source::Published => "published",
                Source::Worker(name) => name.as_str(),
            },
            "tolerance": tolerance,
            "workers": self.measured.iter().map(worker).collect::<Vec<_>>(),
            "missing": self.missing,
            "together": self.together.as_ref().map(|all| json!({
                "texts": all.texts,
                "texts_per_s": all.throughput,
                "texts_by_worker": all.shares,
                "largest_difference": finite(difference(&all.embeddings, &self.expected)),
            })),
            "bytes_fetched": fetched,
            "bytes_cached": cached,
            "database": self.database.display().to_string(),
            "ok": verdict == Verdict::Fine,
        })
    }
}

/// Items separated by commas, on as many indented lines as it takes.
fn wrapped(items: impl Iterator<Item = String>, indent: usize, width: usize) -> String {
    let margin = " ".repeat(indent);
    let mut text = String::new();
    let mut line = String::new();
    for item in items {
        // Two more for the comma and the space after the item before.
        if !line.is_empty() && indent + line.chars().count() + 2 + item.chars().count() > width {
            text.push_str(&format!("{margin}{line},\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push_str(", ");
        }
        line.push_str(&item);
    }
    text + &format!("{margin}{line}\n")
}

/// A part in percent.
fn share(part: usize, whole: usize) -> String {
    format!("{} %", (part * 100 + whole / 2).checked_div(whole).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tabpool::ApiKind;

    use super::{Measured, Measurement, Shown, Source, difference, share};
    use crate::commands::demo::measure::Loads;
    use crate::failure::Verdict;
    use crate::terminal::Terminal;

    fn shown(off_by: f32) -> Shown {
        let expected: Vec<Vec<f32>> = (0..12).map(|row| vec![1.0, row as f32 / 12.0]).collect();
        let embeddings = expected.iter().map(|row| vec![row[0], row[1] + off_by]).collect();
        let latencies = vec![Duration::from_millis(20); 60];
        let one = |worker: &str, native| Measured {
            worker: worker.into(),
            browser: worker.into(),
            version: "156.0.1".into(),
            api: ApiKind::WebGpu,
            adapter: "google swiftshader".into(),
            native,
            loads: Loads { programs: 2, time: Duration::from_millis(3200), fetched: 90_868_376, ..Loads::default() },
            result: Err("no device".into()),
        };
        let mut works = one("chromium 156", false);
        works.result = Ok(Measurement { embeddings, latencies, throughput: 4.6, rounds: 5 });
        Shown {
            model: "all-MiniLM-L6-v2".into(),
            root: "bafy".into(),
            texts: (0..12).map(|number| format!("Sentence {number} is as long as sentences are.")).collect(),
            expected,
            source: Source::Published,
            measured: vec![works],
            together: None,
            missing: Vec::new(),
            database: "/data/metrics.duckdb".into(),
        }
    }

    #[test]
    fn lines_fit_a_terminal_of_eighty_columns() {
        let text = shown(1e-6).text(&Terminal::plain(80), 1e-4);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        for part in
            ["chromium 156 webgpu 3.20 s 90.9 MB", "20.0 ms", "/data/metrics.duckdb", "90.9 MB fetched by browsers"]
        {
            assert!(text.contains(part), "{part:?} is missing from\n{text}");
        }
    }

    #[test]
    fn too_large_a_difference_a_failure_and_an_absent_worker_are_bad() {
        assert_eq!(shown(1e-6).verdict(1e-4), Verdict::Fine);
        assert_eq!(shown(1e-3).verdict(1e-4), Verdict::Bad);
        assert_eq!(shown(f32::NAN).verdict(1e-4), Verdict::Bad);
        assert_eq!(Shown { missing: vec!["firefox".into()], ..shown(0.0) }.verdict(1e-4), Verdict::Bad);
        let mut failed = shown(0.0);
        failed.measured[0].result = Err("no device".into());
        assert_eq!(failed.verdict(1e-4), Verdict::Bad);
        assert!(failed.text(&Terminal::plain(80), 1e-4).contains("chromium 156 webgpu: no device"));
    }

    #[test]
    fn long_lists_are_wrapped() {
        let items = || ["one", "two", "three"].map(str::to_owned).into_iter();
        assert_eq!(super::wrapped(items(), 2, 80), "  one, two, three\n");
        assert_eq!(super::wrapped(items(), 2, 10), "  one, two,\n  three\n");
        assert_eq!(super::wrapped(items(), 2, 1), "  one,\n  two,\n  three\n");
    }

    #[test]
    fn json_says_the_same() {
        let json = shown(1e-3).json(1e-4, Verdict::Bad);
        assert_eq!(json["ok"], false);
        assert_eq!(json["workers"][0]["bytes_fetched"], 90_868_376);
        assert_eq!(json["cosines"].as_array().map(Vec::len), Some(12));
    }

    #[test]
    fn differences_see_what_is_no_number_and_what_is_missing() {
        let want = [vec![1.0, 2.0]];
        assert_eq!(difference(&[vec![1.0, 2.5]], &want), 0.5);
        assert_eq!(difference(&[vec![1.0, f32::NAN]], &want), f64::INFINITY);
        assert_eq!(difference(&[vec![1.0]], &want), f64::INFINITY);
        assert_eq!(difference(&[], &want), f64::INFINITY);
        assert_eq!((share(1, 3), share(2, 3), share(0, 0)), ("33 %".into(), "67 %".into(), "0 %".into()));
    }
}
