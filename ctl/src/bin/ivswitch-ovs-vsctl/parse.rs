//! The part of `ovs-vsctl`'s command line that libvirt uses: options, then commands separated by `--`, each with
//! options of its own.

/// The kind of a call.
#[derive(Debug, PartialEq)]
pub enum Asked {
    /// Commands.
    Commands(Request),
    /// The program's version.
    Version,
    /// The program's help.
    Help,
}

/// The output format for rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines `column : value`.
    List,
    /// One object with headings and data.
    Json,
}

/// One complete call.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The timeout in seconds.
    pub timeout: f64,
    /// The output format for rows.
    pub format: Format,
    /// Whether values are JSON instead of text.
    pub json: bool,
    /// Whether the names of columns are left out.
    pub bare: bool,
    /// Whether the output of each command goes on one line.
    pub oneline: bool,
    /// The commands, in order.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Debug, PartialEq)]
pub struct Command {
    /// Succeed if the object exists already (`--may-exist`) or does not exist (`--if-exists`).
    pub lenient: bool,
    /// The requested columns.
    pub columns: Vec<String>,
    /// The name that other commands use for the row that this one creates.
    pub id: Option<String>,
    /// The command's name and arguments.
    pub words: Vec<String>,
}

/// Parses the arguments.
///
/// # Errors
/// An unknown option.
pub fn request(words: &[String]) -> Result<Asked, String> {
    let mut request = Request {
        timeout: 5.0,
        format: Format::List,
        json: false,
        bare: false,
        oneline: false,
        commands: Vec::new(),
    };
    // Options before the first command apply to all commands.
    let mut columns_of_all = Vec::new();
    for part in words.split(|word| word == "--") {
        let mut command = Command { lenient: false, columns: Vec::new(), id: None, words: Vec::new() };
        let mut words = part.iter();
        while let Some(word) = words.next() {
            match word.split_once('=').unwrap_or((word, "")) {
                _ if !word.starts_with('-') || !command.words.is_empty() && !word.starts_with("--if") => {
                    command.words.push(word.clone());
                }
                ("--version" | "-V", "") => return Ok(Asked::Version),
                ("--help" | "-h", "") => return Ok(Asked::Help),
                ("--timeout", seconds) => request.timeout = timeout(seconds)?,
                ("-t", "") => request.timeout = timeout(words.next().map_or("", String::as_str))?,
                ("--may-exist" | "--if-exists" | "--if-exist", "") => command.lenient = true,
                ("--no-heading" | "--no-headings", "") => request.bare = true,
                ("--bare", "") => (request.bare, request.json) = (true, false),
                ("--data", "json") => request.json = true,
                ("--data", "bare" | "string") => request.json = false,
                ("--format" | "-f", "list" | "table") => request.format = Format::List,
                ("--format" | "-f", "json") => request.format = Format::Json,
                ("--format" | "-f" | "--data", other) => {
                    return Err(format!(
                        "{}={other} is not supported: use list or json",
                        word.split('=').next().unwrap_or(word)
                    ));
                }
                ("--columns", columns) => {
                    let columns: Vec<String> = columns.split(',').map(|c| c.replace('_', "-")).collect();
                    command.columns = columns;
                }
                ("--id", id) => command.id = Some(id.to_owned()),
                ("--oneline", "") => request.oneline = true,
                // Options about OVSDB's server and its log, which do not exist here.
                ("--db" | "--no-wait" | "--retry" | "--no-syslog" | "--verbose" | "-v", _) => {}
                _ if word.starts_with("-t") && word.len() > 2 => request.timeout = timeout(&word[2..])?,
                _ if word.starts_with("-v") => {}
                _ => return Err(format!("unrecognized option '{word}'")),
            }
        }
        if command.words.is_empty() {
            columns_of_all.append(&mut command.columns);
        } else {
            request.commands.push(command);
        }
    }
    for command in request.commands.iter_mut().filter(|command| command.columns.is_empty()) {
        command.columns.clone_from(&columns_of_all);
    }
    if request.commands.is_empty() {
        return Err("missing command name (use --help for help)".to_owned());
    }
    Ok(Asked::Commands(request))
}

fn timeout(text: &str) -> Result<f64, String> {
    let given: f64 =
        text.parse().ok().filter(|s| (0.0..=600.0).contains(s)).ok_or("--timeout is a number of seconds")?;
    // At 0, OVS waits forever.
    Ok(if given == 0.0 { 600.0 } else { given })
}

/// A setting `column[:key]=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The column, written with dashes.
    pub column: String,
    /// The key, where the column is a map.
    pub key: Option<String>,
    /// The value, without its quotes.
    pub value: String,
}

/// Parses a setting; `None` for any other word.
#[must_use]
pub fn setting(word: &str) -> Option<Setting> {
    let (left, value) = word.split_once('=')?;
    let value = unquoted(value).to_owned();
    let (column, key) = match left.split_once(':') {
        Some((column, key)) => (column, Some(unquoted(key).to_owned())),
        None => (left, None),
    };
    // Callers use both spellings.
    Some(Setting { column: column.replace('_', "-"), key, value })
}

/// A word without surrounding quotes.
#[must_use]
pub fn unquoted(word: &str) -> &str {
    word.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_libvirt_says_is_understood() {
        let request = |words: &[String]| match request(words) {
            Ok(Asked::Commands(request)) => Ok(request),
            Ok(other) => Err(format!("{other:?}")),
            Err(why) => Err(why),
        };
        let r = request(&words(
            "--timeout=5 -- --may-exist add-port br t0 tag=42 -- set Interface t0 external-ids:attached-mac=\"a\"",
        ))
        .expect("libvirt's own words");
        assert_eq!(r.commands.len(), 2);
        assert!(r.commands[0].lenient && !r.commands[1].lenient);
        assert_eq!(r.commands[0].words, ["add-port", "br", "t0", "tag=42"]);
        let r = request(&words("--timeout=5 --no-heading --columns=_uuid --if-exists list port t0 qos"))
            .expect("too");
        assert!(r.commands[0].lenient && r.commands[0].columns == ["-uuid"]);
        let r = request(&words("set port t0 qos=@q -- --id=@q create qos type=linux-htb")).expect("too");
        assert_eq!(r.commands[1].id.as_deref(), Some("@q"));
        let set = |column: &str, key: Option<&str>, value: &str| {
            Some(Setting { column: column.into(), key: key.map(str::to_owned), value: value.into() })
        };
        assert_eq!(setting("external_ids:iface-id=\"x\""), set("external-ids", Some("iface-id"), "x"));
        assert_eq!(setting("qos=@q"), set("qos", None, "@q"));
        let r = request(&words("-t 7 --oneline --format=json --data=json --columns=a_b,c -- list Bridge x"))
            .expect("too");
        assert!(r.timeout == 7.0 && r.oneline && r.json && r.format == Format::Json);
        assert_eq!(r.commands[0].columns, ["a-b", "c"]);
        for wrong in
            ["", "--frob add-br x", "--timeout=x list-br", "--format=csv list-br", "--version", "-h list-br"]
        {
            assert!(request(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
