//! The guest's memory, mapped, and the log of our writes to it while it migrates.
//!
//! If another process shrinks a mapped file, access raises SIGBUS, which would end the daemon for all guests.
//! So only files that can never shrink are mapped: memfds with the shrink seal, which QEMU's
//! `memory-backend-memfd` sets.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::SealFlags;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::bitmap::BS;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
    VolatileMemory, VolatileSlice,
};

use crate::{Fault, REGIONS_MAX};

/// Bytes of guest memory per bit of the log (`VHOST_LOG_PAGE`).
const LOG_PAGE: u64 = 4096;

/// The guest's memory.
#[derive(Debug)]
pub struct Memory {
    guest: GuestMemoryMmap,
    /// QEMU's own addresses of the regions, in which it gives ring addresses.
    regions: Vec<Region>,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    guest: u64,
    user: u64,
    len: u64,
}

impl Memory {
    /// Maps these regions, each from its file.
    ///
    /// # Errors
    /// Regions that are too many, empty, overlap or wrap around; files that can shrink, are too short, or
    /// cannot be mapped.
    pub fn map(regions: &[VhostUserMemoryRegion], files: Vec<OwnedFd>) -> Result<Self, Fault> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(Fault::Memory(format!("{} regions; there may be 1 to {REGIONS_MAX}", regions.len())));
        }
        if files.len() != regions.len() {
            return Err(Fault::Memory(format!("{} regions in {} files", regions.len(), files.len())));
        }
        let mut mapped = Vec::new();
        let mut known = Vec::new();
        for (region, file) in regions.iter().zip(files) {
            let (guest, len) = (region.guest_phys_addr, region.memory_size);
            let (user, offset) = (region.user_addr, region.mmap_offset);
            let ends = [guest, user, offset].map(|start| start.checked_add(len));
            if len == 0 || ends.contains(&None) {
                return Err(Fault::Memory(format!("a region of {len} bytes at {guest:#x} wraps around")));
            }
            let mapping = map_file(file, offset, len)?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(guest))
                .ok_or_else(|| Fault::Memory(format!("a region at {guest:#x} wraps around")))?;
            mapped.push(region);
            known.push(Region { guest, user, len });
        }
        mapped.sort_by_key(GuestMemoryRegion::start_addr);
        let guest =
            GuestMemoryMmap::from_regions(mapped).map_err(|error| Fault::Memory(error.to_string()))?;
        Ok(Self { guest, regions: known })
    }

    /// The memory by the guest's own addresses.
    #[must_use]
    pub fn guest(&self) -> &GuestMemoryMmap {
        &self.guest
    }

    /// The guest's address for QEMU's address `user`.
    #[must_use]
    pub fn guest_address(&self, user: u64) -> Option<GuestAddress> {
        let region = self.regions.iter().find(|r| user.checked_sub(r.user).is_some_and(|at| at < r.len))?;
        Some(GuestAddress(region.guest + (user - region.user)))
    }
}

/// Maps part of a file that cannot shrink.
fn map_file(file: OwnedFd, offset: u64, len: u64) -> Result<MmapRegion, Fault> {
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
    if !seals.contains(SealFlags::SHRINK) {
        let why = "its file could shrink while we read it; give the guest memory-backend-memfd (libvirt: \
                   <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>)";
        return Err(Fault::Memory(why.to_owned()));
    }
    let size = rustix::fs::fstat(&file).map_err(|error| Fault::Memory(error.to_string()))?.st_size;
    let end = offset.checked_add(len).filter(|&end| end <= u64::try_from(size).unwrap_or(0));
    let (Some(_), Ok(len)) = (end, usize::try_from(len)) else {
        return Err(Fault::Memory(format!("{len} bytes at {offset:#x} of a file of {size} bytes")));
    };
    MmapRegion::from_file(FileOffset::new(File::from(file), offset), len)
        .map_err(|error| Fault::Memory(format!("{len} bytes at {offset:#x} of its file: {error}")))
}

/// The record, for QEMU, of the pages that we wrote: one bit each.
#[derive(Debug)]
pub struct Log(MmapRegion);

impl Log {
    /// Maps the log.
    ///
    /// # Errors
    /// The errors of [`Memory::map`].
    pub fn map(file: OwnedFd, offset: u64, len: u64) -> Result<Self, Fault> {
        map_file(file, offset, len).map(Self)
    }

    /// Notes a write of `len` bytes at `at`. Pages without a bit are skipped: QEMU chose the log's length.
    pub fn mark(&self, at: GuestAddress, len: usize) {
        if len == 0 {
            return;
        }
        let bits = self.slice();
        let last = at.0.saturating_add(len as u64 - 1) / LOG_PAGE;
        for page in at.0 / LOG_PAGE..=last {
            let Ok(byte) = usize::try_from(page / 8) else { return };
            let Ok(byte) = bits.get_atomic_ref::<AtomicU8>(byte) else { return };
            byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
        }
    }

    fn slice(&self) -> VolatileSlice<'_, BS<'_, ()>> {
        self.0.as_volatile_slice()
    }
}

/// Writes to the guest's memory, and notes the write if there is a log.
///
/// # Errors
/// The address, or some byte behind it, is outside the memory.
pub(crate) fn write(memory: &Memory, log: Option<&Log>, bytes: &[u8], at: GuestAddress) -> Result<(), ()> {
    memory.guest.write_slice(bytes, at).map_err(drop)?;
    if let Some(log) = log {
        log.mark(at, bytes.len());
    }
    Ok(())
}
