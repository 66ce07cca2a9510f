//! Looks up libvirt's storage pools and their volumes.

use std::path::PathBuf;

use ctl::cli::Failure;
use ctl::guest::Format;
use ctl::guest::xml::Element;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use crate::libvirt;

/// The pool with this name.
pub fn find_pool(connection: &Connect, name: &str) -> Result<StoragePool, Failure> {
    StoragePool::lookup_by_name(connection, name).map_err(|e| match e.code() {
        ErrorNumber::NoStoragePool => {
            let how = format!("create it: `ivctl volume pool add {name} --dir /var/lib/libvirt/images`");
            Failure::new(3, format!("there is no pool {name}"), "libvirt has no object of that name", how)
        }
        _ => libvirt::failed(format!("pool {name} cannot be read"))(e),
    })
}

/// The volume with this name.
pub fn find(connection: &Connect, pool: &str, name: &str) -> Result<StorageVol, Failure> {
    let of = find_pool(connection, pool)?;
    StorageVol::lookup_by_name(&of, name).map_err(|e| match e.code() {
        ErrorNumber::NoStorageVolume => {
            let what = format!("there is no volume {name}");
            Failure::new(3, what, format!("pool {pool} has none of that name"), "see `ivctl volume list`")
        }
        _ => libvirt::failed(format!("volume {name} cannot be read"))(e),
    })
}

/// The file of a volume.
pub fn path_of(volume: &StorageVol) -> Result<PathBuf, Failure> {
    volume.get_path().map(PathBuf::from).map_err(libvirt::failed("a volume's path cannot be read"))
}

/// The path and the format of a volume.
pub fn path_and_format(connection: &Connect, pool: &str, name: &str) -> Result<(PathBuf, Format), Failure> {
    let volume = find(connection, pool, name)?;
    let what = "a volume cannot be read";
    let xml = volume.get_xml_desc(0).map_err(libvirt::failed(what))?;
    let xml = Element::read(&xml).map_err(|e| Failure::new(1, what, e, "please report it"))?;
    let qcow2 = xml.first("target/format").and_then(|f| f.get("type")) == Some("qcow2");
    Ok((path_of(&volume)?, if qcow2 { Format::Qcow2 } else { Format::Raw }))
}
