//! Numbers and times for people.

/// A duration in words: `3 days 4 h`, `2 h 5 min`, `17 s`.
#[must_use]
pub fn span(s: u64) -> String {
    let (days, hours, minutes) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{minutes} min {} s", s % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A time in the past, for a narrow column: `3 s ago`.
#[must_use]
pub fn ago(seconds: u64) -> String {
    match seconds {
        0 => "now".to_owned(),
        s if s < 120 => format!("{s} s ago"),
        s if s < 7200 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

/// `0`, `950`, `1.25M`: three digits are enough for an overview.
#[must_use]
pub fn human(n: f64) -> String {
    match n {
        n if n < 999.5 => format!("{n:.0}"),
        n if n < 999.5e3 => scaled(n / 1e3, 'k'),
        n if n < 999.5e6 => scaled(n / 1e6, 'M'),
        n => scaled(n / 1e9, 'G'),
    }
}

fn scaled(n: f64, unit: char) -> String {
    match n {
        n if n < 9.995 => format!("{n:.2}{unit}"),
        n if n < 99.95 => format!("{n:.1}{unit}"),
        n => format!("{n:.0}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (n, text) in [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1.00k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.00M"),
            (2.5e9, "2.50G"),
        ] {
            assert_eq!(human(n), text);
        }
    }
}
