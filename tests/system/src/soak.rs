//! How long a test repeats itself. In the test command each attack and each crash is repeated a few times;
//! `cargo xtask soak` runs the same tests for minutes, and the figures that they print grow with the time.

use std::time::{Duration, Instant};

/// The variable that says for how many seconds `cargo xtask soak` repeats a test.
const SECONDS: &str = "IVS_SOAK_SECONDS";

/// Yields 0, 1, 2, ... `count` times, and under `cargo xtask soak` further until the time is over.
pub fn rounds(count: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var(SECONDS).ok().map_or(0, |text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    (0..).take_while(move |round| *round < count || Instant::now() < until)
}
