//! `ivctl`: the operator's command.
fn main() {}
