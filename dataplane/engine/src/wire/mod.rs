//! One protocol per file.
pub mod mac;
