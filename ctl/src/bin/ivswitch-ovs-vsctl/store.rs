//! Data that the switch has no place for: small JSON files, one for each port and QoS row, each written completely or
//! not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A row: columns and keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// `qos`, `queue` or `port`.
    pub table: String,
    /// The row's UUID.
    pub uuid: String,
    /// `column` or `column:key`.
    pub values: BTreeMap<String, String>,
}

/// The most rows: a port and two QoS rows for every port that a switch can have.
const ROWS_MAX: usize = 4 * 1024;

/// The directory of rows.
pub struct Store(PathBuf);

impl Store {
    /// Opens the directory next to the control socket, so that two switches never share one.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        Self(
            socket
                .parent()
                .unwrap_or(Path::new("/run/ivswitch"))
                .join(format!("{}.ovs", socket.file_stem().unwrap_or_default().to_string_lossy())),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        // Names come from libvirt's command line; replace every character that could lead out of the directory.
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || "-_".contains(c) {
                c.to_string()
            } else {
                format!("%{:x}", c as u32)
            }
        };
        self.0.join(name.chars().map(safe).collect::<String>() + ".json")
    }

    /// The row with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Row> {
        serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()
    }

    /// Keeps a row under this name.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, name: &str, row: &Row) -> Result<(), String> {
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let path = self.path(name);
            if !path.exists() && fs::read_dir(&self.0)?.count() >= ROWS_MAX {
                return Err(std::io::Error::other(format!("{ROWS_MAX} rows are kept already")));
            }
            let fresh = path.with_extension(format!("{}.new", std::process::id()));
            fs::write(&fresh, serde_json::to_vec(row).expect("plain data"))?;
            fs::rename(fresh, path)
        };
        write().map_err(|e| format!("{}: {e}", self.0.display()))
    }

    /// Removes a row. It is fine if the row does not exist.
    pub fn del(&self, name: &str) {
        let _ = fs::remove_file(self.path(name));
    }

    /// Every row of a table.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Row> {
        let files = fs::read_dir(&self.0).into_iter().flatten().filter_map(|f| Some(f.ok()?.path()));
        let json = files.filter(|p| p.extension().is_some_and(|e| e == "json"));
        let rows = json.filter_map(|p| serde_json::from_slice::<Row>(&fs::read(p).ok()?).ok());
        rows.filter(|row| row.table == table).collect()
    }
}
