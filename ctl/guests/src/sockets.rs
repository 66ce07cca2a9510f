//! The directories of the sockets at which QEMU listens for the switch: QEMU can write to them, and the switch can
//! read them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ctl::model::Port;
use rustix::fs::{Gid, Uid, XattrFlags, chown, setxattr};

/// A directory that belongs to QEMU's user, if libvirt is the system's.
const QEMUS_OWN: &str = "/var/lib/libvirt/qemu";

/// The path of the port's socket, if it differs from the switch's default: the QEMU of a user session may only write
/// to its user's directory.
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

/// Gives the switch access to the sockets in this directory of ours. The switch is root without the right to override
/// permissions, and a user's directories are closed to other users. Access lists keep them closed to everyone but the
/// switch.
fn admit_the_switch(folder: &Path) {
    // Sockets that are created later inherit the default list.
    let _ = setxattr(folder, "system.posix_acl_access", &access_list(0o700, 7), XattrFlags::empty());
    let _ = setxattr(folder, "system.posix_acl_default", &access_list(0o700, 7), XattrFlags::empty());
    for above in folder.ancestors().skip(1) {
        let Ok(now) = fs::metadata(above) else { return };
        let own = now.uid() == rustix::process::geteuid().as_raw();
        if own && now.mode() & 0o001 == 0 {
            // A directory that already has an access list keeps it.
            let list = access_list(now.mode(), 1);
            let _ = setxattr(above, "system.posix_acl_access", &list, XattrFlags::CREATE);
        }
    }
}

/// Encodes an access list for the kernel (`linux/posix_acl_xattr.h`): the permissions of the mode, and these for
/// root.
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

/// Creates the directories of these ports' sockets, in which QEMU listens. If this process may not create them
/// (because libvirt runs on another host), the settings of our package have created them; otherwise QEMU reports the
/// error.
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
            // The switch is in root's group without the right to override permissions, and libvirt lets QEMU's group
            // write.
            let _ = chown(folder, Some(Uid::from_raw(qemu.uid())), Some(Gid::ROOT));
            let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o2770));
        }
    }
}
