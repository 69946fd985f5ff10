//! How many commits were acknowledged, in a file beside sled's.
//!
//! Where sled finds a damaged record it silently takes it for the end of its log, and everything after it is gone.
//! The witness is written after each commit; a store that knows fewer commits than its witness has lost some.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Apart, so that a torn write of one number leaves the one before.
const SLOTS: [u64; 2] = [0, 4096];
const NUMBER: usize = 8;
const CHECKSUM: usize = 8;

/// The file.
pub(super) struct Witness {
    file: File,
}

impl Witness {
    /// Opens the file or makes an empty one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        Ok(Self { file: options.open(path)? })
    }

    /// The number that was written last; `None` where none ever was.
    pub(super) fn read(&self) -> io::Result<Option<u64>> {
        if self.file.metadata()?.len() == 0 {
            return Ok(None);
        }
        let numbers: Vec<u64> = SLOTS
            .iter()
            .map(|at| self.slot(*at))
            .collect::<io::Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, "neither of its two numbers has its checksum");
        numbers.into_iter().max().map(Some).ok_or_else(damaged)
    }

    /// Writes a number and makes it durable.
    pub(super) fn write(&self, number: u64) -> io::Result<()> {
        let [even, odd] = SLOTS;
        self.file.write_all_at(&sealed(number), if number.is_multiple_of(2) { even } else { odd })?;
        self.file.sync_data()
    }

    fn slot(&self, at: u64) -> io::Result<Option<u64>> {
        let mut bytes = [0; NUMBER + CHECKSUM];
        match self.file.read_exact_at(&mut bytes, at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let number = bytes.first_chunk().copied().map_or(0, u64::from_be_bytes);
        Ok((bytes == sealed(number)).then_some(number))
    }
}

fn sealed(number: u64) -> [u8; NUMBER + CHECKSUM] {
    let mut bytes = [0; NUMBER + CHECKSUM];
    let checksum = Sha256::digest(number.to_be_bytes());
    for (place, byte) in bytes.iter_mut().zip(number.to_be_bytes().into_iter().chain(checksum)) {
        *place = byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_is_read_back_and_a_torn_write_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let witness = Witness::open(&folder.path().join("witness")).unwrap();
        assert_eq!(witness.read().unwrap(), None);
        for number in 0..5 {
            witness.write(number).unwrap();
            assert_eq!(witness.read().unwrap(), Some(number));
        }
        witness.file.write_all_at(&[0xff; 5], SLOTS[0]).unwrap();
        assert_eq!(witness.read().unwrap(), Some(3));
        witness.file.write_all_at(&[0xff; 5], SLOTS[1]).unwrap();
        assert_eq!(witness.read().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
