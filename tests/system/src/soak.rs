//! How long a test goes on. In the test command each attack and each crash is repeated as often as a test may take;
//! `cargo xtask soak` has the same tests repeat them for minutes, and the figures they print grow with it.

use std::time::{Duration, Instant};

/// The variable that says for how many seconds a test of `cargo xtask soak` goes on.
const SECONDS: &str = "IVS_SOAK_SECONDS";

/// 0, 1, 2, ...: so many, and under `cargo xtask soak` further ones until its time is over.
pub fn rounds(count: u64) -> impl Iterator<Item = u64> {
    let seconds = std::env::var(SECONDS).ok().map_or(0, |text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    (0..).take_while(move |round| *round < count || Instant::now() < until)
}
