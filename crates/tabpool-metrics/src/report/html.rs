//! A report as one HTML page with charts in SVG. No scripts, nothing fetched: the page's own policy forbids both, should a
//! name ever get past the escaping.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::sections::{Cell, decimal, sections, summary, visible};
use super::{Day, Latency, Report};

const STYLE: &str = include_str!("style.css");
/// Bars and lines that still make a readable chart; the tables below it have everything.
const MAX_BARS: usize = 30;
const MAX_LINES: usize = 8;
const COLOURS: [&str; MAX_LINES] =
    ["#1f6feb", "#d1580d", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#57606a"];

pub(super) fn render(report: &Report) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>tabpool report</title>\n",
    );
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(out, "<style>\n{STYLE}</style>\n<h1>tabpool report</h1>");
    for line in summary(report) {
        let _ = writeln!(out, "<p>{}</p>", escape(&line));
    }
    for section in sections(report) {
        let _ = writeln!(out, "<h2>{}</h2>\n<p class=\"note\">{}</p>", escape(section.title), escape(section.note));
        match section.title {
            "Latency" => bars(&report.latency, &mut out),
            "By day" => lines(&report.trend, &mut out),
            _ => {}
        }
        out.push_str("<div class=\"wide\"><table>\n<tr>");
        for title in section.head {
            let _ = write!(out, "<th>{}</th>", escape(title));
        }
        out.push_str("</tr>\n");
        for row in &section.rows {
            out.push_str("<tr>");
            for cell in row {
                let class = if matches!(cell, Cell::Number(_)) { " class=\"n\"" } else { "" };
                let _ = write!(out, "<td{class}>{}</td>", escape(cell.content()));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</table></div>\n");
    }
    out.push_str("</html>\n");
    out
}

/// Median as a bar, p95 as a thin line beyond it, one row for each place.
fn bars(rows: &[Latency], out: &mut String) {
    let rows: Vec<(&Latency, f64, f64)> =
        rows.iter().filter_map(|row| Some((row, row.p50_ms?, row.p95_ms?))).take(MAX_BARS).collect();
    let top = rows.iter().map(|(_, _, p95)| *p95).fold(0.0, f64::max);
    if rows.is_empty() || top <= 0.0 {
        return;
    }
    let height = rows.len() * 22 + 4;
    let _ = writeln!(out, "<svg viewBox=\"0 0 900 {height}\" role=\"img\" aria-label=\"median and p95 latency\">");
    for (index, (row, p50, p95)) in rows.iter().enumerate() {
        let y = index * 22 + 4;
        let (bar, line) = (p50 / top * 440.0, p95 / top * 440.0);
        let label = short(&format!("{} · {} · {}", row.model, row.browser, row.api), 46);
        let _ = writeln!(
            out,
            "<text x=\"345\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"350\" y=\"{y}\" width=\"{bar:.1}\" height=\"15\" fill=\"{}\"/>\
             <rect x=\"350\" y=\"{}\" width=\"{line:.1}\" height=\"1.5\" fill=\"#57606a\"/>\
             <text x=\"{:.1}\" y=\"{}\">{} / {} ms</text>",
            y + 12,
            escape(&label),
            COLOURS[0],
            y + 7,
            356.0 + line,
            y + 12,
            decimal(*p50),
            decimal(*p95),
        );
    }
    out.push_str("</svg>\n");
}

/// Model, browser, API and precision.
type Place<'a> = (&'a str, &'a str, &'a str, &'a str);

/// The median of each day, a line for each model, browser, API and precision.
#[expect(clippy::cast_precision_loss, reason = "there are at most a thousand days")]
fn lines(days: &[Day], out: &mut String) {
    let mut dates: Vec<&str> = days.iter().map(|day| day.day.as_str()).collect();
    dates.sort_unstable();
    dates.dedup();
    let mut series: BTreeMap<Place<'_>, Vec<(usize, f64)>> = BTreeMap::new();
    for day in days {
        if let (Ok(index), Some(p50)) = (dates.binary_search(&day.day.as_str()), day.p50_ms) {
            series.entry((&day.model, &day.browser, &day.api, &day.precision)).or_default().push((index, p50));
        }
    }
    let top = series.values().flatten().map(|(_, p50)| *p50).fold(0.0, f64::max);
    // One day makes no line.
    if dates.len() < 2 || top <= 0.0 {
        return;
    }
    let step = 780.0 / (dates.len() - 1) as f64;
    let shown = series.len().min(MAX_LINES);
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 900 {}\" role=\"img\" aria-label=\"median latency by day\">",
        250 + shown * 18
    );
    let _ = writeln!(
        out,
        "<path d=\"M60 10V210H850\" fill=\"none\" stroke=\"#8c959f\"/><text x=\"55\" y=\"16\" text-anchor=\"end\">{} ms</text>\
         <text x=\"55\" y=\"214\" text-anchor=\"end\">0</text><text x=\"60\" y=\"230\">{}</text>\
         <text x=\"850\" y=\"230\" text-anchor=\"end\">{}</text>",
        decimal(top),
        escape(dates[0]),
        escape(dates[dates.len() - 1]),
    );
    for (index, (((model, browser, api, precision), points), colour)) in series.iter().zip(COLOURS).enumerate() {
        let place =
            |(day, p50): &(usize, f64)| format!("{:.1},{:.1}", 60.0 + step * *day as f64, 210.0 - p50 / top * 200.0);
        let path: Vec<String> = points.iter().map(place).collect();
        let y = 250 + index * 18;
        let label = short(&format!("{model} · {browser} · {api} {precision}"), 100);
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <rect x=\"60\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"78\" y=\"{y}\">{}</text>",
            path.join(" "),
            y - 10,
            escape(&label),
        );
    }
    out.push_str("</svg>\n");
}

fn short(content: &str, limit: usize) -> String {
    if content.chars().count() <= limit {
        return content.to_owned();
    }
    content.chars().take(limit - 1).chain(['…']).collect()
}

fn escape(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    for letter in visible(content).chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(letter),
        }
    }
    out
}
