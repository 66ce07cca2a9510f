//! Any text as a configuration: refused with reasons or accepted, without a panic; an accepted one is the
//! same after it is printed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| match ctl::model::parse(text) {
    Ok(config) => {
        let printed = ctl::model::print(&config);
        let again = ctl::model::parse(&printed).unwrap_or_else(|e| panic!("{e:?}\n{printed}"));
        assert_eq!(config, again);
        let rewritten = ctl::model::parse(&ctl::model::rewrite(text, &config)).expect("its own text");
        assert_eq!(config, rewritten);
    }
    Err(errors) => assert!(!errors.is_empty()),
});
