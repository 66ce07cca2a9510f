//! The checksum of SCTP (RFC 9260 §3.1): a CRC32c (Appendix A) over the packet, without a pseudo-header.
//!
//! ```text
//!  0           2           4                 8                 12
//! +-----------+-----------+-----------------+-----------------+--------
//! |source port| dest port | verification tag|    checksum     | chunks
//! +-----------+-----------+-----------------+-----------------+--------
//! ```

use crc::{CRC_32_ISCSI, Crc, Table};

/// Protocol number of SCTP in IP.
pub const PROTOCOL: u8 = 132;
/// Length of the common header, in bytes.
pub const HEADER_LEN: usize = 12;
/// Offset of the checksum in the header. It identifies SCTP in a virtio-net header: no other transport has this offset.
pub const CHECKSUM_AT: usize = 8;
/// Length of the checksum, in bytes.
pub const CHECKSUM_LEN: usize = 4;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// Computes the checksum of a packet, in the byte order of the header. The present value of the field does not matter.
///
/// # Panics
/// When the packet is shorter than the common header.
#[must_use]
pub fn checksum(packet: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut digest = CRC32C.digest();
    digest.update(&packet[..CHECKSUM_AT]);
    digest.update(&[0; CHECKSUM_LEN]);
    digest.update(&packet[HEADER_LEN..]);
    // The only little-endian field of the header.
    digest.finalize().to_le_bytes()
}

/// Writes the checksum of a packet.
///
/// # Panics
/// See [`checksum`].
pub fn finish(packet: &mut [u8]) {
    let value = checksum(packet);
    packet[CHECKSUM_AT..HEADER_LEN].copy_from_slice(&value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal() {
        // COOKIE ACK from port 32836 to port 80, as scapy writes it.
        let mut packet = [0x80, 0x44, 0, 80, 0, 0, 0x30, 0x39, 0xff, 0xff, 0xff, 0xff, 11, 0, 0, 4];
        finish(&mut packet);
        assert_eq!(packet[CHECKSUM_AT..HEADER_LEN], [0x2a, 0x3a, 0xb5, 0xe3]);
    }
}
