//! The client of libvirt: connecting, looking up guests, and errors with what, why and how.

use ctl::cli::Failure;
use ctl::guest::Claims;
use ctl::guest::domain::{NAMESPACE, PREFIX, claims, metadata};
use ctl::guest::xml::Element;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorDomain, ErrorNumber};
use virt_sys as sys;

/// Connects to a libvirt daemon.
pub fn connect(uri: &str) -> Result<Connect, Failure> {
    Connect::open(Some(uri)).map_err(|e| {
        let what = format!("libvirt cannot be reached at {uri}");
        let denied = e.message().contains("ermission denied") || e.code() == ErrorNumber::AuthFailed;
        if denied {
            let how = "run `ivctl` as root or join the group libvirt, or use --connect qemu:///session";
            return Failure::new(6, what, e.message(), how);
        }
        let how = "start it (`systemctl start libvirtd`; on Debian it comes with `apt-get install libvirt-daemon-system \
                   qemu-system-x86`), or name another with --connect";
        Failure::new(5, what, e.message(), how)
    })
}

/// Turns libvirt's error into a failure of the operation `what`.
pub fn failed(what: impl Into<String>) -> impl FnOnce(Error) -> Failure {
    let what = what.into();
    move |e| {
        let (code, how) = match e.code() {
            _ if e.message().contains("available PCI slots") => {
                (1, "it has no free slot while it runs: stop it, do this, and start it again")
            }
            // libvirt has closed its end of the connection.
            _ if e.domain() == ErrorDomain::Rpc && !e.message().contains("unable to connect") => {
                (5, "does libvirtd still run? `systemctl status libvirtd`")
            }
            ErrorNumber::NoDomain
            | ErrorNumber::NoDomainSnapshot
            | ErrorNumber::NoStoragePool
            | ErrorNumber::NoStorageVolume => (3, "the verb list shows what there is"),
            ErrorNumber::DomExist | ErrorNumber::StorageVolExist => {
                (4, "use another name, or delete that one first")
            }
            ErrorNumber::AuthFailed | ErrorNumber::AccessDenied => (6, "run `ivctl` as root"),
            ErrorNumber::OperationTimeout | ErrorNumber::AgentUnresponsive => {
                (7, "the guest did not react; try again, or with more force")
            }
            ErrorNumber::NoSupport | ErrorNumber::OperationUnsupported | ErrorNumber::ConfigUnsupported => {
                (1, "this libvirt, this QEMU or this guest cannot do it")
            }
            ErrorNumber::OperationInvalid => (1, "look at its state with `ivctl guest show`"),
            ErrorNumber::NoConnect | ErrorNumber::SystemError => {
                (1, "look at libvirt's log: `journalctl -u libvirtd`")
            }
            _ => (1, "libvirt's log says more: `journalctl -u libvirtd`"),
        };
        Failure::new(code, what, e.message(), how)
    }
}

/// The guest with this name.
pub fn find(connection: &Connect, name: &str) -> Result<Domain, Failure> {
    Domain::lookup_by_name(connection, name).map_err(|e| match e.code() {
        ErrorNumber::NoDomain => Failure::new(
            3,
            format!("there is no guest {name}"),
            "libvirt has no object of that name",
            "see `ivctl guest list`",
        ),
        _ => failed(format!("guest {name} cannot be read"))(e),
    })
}

/// The guest's XML, as it runs or (`inactive`) as it will be at the next start.
pub fn xml(domain: &Domain, inactive: bool) -> Result<Element, Failure> {
    let flags = if inactive { sys::VIR_DOMAIN_XML_INACTIVE } else { 0 };
    let text = domain.get_xml_desc(flags).map_err(failed("a guest's definition cannot be read"))?;
    Element::read(&text)
        .map_err(|e| Failure::new(1, "libvirt's XML is not understood", e, "please report it"))
}

/// The guest's ports and floating IPs on the switch; `None` for a guest that another program created.
pub fn claims_of(domain: &Domain) -> Result<Option<Claims>, Failure> {
    claims(&xml(domain, true)?).map_err(|e| {
        Failure::new(
            1,
            "a guest's ports are not known",
            e,
            "another version of ivctl-guest may have created it",
        )
    })
}

/// The same for a guest that ivctl must have created; guests of other programs are refused.
pub fn our_claims(domain: &Domain, name: &str) -> Result<Claims, Failure> {
    claims_of(domain)?.ok_or_else(|| {
        let why = "it was not created by ivctl, so its ports are not known here";
        Failure::new(
            4,
            format!("guest {name} is left alone"),
            why,
            "use virsh, or the program that created it",
        )
    })
}

/// Records the guest's ports and floating IPs in its metadata.
pub fn set_claims(domain: &Domain, claims: &Claims) -> Result<(), Failure> {
    let mut flags = sys::VIR_DOMAIN_AFFECT_CONFIG;
    if is_active(domain)? {
        flags |= sys::VIR_DOMAIN_AFFECT_LIVE;
    }
    let mut element = metadata(claims);
    // libvirt adds the prefix and the name space.
    element.name = "guest".to_owned();
    element.attributes.clear();
    let text = element.write();
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    domain
        .set_metadata(kind, Some(&text), Some(PREFIX), Some(NAMESPACE), flags)
        .map(|_| ())
        .map_err(failed("a guest's ports cannot be recorded"))
}

/// Whether the guest runs.
pub fn is_active(domain: &Domain) -> Result<bool, Failure> {
    domain.is_active().map_err(failed("a guest's state cannot be read"))
}

/// The targets of a change: always the definition, and also the guest itself if it runs.
pub fn impact(domain: &Domain) -> Result<u32, Failure> {
    let live = if is_active(domain)? { sys::VIR_DOMAIN_AFFECT_LIVE } else { 0 };
    Ok(sys::VIR_DOMAIN_AFFECT_CONFIG | live)
}
