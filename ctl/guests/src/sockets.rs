//! Where QEMU listens for the switch: a folder that it may write to and the switch may read.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ctl::model::Port;
use rustix::fs::{Gid, Uid, chown};

/// What belongs to whoever QEMU runs as, where libvirt is the system's.
const QEMUS_OWN: &str = "/var/lib/libvirt/qemu";

/// Where the port's socket is, if not where the switch looks for it by itself: a session's QEMU may only write to its
/// user's folder.
pub fn of(uri: &str, port: &str) -> Option<String> {
    let session = uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"));
    session.then(|| {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
            || PathBuf::from(format!("/run/user/{}", rustix::process::geteuid().as_raw())),
            PathBuf::from,
        );
        runtime.join("ivswitch").join(format!("{port}.sock")).display().to_string()
    })
}

/// Makes the folders of these ports' sockets, for QEMU to listen in. Where that is not for us to do (a libvirt on another
/// host), the package's own settings have done it, and QEMU says if not.
pub fn prepare<'a>(ports: impl IntoIterator<Item = &'a Port>) {
    for port in ports {
        let attached = port.attached_to();
        let Some(folder) =
            Path::new(&attached).parent().filter(|_| port.kind == ctl::model::PortKind::Vhostuser)
        else {
            continue;
        };
        let _ = fs::create_dir_all(folder);
        if folder.starts_with(ctl::model::GUEST_SOCKETS)
            && let Ok(qemu) = fs::metadata(QEMUS_OWN)
            && qemu.uid() != 0
        {
            // The switch has root's group and no right to pass by permissions, and libvirt lets QEMU's group write.
            let _ = chown(folder, Some(Uid::from_raw(qemu.uid())), Some(Gid::ROOT));
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o2770));
        }
    }
}
