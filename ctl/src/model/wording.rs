//! The texts of errors: causes and remedies in plain words, safe for terminals.

/// The cause and remedy for an error message of serde.
pub(crate) fn explain(message: &str, written: Option<&str>) -> (String, String) {
    let ticked: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let known = ticked.get(1..).unwrap_or_default();
    let named = ticked.first().copied().unwrap_or_default();
    let cited = written.map(|w| format!("{w}: ")).unwrap_or_default();
    let (cause, remedy) = if message.starts_with("unknown field") {
        (format!("there is no key `{named}`"), suggest(named, known))
    } else if message.starts_with("missing field") {
        (format!("the key `{named}` is missing"), format!("add a line `{named} = ...`"))
    } else if message.starts_with("unknown variant") {
        (format!("`{named}` is not a choice"), suggest(named, known))
    } else if message.contains("IP address syntax") {
        let remedy = "write an address such as 10.0.0.11 or fd00::11, with a /length where it is a prefix";
        (format!("{cited}not an IP address or prefix"), remedy.to_owned())
    } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
        let expected = message.split("expected ").nth(1).unwrap_or("another value");
        let expected = match expected {
            "u16" => "a whole number from 0 to 65535",
            "u32" | "u64" => "a whole number, not negative",
            "a string" => "text in quotes",
            "a boolean" => "true or false",
            "a sequence" => "a list in brackets",
            other => other,
        };
        (format!("{cited}{message}"), format!("write {expected}"))
    } else {
        (format!("{cited}{message}"), "correct the value".to_owned())
    };
    (clean(&cause), clean(&remedy))
}

/// `did you mean ...`, or the possible choices.
pub(crate) fn suggest(written: &str, known: &[&str]) -> String {
    let near = known.iter().map(|k| (distance(written, k), *k)).min().filter(|&(d, _)| d <= 2);
    match near {
        Some((_, k)) => format!("did you mean `{k}`?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => format!("use one of: {}", known.join(", ")),
    }
}

/// The Levenshtein distance, for short words only.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 32 || b.len() > 32 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Makes text safe for terminals and logs: it has no control characters and a bounded length.
pub(crate) fn clean(text: &str) -> String {
    const CHARS_MAX: usize = 300;
    let mut clean = String::with_capacity(text.len().min(CHARS_MAX));
    for (n, c) in text.trim_end().chars().enumerate() {
        if n == CHARS_MAX {
            clean.push('…');
            break;
        }
        if c == '\n' {
            clean.push(' ');
        } else if c.is_control() {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}
