//! `ivctl drops`.

use ctl::api::DropRow;

use crate::client::Client;
use crate::output::{Failure, Printer, Table};
use crate::{Object, list};

/// Which drops.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only of this port
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Show the last frame dropped for each reason
    #[arg(short, long)]
    samples: bool,
}

/// Shows them.
pub fn run(args: &Args, client: &mut Client, printer: &Printer) -> Result<u8, Failure> {
    let which = Object::default().put("port", args.port.as_ref()).value();
    list(client, printer, "drops", which, |rows| table(rows, args.samples))
}

/// The table of drops.
pub fn table(rows: &[DropRow], samples: bool) -> Table {
    let mut heads = vec!["PORT", "REASON", ">COUNT", "MEANING"];
    if samples {
        heads.insert(3, "LAST FRAME");
    }
    let mut table = Table::new(&heads);
    for r in rows {
        let [port, reason, count, help] =
            [r.port.clone(), r.reason.clone(), r.count.to_string(), r.help.clone()];
        if samples {
            let sample =
                r.sample.as_ref().map(|s| format!("{} ({} bytes)", s.bytes, s.len)).unwrap_or_default();
            table.row([port, reason, count, sample, help]);
        } else {
            table.row([port, reason, count, help]);
        }
    }
    table
}
