//! Neighbor Discovery messages (RFC 4861 §4): their targets and options.
//!
//! ```text
//!  0      1      2          4        8               24
//! +------+------+----------+--------+---------------+------+------+--------------
//! | type | code | checksum | flags  | target (135-7)| kind | len  | option value
//! +------+------+----------+--------+---------------+------+------+--------------
//! ```
//!
//! An option's length counts units of eight bytes, kind and length included (§4.6).

use super::icmp;
use super::ip::Ip;
use super::mac::MacAddr;

/// Offset of the target in a solicitation, advertisement or redirect.
const TARGET_AT: usize = icmp::HEADER_LEN;
/// Length of a target, in bytes.
const TARGET_LEN: usize = 16;
/// Number of bytes in one unit of an option's length.
const UNIT: usize = 8;

/// The target of a solicitation or an advertisement.
#[must_use]
pub fn target(message: &[u8]) -> Option<Ip> {
    Some(Ip::v6(*message.get(TARGET_AT..)?.first_chunk()?))
}

/// The options of a solicitation or an advertisement of either kind. Other messages give an empty list.
#[must_use]
pub fn options(message: &[u8]) -> Options<'_> {
    let at = match message.first() {
        Some(&icmp::ROUTER_SOLICITATION) => icmp::HEADER_LEN,
        Some(&(icmp::NEIGHBOR_SOLICITATION | icmp::NEIGHBOR_ADVERTISEMENT)) => TARGET_AT + TARGET_LEN,
        Some(&icmp::ROUTER_ADVERTISEMENT) => icmp::HEADER_LEN + 8,
        _ => message.len(),
    };
    Options { rest: message.get(at..).unwrap_or_default() }
}

/// The first link-layer address option of this kind, which Linux and FreeBSD use.
#[must_use]
pub fn link_layer(message: &[u8], kind: u8) -> Option<MacAddr> {
    options(message).map_while(Result::ok).find(|option| option.kind == kind)?.mac()
}

/// Iterates over the options of a message. Ends with an error at the first malformed option.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

/// One option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NdOption<'a> {
    /// The option's type.
    pub kind: u8,
    /// The option's value, without kind and length.
    pub value: &'a [u8],
}

/// The list of options ends within an option, or an option has length zero. A receiver then discards the
/// message (§6.1, §7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl NdOption<'_> {
    /// The MAC address in a link-layer address option over Ethernet.
    #[must_use]
    pub fn mac(&self) -> Option<MacAddr> {
        Some(MacAddr(self.value.try_into().ok()?))
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<NdOption<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = core::mem::take(&mut self.rest);
        let (kind, len) = match *rest {
            [] => return None,
            [kind, len, ..] if len > 0 => (kind, usize::from(len) * UNIT),
            _ => return Some(Err(Malformed)),
        };
        let Some((option, after)) = rest.split_at_checked(len) else { return Some(Err(Malformed)) };
        self.rest = after;
        Some(Ok(NdOption { kind, value: &option[2..] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    fn solicitation(options: &[u8]) -> Vec<u8> {
        let mut message = vec![0; TARGET_AT + TARGET_LEN];
        message[0] = icmp::NEIGHBOR_SOLICITATION;
        message[TARGET_AT] = 0xfe;
        message.extend_from_slice(options);
        message
    }

    #[test]
    fn literal() {
        let message = solicitation(&[14, 1, 9, 9, 9, 9, 9, 9, 1, 1, 2, 0, 0, 0, 0, 7]);
        assert_eq!(target(&message), Some(Ip(0xfe << 120)));
        assert_eq!(link_layer(&message, icmp::OPTION_SOURCE_MAC), Some(MacAddr([2, 0, 0, 0, 0, 7])));
        assert_eq!(link_layer(&message, icmp::OPTION_TARGET_MAC), None);
        let kinds: Vec<_> = options(&message).map(|option| option.unwrap().kind).collect();
        assert_eq!(kinds, [14, 1]);
    }

    /// A malformed option is an error, and ends the list.
    #[test]
    fn malformed() {
        for bad in [&[1][..], &[1, 0, 0, 0, 0, 0, 0, 0], &[1, 2, 0, 0, 0, 0, 0, 0], &[1, 1, 0]] {
            let message = solicitation(bad);
            let all: Vec<_> = options(&message).collect();
            assert_eq!(all, [Err(Malformed)], "{bad:?}");
        }
        assert_eq!(target(&[136; 23]), None);
        assert_eq!(options(&[128; 40]).count(), 0, "an echo request has none");
    }
}
