//! A capture of one link in the classic pcap format with nanosecond time stamps, which Wireshark and
//! tcpdump read, and the running hash over every frame of the world.

/// Frames of one link.
#[derive(Clone, Debug)]
pub struct Pcap {
    bytes: Vec<u8>,
    frames: usize,
}

impl Default for Pcap {
    fn default() -> Self {
        let mut bytes = Vec::new();
        for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535 + 512, 1] {
            bytes.extend(word.to_le_bytes());
        }
        Self { bytes, frames: 0 }
    }
}

impl Pcap {
    /// Adds a frame.
    pub fn push(&mut self, now_ns: u64, frame: &[u8]) {
        let len = u32::try_from(frame.len()).expect("a frame is shorter than 4 GiB");
        for word in [(now_ns / 1_000_000_000) as u32, (now_ns % 1_000_000_000) as u32, len, len] {
            self.bytes.extend(word.to_le_bytes());
        }
        self.bytes.extend(frame);
        self.frames += 1;
    }

    /// The bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of frames in the capture.
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.frames
    }
}

/// FNV-1a over everything that happened. Two runs of one seed must give the same hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunHash(pub u64);

impl Default for RunHash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl RunHash {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        // Eight bytes at a time: a frame per microsecond of simulated time goes through here.
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.word(u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
        }
        for &b in chunks.remainder() {
            self.word(u64::from(b));
        }
    }

    /// Adds a word.
    pub fn word(&mut self, w: u64) {
        self.0 = (self.0 ^ w).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_record() {
        let mut p = Pcap::default();
        p.push(1_000_000_002, &[0xaa; 60]);
        assert_eq!(p.bytes().len(), 24 + 16 + 60);
        assert_eq!(&p.bytes()[..4], &0xa1b2_3c4d_u32.to_le_bytes());
        assert_eq!(&p.bytes()[24..32], &[1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(p.frames(), 1);
        let (mut a, mut b) = (RunHash::default(), RunHash::default());
        a.add(&[1, 2, 3]);
        b.add(&[1, 2, 4]);
        assert_ne!(a, b);
    }
}
