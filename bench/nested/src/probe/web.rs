//! A web server with a small database behind it, and users who send it requests, as in Nested Cloud's measurement.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::json;

const PORT: u16 = 8080;
const ITEMS: TableDefinition<'_, u64, &str> = TableDefinition::new("items");
const VISITS: TableDefinition<'_, u64, u64> = TableDefinition::new("visits");
/// Rows of the database.
const ROWS: u64 = 1000;
/// Rows on a page.
const PAGE: u64 = 20;
/// The time after which a user gives up a request, and sends the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// Serves pages, until killed. Its database is a file in `/tmp`, made new at each start.
///
/// # Errors
/// When the database or the port is not available.
pub fn serve() -> Result<()> {
    let path = std::env::temp_dir().join(format!("ivbench-web-{}.db", std::process::id()));
    std::fs::remove_file(&path).ok();
    let database = Arc::new(Database::create(&path)?);
    let write = database.begin_write()?;
    {
        let (mut items, mut visits) = (write.open_table(ITEMS)?, write.open_table(VISITS)?);
        for n in 0..ROWS {
            items.insert(n, format!("item {n}: {}", "words ".repeat(10)).as_str())?;
            visits.insert(n, 0)?;
        }
    }
    write.commit()?;
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("ready");
    for stream in listener.incoming().flatten() {
        let database = Arc::clone(&database);
        std::thread::spawn(move || answer(stream, &database));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, database: &Database) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut request, mut line) = (String::new(), String::new());
    reader.read_line(&mut request)?;
    // The headers are read and ignored.
    while reader.read_line(&mut line)? > 0 && line != "\r\n" {
        line.clear();
    }
    let word = request.split(' ').nth(1).unwrap_or("/");
    let wanted = word.trim_start_matches("/item/").parse::<u64>().ok().filter(|n| *n < ROWS);
    let (status, body) = match wanted {
        Some(n) => ("200 OK", page(database, n)?),
        None => ("404 Not Found", "no such item\n".into()),
    };
    write!(
        stream,
        "HTTP/1.0 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}

/// A page of rows; one of ten visits is counted, in a transaction.
fn page(database: &Database, n: u64) -> Result<String> {
    if n.is_multiple_of(10) {
        let mut write = database.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut visits = write.open_table(VISITS)?;
            let count = visits.get(n)?.map_or(0, |count| count.value());
            visits.insert(n, count + 1)?;
        }
        write.commit()?;
    }
    let read = database.begin_read()?;
    let (items, visits) = (read.open_table(ITEMS)?, read.open_table(VISITS)?);
    let mut body = String::from("<html><body><ul>\n");
    for n in (n..n + PAGE).map(|n| n % ROWS) {
        let count = visits.get(n)?.map_or(0, |count| count.value());
        if let Some(text) = items.get(n)? {
            body += &format!("<li>{} ({count} visits)</li>\n", text.value());
        }
    }
    Ok(body + "</ul></body></html>\n")
}

fn get(address: &str, n: u64) -> Result<()> {
    let to = format!("{address}:{PORT}").parse()?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /item/{n} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.0 200") && text.ends_with("</html>\n"), "a broken page");
    Ok(())
}

/// Runs this many users, each requesting one page after another; gives the times of the requests.
///
/// # Errors
/// When no request was answered.
pub fn users(address: &str, count: u64, seconds: f64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let all = Mutex::new((Vec::new(), BTreeMap::<String, u64>::new()));
    std::thread::scope(|scope| {
        for user in 0..count {
            let all = &all;
            scope.spawn(move || {
                let mut n = user * 37;
                while Instant::now() < end {
                    let start = Instant::now();
                    let done = get(address, n % ROWS);
                    n += 7;
                    let mut all = all.lock().expect("no panic holds it");
                    match done {
                        Ok(()) => all.0.push(start.elapsed().as_secs_f64()),
                        Err(why) => *all.1.entry(why.to_string()).or_default() += 1,
                    }
                }
            });
        }
    });
    let (mut took, errors) = all.into_inner().expect("no panic held it");
    ensure!(!took.is_empty(), "no request was answered: {errors:?}");
    took.sort_by(f64::total_cmp);
    let at = |p| bench::stats::percentile(&took, p);
    let mean = took.iter().sum::<f64>() / took.len() as f64;
    println!(
        "{}",
        json!({ "mean": mean, "p80": at(0.8), "p90": at(0.9), "count": took.len(), "errors": errors })
    );
    Ok(())
}
