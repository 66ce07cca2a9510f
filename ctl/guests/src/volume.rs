//! `ivctl volume`: disks for guests, in libvirt's storage pools (N-11, N-12, N-13).

use std::fs;
use std::path::Path;
use std::process::Command;

use ctl::cli::{Failure, Table};
use ctl::guest::domain::{PoolSource, disks_of, pool as pool_xml, volume as volume_xml};
use ctl::guest::quantity::size_text;
use ctl::guest::verbs::{DiskSource, DiskWish, Filesystem, POOL, PoolVerb, VolumeVerb};
use ctl::guest::xml::Element;
use ctl::guest::{Format, check_name, check_path};
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

use crate::create::refused;
use crate::storage::{find, find_pool, path_and_format, path_of};
use crate::{Here, devices, libvirt};

/// The largest volume, in bytes.
const SIZE_MAX: u64 = 64 << 40;

/// Runs a verb.
pub fn run(here: &Here<'_>, verb: VolumeVerb) -> Result<u8, Failure> {
    let connection = libvirt::connect(here.uri)?;
    let c = &connection;
    match verb {
        VolumeVerb::List { pool } => list(here, c, pool.as_deref()),
        VolumeVerb::Create { name, size, pool, format, fs } => {
            create(here, c, &name, size, &pool, format, fs)
        }
        VolumeVerb::Resize { name, size, pool } => resize(c, &name, size, &pool),
        VolumeVerb::Snapshot { name, snapshot, pool } => snapshot_of(c, &name, &snapshot, &pool),
        VolumeVerb::Attach { name, guest, pool, readonly } => {
            let domain = libvirt::find(c, &guest)?;
            libvirt::our_claims(&domain, &guest)?;
            let wish = DiskWish { source: DiskSource::Volume(pool, name), readonly, format: None };
            devices::attach_disk(c, &domain, &guest, &wish).map(|()| 0)
        }
        VolumeVerb::Detach { name, guest, pool } => {
            let domain = libvirt::find(c, &guest)?;
            libvirt::our_claims(&domain, &guest)?;
            let (path, _) = path_and_format(c, &pool, &name)?;
            let is = |_: &str, file: &str| Path::new(file) == path;
            devices::detach_disk(&domain, &guest, &is, &format!("volume {name}")).map(|()| 0)
        }
        VolumeVerb::Delete { name, pool, if_exists } => match find(c, &pool, &name) {
            Err(e) if e.code == 3 && if_exists => Ok(0),
            Err(e) => Err(e),
            Ok(volume) => {
                let what = format!("volume {name} is not deleted");
                let path = path_of(&volume)?;
                if let Some((guest, _, _)) = users(c, &path)?.first() {
                    return Err(Failure::new(4, what, format!("guest {guest} uses it"), "detach it first"));
                }
                volume.delete(0).map(|()| 0).map_err(libvirt::failed(what))
            }
        },
        VolumeVerb::Pool { verb } => pools(here, c, verb),
    }
}

/// The guests that use this file as a disk: name, name of the disk there, whether they run.
fn users(connection: &Connect, path: &Path) -> Result<Vec<(String, String, bool)>, Failure> {
    let what = "guests cannot be read";
    let mut users = Vec::new();
    for domain in connection.list_all_domains(0).map_err(libvirt::failed(what))? {
        let runs = libvirt::is_active(&domain)?;
        let mut disks = disks_of(&libvirt::xml(&domain, true)?);
        if runs {
            disks.extend(disks_of(&libvirt::xml(&domain, false)?));
        }
        if let Some((target, ..)) = disks.into_iter().find(|(_, file, _)| Path::new(file) == path) {
            users.push((domain.get_name().map_err(libvirt::failed(what))?, target, runs));
        }
    }
    Ok(users)
}

fn list(here: &Here<'_>, connection: &Connect, only: Option<&str>) -> Result<u8, Failure> {
    let what = "volumes cannot be listed";
    let pools = match only {
        Some(name) => vec![find_pool(connection, name)?],
        None => connection
            .list_all_storage_pools(sys::VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            .map_err(libvirt::failed(what))?,
    };
    let mut rows = Vec::new();
    for pool in pools {
        let name = pool.get_name().map_err(libvirt::failed(what))?;
        // Show files that other programs put into the directory, too.
        pool.refresh(0).map_err(libvirt::failed(what))?;
        for volume in pool.list_all_volumes(0).map_err(libvirt::failed(what))? {
            let info = volume.get_info().map_err(libvirt::failed(what))?;
            let path = path_of(&volume)?;
            let guests: Vec<String> = users(connection, &path)?.into_iter().map(|(name, ..)| name).collect();
            rows.push(json!({
                "name": volume.get_name().map_err(libvirt::failed(what))?, "pool": name, "path": path,
                "size": info.capacity, "used": info.allocation, "guests": guests,
            }));
        }
    }
    here.printer.rows(&rows, |rows| {
        let mut table = Table::new(&["VOLUME", "POOL", ">SIZE", ">USED", "GUESTS", "PATH"]);
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let size = |row: &Value, key: &str| size_text(row[key].as_u64().unwrap_or(0));
        for r in rows {
            let guests: Vec<_> =
                r["guests"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            table.row([
                text(r, "name"),
                text(r, "pool"),
                size(r, "size"),
                size(r, "used"),
                guests.join(", "),
                text(r, "path"),
            ]);
        }
        table
    })?;
    Ok(0)
}

fn create(
    here: &Here<'_>,
    connection: &Connect,
    name: &str,
    size: u64,
    pool: &str,
    format: Format,
    filesystem: Option<Filesystem>,
) -> Result<u8, Failure> {
    let what = format!("volume {name} is not created");
    check_name(name).map_err(refused(&what))?;
    if !(512..=SIZE_MAX).contains(&size) {
        return Err(Failure::new(
            2,
            what,
            format!("{size} bytes are not possible"),
            "write 512 bytes to 64T",
        ));
    }
    let of = match find_pool(connection, pool) {
        // The first volume needs a pool, and a fresh host has none.
        Err(e) if e.code == 3 && pool == POOL && here.uri.ends_with("/system") => {
            add_pool(connection, POOL, &PoolSource::Directory, Path::new("/var/lib/libvirt/images"))?
        }
        other => other?,
    };
    let xml = volume_xml(name, size, format).write();
    let volume = StorageVol::create_xml(&of, &xml, 0).map_err(libvirt::failed(&what))?;
    if let Some(filesystem) = filesystem
        && let Err(failure) =
            path_of(&volume).and_then(|path| put_filesystem(&path, format, size, filesystem, &what))
    {
        let left = volume.delete(0).is_err();
        return Err(if left { failure.noting("and the volume is left behind") } else { failure });
    }
    here.printer.json_if_asked(&json!({ "name": name, "path": path_of(&volume)? }))?;
    Ok(0)
}

/// Creates a filesystem on a volume of this host: directly, or through a sparse file that is then converted.
fn put_filesystem(
    path: &Path,
    format: Format,
    size: u64,
    filesystem: Filesystem,
    what: &str,
) -> Result<(), Failure> {
    let (program, flags, package): (_, &[&str], _) = match filesystem {
        Filesystem::Ext4 => ("mkfs.ext4", &["-q", "-F"], "e2fsprogs"),
        Filesystem::Xfs => ("mkfs.xfs", &["-q", "-f"], "xfsprogs"),
        Filesystem::Vfat => ("mkfs.vfat", &[], "dosfstools"),
    };
    let failed = |why: String, how: String| Failure::new(1, what, why, how);
    if !path.exists() {
        let how = "create it without --fs, and let a guest create the filesystem";
        return Err(failed(format!("{} is not on this host", path.display()), how.to_owned()));
    }
    let run = |command: &mut Command, package: &str| {
        let output = command.output().map_err(|e| {
            let program = command.get_program().display().to_string();
            failed(format!("{program} cannot be run: {e}"), format!("`apt-get install {package}`"))
        })?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let how = || "is the volume large enough for it?".to_owned();
        if output.status.success() { Ok(()) } else { Err(failed(said, how())) }
    };
    if format == Format::Raw {
        return run(Command::new(program).args(flags).arg(path), package);
    }
    let raw = path.with_extension("ivctl-mkfs");
    let made = fs::File::create(&raw).and_then(|file| file.set_len(size));
    let result = made
        .map_err(|e| failed(format!("{}: {e}", raw.display()), "is the disk full?".to_owned()))
        .and_then(|()| run(Command::new(program).args(flags).arg(&raw), package))
        .and_then(|()| {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(path);
            run(&mut convert, "qemu-utils")
        });
    let _ = fs::remove_file(&raw);
    result
}

fn resize(connection: &Connect, name: &str, size: u64, pool: &str) -> Result<u8, Failure> {
    let volume = find(connection, pool, name)?;
    let what = format!("volume {name} is not resized");
    let now = volume.get_info().map_err(libvirt::failed(&what))?.capacity;
    if size < now {
        let why = format!("it has {}, and data beyond the new end would be lost", size_text(now));
        return Err(Failure::new(2, what, why, "create a smaller volume and copy the data"));
    }
    if size > SIZE_MAX {
        return Err(Failure::new(2, what, format!("{size} bytes are not possible"), "the maximum is 64T"));
    }
    let path = path_of(&volume)?;
    for (guest, target, runs) in users(connection, &path)? {
        if runs {
            // The guest has the volume open, so only its QEMU may change it.
            let domain = libvirt::find(connection, &guest)?;
            domain
                .block_resize(&target, size, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                .map_err(libvirt::failed(what))?;
            return Ok(0);
        }
    }
    volume.resize(size, 0).map(|_| 0).map_err(libvirt::failed(what))
}

fn snapshot_of(connection: &Connect, name: &str, snapshot: &str, pool: &str) -> Result<u8, Failure> {
    let what = format!("volume {name} is not copied");
    check_name(snapshot).map_err(refused(&what))?;
    let copy = format!("{name}@{snapshot}");
    check_name(&copy).map_err(refused(&what))?;
    let volume = find(connection, pool, name)?;
    let (path, format) = path_and_format(connection, pool, name)?;
    if let Some((guest, ..)) = users(connection, &path)?.iter().find(|(_, _, runs)| *runs) {
        let how = format!("stop it, or keep the guest as a whole: `ivctl guest snapshot {guest} {snapshot}`");
        return Err(Failure::new(
            4,
            what,
            format!("guest {guest} runs on it, and the copy would be inconsistent"),
            how,
        ));
    }
    let size = volume.get_info().map_err(libvirt::failed(&what))?.capacity;
    let of = find_pool(connection, pool)?;
    let xml = volume_xml(&copy, size, format).write();
    StorageVol::create_xml_from(&of, &xml, &volume, 0).map(|_| 0).map_err(libvirt::failed(what))
}

fn pools(here: &Here<'_>, connection: &Connect, verb: PoolVerb) -> Result<u8, Failure> {
    match verb {
        PoolVerb::List => {
            let what = "pools cannot be listed";
            let mut rows = Vec::new();
            for pool in connection.list_all_storage_pools(0).map_err(libvirt::failed(what))? {
                let info = pool.get_info().map_err(libvirt::failed(what))?;
                let xml = pool.get_xml_desc(0).map_err(libvirt::failed(what))?;
                let xml = Element::read(&xml).map_err(|e| Failure::new(1, what, e, "please report it"))?;
                rows.push(json!({
                    "name": xml.text_of("name"), "kind": xml.get("type"), "path": xml.text_of("target/path"),
                    "active": pool.is_active().unwrap_or(false), "size": info.capacity, "free": info.available,
                }));
            }
            here.printer.rows(&rows, |rows| {
                let mut table = Table::new(&["POOL", "KIND", "ACTIVE", ">SIZE", ">FREE", "PATH"]);
                let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
                for r in rows {
                    let active = if r["active"] == true { "yes" } else { "no" };
                    let size = |key: &str| size_text(r[key].as_u64().unwrap_or(0));
                    table.row([
                        text(r, "name"),
                        text(r, "kind"),
                        active.to_owned(),
                        size("size"),
                        size("free"),
                        text(r, "path"),
                    ]);
                }
                table
            })?;
            Ok(0)
        }
        PoolVerb::Add { name, dir, nfs, may_exist } => {
            let what = format!("pool {name} is not added");
            check_name(&name).map_err(refused(&what))?;
            check_path(&dir).map_err(refused(&what))?;
            if find_pool(connection, &name).is_ok() {
                let how = "use another name";
                let exists = || Failure::new(4, what, "there is a pool of that name", how);
                return if may_exist { Ok(0) } else { Err(exists()) };
            }
            let source = nfs.map_or(PoolSource::Directory, |(host, path)| PoolSource::Nfs(host, path));
            add_pool(connection, &name, &source, &dir).map(|_| 0)
        }
        PoolVerb::Del { name, if_exists } => {
            let pool = match find_pool(connection, &name) {
                Err(e) if e.code == 3 && if_exists => return Ok(0),
                Err(e) if e.code == 3 => {
                    let what = format!("there is no pool {name}");
                    let how = "see `ivctl volume pool list`";
                    return Err(Failure::new(3, what, "libvirt has no object of that name", how));
                }
                other => other?,
            };
            let what = format!("pool {name} is not deleted");
            if pool.is_active().unwrap_or(false) {
                pool.destroy().map_err(libvirt::failed(&what))?;
            }
            pool.undefine().map(|()| 0).map_err(libvirt::failed(what))
        }
    }
}

/// Defines a pool, creates its directory, and starts it now and whenever libvirt starts. Leaves nothing behind if a
/// step fails.
fn add_pool(
    connection: &Connect,
    name: &str,
    source: &PoolSource,
    dir: &Path,
) -> Result<StoragePool, Failure> {
    let what = format!("pool {name} is not added");
    let xml = pool_xml(name, source, dir).write();
    let pool = StoragePool::define_xml(connection, &xml, 0).map_err(libvirt::failed(&what))?;
    let started = pool.build(0).and_then(|_| pool.create(0)).and_then(|_| pool.set_autostart(true));
    if let Err(e) = started {
        let failure = libvirt::failed(what)(e);
        let _ = pool.destroy();
        let left = pool.undefine().is_err();
        return Err(if left { failure.noting("and its definition is left behind") } else { failure });
    }
    Ok(pool)
}
