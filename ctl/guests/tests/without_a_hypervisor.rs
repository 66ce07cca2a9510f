//! Error paths against `test:///default`, libvirt's driver that runs nothing and needs no privileges: objects that
//! exist but are not ours, objects that do not exist, and operations that this driver lacks. Every refusal names the
//! object, the cause and the remedy, and has its own exit code.

use std::path::Path;
use std::process::Command;

/// Runs `ivctl-guest` with arguments separated by blanks. Returns the exit code, the output and the errors.
fn ivctl(arguments: &str) -> (i32, String, String) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ivctl-guest"));
    program.args(["--connect", "test:///default", "--socket", "/nonexistent/ivs", "--timeout", "1"]);
    program.env("IVS_SCHEDULE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("schedule"));
    let output = program.args(arguments.split_whitespace()).output().expect("running ivctl-guest");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// N-05, N-10, N-14, N-16: guests that other programs created are shown and left alone, even without a switch. No
/// operation begins that could not be finished.
#[test]
fn n16_what_cannot_be_is_refused_by_name() {
    let (code, shown, said) = ivctl("guest list");
    assert!(code == 8 && shown.contains("test") && shown.contains("running"), "{shown}{said}");
    assert!(said.contains("the switch cannot be reached"), "{said}");
    let (code, shown, said) = ivctl("guest show test --xml");
    assert!(code == 0 && shown.contains("<name>test</name>"), "{shown}{said}");
    let (code, shown, said) = ivctl("host");
    assert!(code == 0 && shown.contains("nesting"), "{shown}{said}");
    let (code, shown, said) = ivctl("volume pool list");
    assert!(code == 0 && shown.contains("default-pool"), "{shown}{said}");

    let refused = [
        // Guests that other programs created.
        (4, "guest delete test --force", "guest test"),
        (4, "guest resize test --vcpus 2", "guest test"),
        (4, "guest attach test --nic private", "guest test"),
        (4, "guest detach test --disk vda", "guest test"),
        (4, "guest snapshot test s1", "guest test"),
        (4, "guest revert test s1", "guest test"),
        (4, "guest quarantine test", "guest test"),
        (4, "guest mirror test --to ids", "guest test"),
        (4, "guest migrate test --to test:///default --to-socket /nonexistent/ivs", "guest test"),
        (4, "volume attach vol test --pool default-pool", "guest test"),
        // Objects that do not exist.
        (3, "guest show nosuch", "guest nosuch"),
        (3, "guest start nosuch", "guest nosuch"),
        (3, "guest stop nosuch", "guest nosuch"),
        (3, "guest reboot nosuch", "guest nosuch"),
        (3, "guest destroy nosuch", "guest nosuch"),
        (3, "guest delete nosuch", "guest nosuch"),
        (3, "guest console nosuch", "guest nosuch"),
        (3, "guest resize nosuch --memory 1G", "guest nosuch"),
        (3, "guest release nosuch", "guest nosuch"),
        (3, "guest schedule del 7", "entry 7"),
        (3, "volume resize vol --size 1G --pool nosuch", "pool nosuch"),
        (3, "volume delete nosuch --pool default-pool", "volume nosuch"),
        (3, "volume snapshot nosuch s1 --pool default-pool", "volume nosuch"),
        (3, "volume pool del nosuch", "pool nosuch"),
        // Requests that make no sense.
        (2, "guest create g1 --kernel /boot/vmlinuz --vcpus 0", "guest g1"),
        (2, "guest create g1", "guest g1"),
        (2, "guest create ../g1 --kernel /boot/vmlinuz", "guest ../g1"),
        (2, "guest create g1 --kernel /boot/vmlinuz --memory 1K", "guest g1"),
        (2, "volume create vol --size 1 --pool default-pool", "volume vol"),
        (2, "guest schedule add tomorrow stop test", "scheduled"),
        (2, "guest schedule add +1h dance test", "scheduled"),
        // The switch cannot be reached.
        (5, "guest create g1 --kernel /boot/vmlinuz --nic private", "/nonexistent/ivs"),
        (5, "guest demo", "/nonexistent/ivs"),
        (5, "guest list --connect qemu:///system?socket=/nonexistent/libvirt", "/nonexistent/libvirt"),
        // Operations that this libvirt driver lacks.
        (1, "guest console test", "guest test"),
    ];
    for (code, arguments, object) in refused {
        let (got, shown, said) = ivctl(arguments);
        assert_eq!(got, code, "{arguments}: {shown}{said}");
        assert!(said.contains(object), "{arguments} does not name {object}: {said}");
        assert!(said.contains("why:") && said.contains("help:"), "{arguments}: {said}");
    }
    // The object is gone already, or already in the desired state.
    for arguments in
        ["guest delete nosuch --if-exists", "volume pool del nosuch --if-exists", "guest start test"]
    {
        let (code, shown, said) = ivctl(arguments);
        assert_eq!(code, 0, "{arguments}: {shown}{said}");
    }
}
