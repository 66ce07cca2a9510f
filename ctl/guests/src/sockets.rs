//! Where QEMU listens for the switch: a folder that it may write to and the switch may read.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ctl::model::Port;
use rustix::fs::{Gid, Uid, XattrFlags, chown, setxattr};

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

/// Lets the switch pass to the sockets in this folder of ours: it is root without the right to pass by permissions, and a
/// user's folders are closed to everybody else. By access lists, so that they stay closed to everybody else.
fn admit_the_switch(folder: &Path) {
    // The sockets to come inherit the second.
    let _ = setxattr(folder, "system.posix_acl_access", &access_list(0o700, 7), XattrFlags::empty());
    let _ = setxattr(folder, "system.posix_acl_default", &access_list(0o700, 7), XattrFlags::empty());
    for above in folder.ancestors().skip(1) {
        let Ok(now) = fs::metadata(above) else { return };
        let own = now.uid() == rustix::process::geteuid().as_raw();
        if own && now.mode() & 0o001 == 0 {
            // One that has a list already is somebody's work, and stays.
            let list = access_list(now.mode(), 1);
            let _ = setxattr(above, "system.posix_acl_access", &list, XattrFlags::CREATE);
        }
    }
}

/// A list as the kernel takes it (`linux/posix_acl_xattr.h`): what the mode says, and this for root.
fn access_list(mode: u32, root: u16) -> Vec<u8> {
    let of_mode = |shift: u32| (mode >> shift & 7) as u16;
    let (nobody, group) = (u32::MAX, of_mode(3));
    let entries = [
        (1, of_mode(6), nobody),
        (2, root, 0),
        (4, group, nobody),
        (0x10, group | root, nobody),
        (0x20, of_mode(0), nobody),
    ];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, who) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(rights));
        list.extend(u32::to_le_bytes(who));
    }
    list
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
        if !folder.starts_with(ctl::model::GUEST_SOCKETS) {
            admit_the_switch(folder);
        } else if let Ok(qemu) = fs::metadata(QEMUS_OWN)
            && qemu.uid() != 0
        {
            // The switch has root's group and no right to pass by permissions, and libvirt lets QEMU's group write.
            let _ = chown(folder, Some(Uid::from_raw(qemu.uid())), Some(Gid::ROOT));
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o2770));
        }
    }
}
