//! Amounts as people read them.

use std::time::Duration;

/// Bytes, in powers of 1000 as disks and networks are sold.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut amount = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.5 would be shown as 1000 of the smaller unit.
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(amount < 99.95);
    format!("{amount:.digits$} {}", UNITS[unit])
}

/// A duration with three digits at most.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds >= 600.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds >= 99.95 => format!("{seconds:.0} s"),
        _ if seconds >= 9.995 => format!("{seconds:.1} s"),
        _ if seconds >= 0.9995 => format!("{seconds:.2} s"),
        _ if seconds >= 0.09995 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds >= 0.009_995 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.2} ms", seconds * 1e3),
    }
}

/// A duration in milliseconds, for programs.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// How long something still lasts, in its largest unit.
pub(crate) fn remaining(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        _ if seconds >= 48 * 3600 => count(seconds / (24 * 3600), "day"),
        _ if seconds >= 2 * 3600 => count(seconds / 3600, "hour"),
        _ if seconds >= 120 => count(seconds / 60, "minute"),
        _ => count(seconds, "second"),
    }
}

/// Reads a span: 90s, 30m, 24h, 7d, 2w.
pub(crate) fn span(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        "w" => 7 * 24 * 3600,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_secs(number.saturating_mul(seconds)))
}

/// A rate a second.
pub(crate) fn rate(rate: f64) -> String {
    match rate {
        _ if rate >= 99.95 => format!("{rate:.0}"),
        _ if rate >= 9.995 => format!("{rate:.1}"),
        _ => format!("{rate:.2}"),
    }
}

/// A noun with its number.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{bytes, count, duration, milliseconds, rate, remaining, span};

    #[test]
    fn three_digits_are_enough_at_every_size() {
        let sizes = [0, 999, 1000, 99_949, 99_950, 999_949, 999_950, 90_868_376, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "1.0 MB", "1.0 MB", "90.9 MB", "18447 PB"]);
        let micros = [0, 1_234, 12_345, 123_456, 999_600, 1_234_567, 12_345_678, 123_456_789, 6_000_000_000];
        assert_eq!(
            micros.map(|micros| duration(Duration::from_micros(micros))),
            ["0.00 ms", "1.23 ms", "12.3 ms", "123 ms", "1.00 s", "1.23 s", "12.3 s", "123 s", "100 min"]
        );
        assert_eq!([1.234, 12.34, 123.4].map(rate), ["1.23", "12.3", "123"]);
        assert_eq!((count(1, "file"), count(2, "file")), ("1 file".into(), "2 files".into()));
        assert!((milliseconds(Duration::from_micros(1_500)) - 1.5).abs() < 1e-9);
    }

    #[test]
    fn spans_are_read_and_what_is_left_of_them_is_told_in_whole_units() {
        let spans = ["90s", "30m", "24h", "7d", "2w"].map(|text| span(text).map(remaining));
        let told = ["90 seconds", "30 minutes", "24 hours", "7 days", "14 days"].map(|text| Some(text.to_owned()));
        assert_eq!(spans, told);
        assert_eq!(["", "s", "7", "7 d", "-1s", "7y", "é"].map(span), [None; 7]);
        assert_eq!(remaining(Duration::from_millis(1_900)), "1 second");
    }
}
