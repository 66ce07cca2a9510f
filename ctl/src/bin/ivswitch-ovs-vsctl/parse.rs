//! The language of `ovs-vsctl` as far as libvirt speaks it: options, then commands parted by `--`, each with options
//! of its own.

/// Everything one call says.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Seconds it may take.
    pub timeout: f64,
    /// Rows as `key : value` lines instead of a table.
    pub list: bool,
    /// The columns asked for.
    pub columns: Vec<String>,
    /// What is to be done, in order.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Debug, PartialEq)]
pub struct Command {
    /// Fine when it is there already, or is not there.
    pub lenient: bool,
    /// The name of the row it makes, for the others.
    pub id: Option<String>,
    /// Its name and its arguments.
    pub words: Vec<String>,
}

/// Reads the arguments.
///
/// # Errors
/// On an option that libvirt does not use.
pub fn request(words: &[String]) -> Result<Request, String> {
    let mut request = Request { timeout: 5.0, list: false, columns: Vec::new(), commands: Vec::new() };
    for part in words.split(|word| word == "--") {
        let mut command = Command { lenient: false, id: None, words: Vec::new() };
        for word in part {
            match word.split_once('=').unwrap_or((word, "")) {
                _ if !word.starts_with("--") || !command.words.is_empty() && !word.starts_with("--if") => {
                    command.words.push(word.clone());
                }
                ("--timeout", seconds) => {
                    let given = seconds.parse().ok().filter(|s| (0.0..=600.0).contains(s));
                    request.timeout = given.ok_or("--timeout is a number of seconds")?;
                    // OVS waits for ever at 0.
                    if request.timeout == 0.0 {
                        request.timeout = 600.0;
                    }
                }
                ("--may-exist" | "--if-exists" | "--if-exist", "") => command.lenient = true,
                ("--no-heading" | "--no-headings", "") | ("--data", "json" | "bare" | "string") => {}
                ("--format", format) => request.list = format == "list",
                ("--columns", columns) => request.columns = columns.split(',').map(str::to_owned).collect(),
                ("--id", id) => command.id = Some(id.to_owned()),
                // Of OVSDB's server, which is not here.
                ("--db" | "--no-wait" | "--oneline", _) => {}
                _ => return Err(format!("unrecognized option '{word}'")),
            }
        }
        if !command.words.is_empty() {
            request.commands.push(command);
        }
    }
    if request.commands.is_empty() {
        return Err("missing command name (use --help for help)".to_owned());
    }
    Ok(request)
}

/// A setting `column[:key]=value`, its quotes taken off.
#[must_use]
pub fn setting(word: &str) -> Option<(String, Option<String>, String)> {
    let (left, value) = word.split_once('=')?;
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    let (column, key) = match left.split_once(':') {
        Some((column, key)) => (column, Some(key.to_owned())),
        None => (left, None),
    };
    // Both spellings are in use.
    Some((column.replace('_', "-"), key, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_libvirt_says_is_understood() {
        let r = request(&words(
            "--timeout=5 -- --may-exist add-port br t0 tag=42 -- set Interface t0 external-ids:attached-mac=\"a\"",
        ))
        .expect("libvirt's own words");
        assert_eq!(r.commands.len(), 2);
        assert!(r.commands[0].lenient && !r.commands[1].lenient);
        assert_eq!(r.commands[0].words, ["add-port", "br", "t0", "tag=42"]);
        let r = request(&words("--timeout=5 --no-heading --columns=_uuid --if-exists list port t0 qos"))
            .expect("too");
        assert!(r.commands[0].lenient && r.columns == ["_uuid"]);
        let r = request(&words("set port t0 qos=@q -- --id=@q create qos type=linux-htb")).expect("too");
        assert_eq!(r.commands[1].id.as_deref(), Some("@q"));
        assert_eq!(
            setting("external_ids:iface-id=\"x\""),
            Some(("external-ids".into(), Some("iface-id".into()), "x".into()))
        );
        assert_eq!(setting("qos=@q"), Some(("qos".into(), None, "@q".into())));
        for wrong in ["", "--frob add-br x", "--timeout=x list-br"] {
            assert!(request(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
