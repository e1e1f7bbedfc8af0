//! `strftime` of a moment, in coordinated universal time and in English.

use std::fmt::Write as _;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The longest pattern.
const MAX_PATTERN: usize = 256;

/// A moment's date and time.
struct Moment {
    year: i64,
    /// From 1.
    month: u32,
    day: u32,
    /// From 1, the first of January.
    day_of_year: u32,
    /// From 0, Monday.
    weekday: u32,
    /// Of the day.
    seconds: u32,
}

impl Moment {
    /// After Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": days since 1970 to a date of the Gregorian calendar.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "remainders are small and not negative"
    )]
    fn of(unix_s: i64) -> Self {
        let days = unix_s.div_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        // Counted from March, so that the leap day is the last of a year.
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * from_march + 2) / 153;
        let day = (from_march - (153 * shifted_month + 2) / 5 + 1) as u32;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1];
        Self {
            year,
            month,
            day,
            day_of_year: before + day + u32::from(leap && month > 2),
            weekday: (days + 3).rem_euclid(7) as u32,
            seconds: unix_s.rem_euclid(86_400) as u32,
        }
    }
}

/// The moment as a pattern says. The error names what in the pattern is not known.
pub(super) fn strftime(unix_s: i64, pattern: &str) -> Result<String, String> {
    if pattern.len() > MAX_PATTERN {
        return Err(format!("a pattern of {} bytes is longer than the {MAX_PATTERN} allowed", pattern.len()));
    }
    let at = Moment::of(unix_s);
    let (hour, minute, second) = (at.seconds / 3600, at.seconds / 60 % 60, at.seconds % 60);
    let twelve = (hour + 11) % 12 + 1;
    let (month, weekday) = (MONTHS[at.month as usize - 1], DAYS[at.weekday as usize]);
    let mut out = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        // A minus takes the leading zeros away, as it does on Linux.
        let (bare, kind) = match rest.next() {
            Some('-') => (true, rest.next()),
            kind => (false, kind),
        };
        let number = |out: &mut String, value: u32, width: usize| {
            let width = if bare { 0 } else { width };
            let _ = write!(out, "{value:0width$}");
        };
        match kind {
            Some('Y') => out.push_str(&at.year.to_string()),
            Some('y') => number(&mut out, u32::try_from(at.year.rem_euclid(100)).unwrap_or(0), 2),
            Some('m') => number(&mut out, at.month, 2),
            Some('d') => number(&mut out, at.day, 2),
            Some('j') => number(&mut out, at.day_of_year, 3),
            Some('H') => number(&mut out, hour, 2),
            Some('I') => number(&mut out, twelve, 2),
            Some('M') => number(&mut out, minute, 2),
            Some('S') => number(&mut out, second, 2),
            Some('B') => out.push_str(month),
            Some('b' | 'h') => out.push_str(&month[..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('F') => out.push_str(&strftime(unix_s, "%Y-%m-%d")?),
            Some('T') => out.push_str(&strftime(unix_s, "%H:%M:%S")?),
            Some('%') => out.push('%'),
            Some(other) => return Err(format!("%{other} is not supported")),
            None => return Err("it ends in the middle of a field".to_owned()),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    /// What Python 3.11 gives for `datetime.fromtimestamp(s, timezone.utc).strftime(…)`.
    #[test]
    fn moments_are_written_as_python_writes_them() {
        for (unix_s, want) in [
            (0, "Thursday 01 January 1970 00:00:00 001 Thu Jan 70 12 AM"),
            (951_827_696, "Tuesday 29 February 2000 12:34:56 060 Tue Feb 00 12 PM"),
            (1_735_689_599, "Tuesday 31 December 2024 23:59:59 366 Tue Dec 24 11 PM"),
            (-86_401, "Tuesday 30 December 1969 23:59:59 364 Tue Dec 69 11 PM"),
            (4_107_542_400, "Monday 01 March 2100 00:00:00 060 Mon Mar 00 12 AM"),
        ] {
            assert_eq!(strftime(unix_s, "%A %d %B %Y %H:%M:%S %j %a %b %y %I %p").expect("known"), want);
        }
        assert_eq!(strftime(951_827_696, "%-d/%-m %F %T 100%%").expect("known"), "29/2 2000-02-29 12:34:56 100%");
        assert!(strftime(0, "%Q").is_err() && strftime(0, "%").is_err() && strftime(0, &"x".repeat(999)).is_err());
    }
}
