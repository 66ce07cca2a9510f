//! Any lines from any clients to the agent: each gets an answer or an error, without a panic, and the agent's
//! outputs do not grow without bound.
#![no_main]

use ctl::agent::{Agent, Options};
use ctl::io::{ClientId, Input};
use engine::time::Instant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &str| {
    let mut agent = Agent::new(Instant::ZERO, Options::default()).expect("an empty start");
    for (n, line) in lines.lines().enumerate() {
        agent.handle(Instant::from_millis(n as u64), Input::Request(ClientId(n as u64 % 3), line.into()));
        let mut outputs = 0;
        while agent.poll_output().is_some() {
            outputs += 1;
            assert!(outputs < 10_000, "one request, endless work");
        }
    }
});
