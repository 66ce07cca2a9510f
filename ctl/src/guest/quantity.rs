//! Parses and prints sizes and times as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parses a size in bytes: `512M`, `1G`, `2T` or a plain number. Units are powers of 1024.
///
/// # Errors
/// When it is not such a size.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a size such as 512M, 1G or 2T");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().trim_end_matches("IB") {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Parses one value, or two separated by `/`: the present value and the value that it may grow to.
///
/// # Errors
/// When one of them cannot be parsed.
pub fn pair<T: Copy>(text: &str, one: impl Fn(&str) -> Result<T, String>) -> Result<(T, T), String> {
    match text.split_once('/') {
        Some((now, most)) => Ok((one(now)?, one(most)?)),
        None => one(text).map(|v| (v, v)),
    }
}

/// A size for people, with the largest unit that divides it.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (shift, unit) in [(40, "T"), (30, "G"), (20, "M"), (10, "K")] {
        if bytes >= 1 << shift {
            let (whole, part) = (bytes >> shift, ((bytes & ((1 << shift) - 1)) * 10) >> shift);
            return if part == 0 { format!("{whole}{unit}") } else { format!("{whole}.{part}{unit}") };
        }
    }
    bytes.to_string()
}

/// Parses a moment: `+90s`, `+10m`, `+2h`, `+1d`, or a date and time in UTC, `2026-11-22T08:00`, optionally with
/// seconds.
///
/// # Errors
/// When it is not such a moment.
pub fn moment(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let wrong = || format!("{text} is not a time; write +10m, +2h, or 2026-11-22T08:00 in UTC");
    if let Some(delay) = text.strip_prefix('+') {
        let digits = delay.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &delay[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or_else(wrong)?;
        return now.checked_add(Duration::from_secs(seconds)).ok_or_else(wrong);
    }
    let (date, time) = text.trim_end_matches('Z').split_once(['T', ' ']).ok_or_else(wrong)?;
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        text.split(by).map(|part| part.parse().ok().filter(|n| (0..=9999).contains(n))).collect()
    };
    let (date, time) = (numbers(date, '-').ok_or_else(wrong)?, numbers(time, ':').ok_or_else(wrong)?);
    let (&[year, month, day], [hour, minute, rest @ ..]) = (date.as_slice(), time.as_slice()) else {
        return Err(wrong());
    };
    let second = match rest {
        [] => 0,
        [second] => *second,
        _ => return Err(wrong()),
    };
    let days = days_since_epoch(year, month, day);
    let real = civil(days) == (year, month, day) && *hour < 24 && *minute < 60 && second < 60;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    match u64::try_from(seconds) {
        Ok(seconds) if real => Ok(UNIX_EPOCH + Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

/// A moment in UTC, to the second.
#[must_use]
pub fn moment_text(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let ((year, month, day), rest) = (civil(seconds.div_euclid(86_400)), seconds.rem_euclid(86_400));
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The days from 1970-01-01 to a date of the proleptic Gregorian calendar. Internally, years begin in March, so that
/// the leap day is a year's last day.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that is this many days after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * from_march + 2) / 5 + 1, (from_march + 2) % 12 + 1);
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size_text(3 << 29), "1.5G");
        assert_eq!(pair("1G/2G", size), Ok((1 << 30, 2 << 30)));
        for text in ["", "G", "1X", "99999999999T", "-1", "1.5G", "1G/"] {
            assert!(pair(text, size).is_err(), "{text}");
        }
    }

    #[test]
    fn moments() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(moment("+2m", now), Ok(now + Duration::from_secs(120)));
        let at = moment("2026-11-22T08:00", now).expect("a time");
        assert_eq!(at, UNIX_EPOCH + Duration::from_secs(1_795_334_400));
        assert_eq!(moment_text(at), "2026-11-22T08:00:00Z");
        for days in (0..40_000).step_by(13) {
            let (y, m, d) = civil(days);
            assert_eq!(days_since_epoch(y, m, d), days);
        }
        let wrong = [
            "",
            "tomorrow",
            "2026-02-30T08:00",
            "2026-11-22T24:00",
            "2026-13-01T00:00",
            "+1y",
            "+99999999999999999999d",
            "1969-12-31T00:00",
            "2026-11-22T08:00:00:00",
        ];
        for text in wrong {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }
}
