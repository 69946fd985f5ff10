//! The highest fencing token that this node has seen. Durable before anything is done under it, so that a lease that
//! has been passed on can never act here again, whatever is restarted or restored.

use std::io;
use std::sync::Arc;

use camino::Utf8PathBuf;
use liftlock_proto::name::FencingToken;

use crate::disk::Disk;

/// The file and what it says.
pub struct Fence {
    disk: Arc<dyn Disk>,
    path: Utf8PathBuf,
    highest: FencingToken,
}

/// Why a token is not let through.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// An older lease than one that was here already.
    #[error(
        "lease {offered} is older than lease {highest}, which this node has seen: nothing was started. If the \
         coordinator was restored from an old backup, restore a newer one"
    )]
    Stale {
        /// What was offered.
        offered: FencingToken,
        /// What was seen.
        highest: FencingToken,
    },
    /// 0 is no lease's number.
    #[error("0 is not the number of any lease: nothing was started")]
    NoToken,
    /// The file is damaged, so that nobody knows what was seen.
    #[error(
        "the fence {path} does not read (it should hold a number and its checksum): nothing is started until it is \
         put right. The journals beside it name the leases that were here; remove the fence only if none of them is \
         newer than the coordinator's"
    )]
    Damaged {
        /// The file.
        path: Utf8PathBuf,
    },
    /// The disk said no.
    #[error("cannot {doing} the fence {path}: {source}; nothing was started")]
    Io {
        /// `read`, `write`
        doing: &'static str,
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Fence {
    /// Reads what was seen before; a node that never had a lease has no file.
    pub fn open(disk: Arc<dyn Disk>, path: Utf8PathBuf) -> Result<Self, FenceError> {
        let failed = |source| FenceError::Io { doing: "read", path: path.clone(), source };
        let highest = match disk.read(&path).map_err(failed)? {
            None => FencingToken::default(),
            Some(bytes) => decode(&bytes).ok_or_else(|| FenceError::Damaged { path: path.clone() })?,
        };
        Ok(Self { disk, path, highest })
    }

    /// The highest token seen; 0 if none.
    pub fn highest(&self) -> FencingToken {
        self.highest
    }

    /// Lets a token through if none higher was seen. When this returns `Ok` the token is durable.
    pub fn admit(&mut self, token: FencingToken) -> Result<(), FenceError> {
        if token == FencingToken::default() {
            return Err(FenceError::NoToken);
        }
        if token < self.highest {
            return Err(FenceError::Stale { offered: token, highest: self.highest });
        }
        if token > self.highest {
            let failed = |source| FenceError::Io { doing: "write", path: self.path.clone(), source };
            self.disk.replace(&self.path, encode(token).as_bytes()).map_err(failed)?;
            self.highest = token;
        }
        Ok(())
    }
}

/// A fence that says this, for tests that bring one.
#[cfg(any(test, feature = "twin"))]
pub fn written(token: FencingToken) -> String {
    encode(token)
}

/// What a fence says; `None` where it is damaged.
pub(crate) fn read(bytes: &[u8]) -> Option<FencingToken> {
    decode(bytes)
}

/// `17 8f2d…`: readable for people, with a checksum, since a smaller number would let an old lease in.
fn encode(token: FencingToken) -> String {
    let number = token.to_string();
    format!("{number} {:08x}\n", crc32fast::hash(number.as_bytes()))
}

fn decode(bytes: &[u8]) -> Option<FencingToken> {
    let number = std::str::from_utf8(bytes).ok()?.split(' ').next()?;
    let token = FencingToken(number.parse().ok()?);
    (encode(token).as_bytes() == bytes).then_some(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::memory::MemoryDisk;

    const PATH: &str = "/fence";

    fn fence(disk: &MemoryDisk) -> Result<Fence, FenceError> {
        Fence::open(Arc::new(disk.clone()), PATH.into())
    }

    #[test]
    fn a_lower_token_is_refused_also_after_a_restart() {
        let disk = MemoryDisk::default();
        fence(&disk).unwrap().admit(FencingToken(7)).unwrap();
        let mut restarted = fence(&disk).unwrap();
        assert!(matches!(restarted.admit(FencingToken(6)), Err(FenceError::Stale { .. })));
        restarted.admit(FencingToken(7)).unwrap();
        restarted.admit(FencingToken(9)).unwrap();
        assert_eq!(fence(&disk).unwrap().highest(), FencingToken(9));
    }

    #[test]
    fn a_token_that_could_not_be_made_durable_is_not_let_through() {
        let disk = MemoryDisk::default();
        let mut fence = fence(&disk).unwrap();
        disk.limit(Some(3));
        assert!(matches!(fence.admit(FencingToken(7)), Err(FenceError::Io { .. })));
        assert_eq!(fence.highest(), FencingToken(0));
    }

    #[test]
    fn zero_is_no_token() {
        assert!(matches!(
            fence(&MemoryDisk::default()).unwrap().admit(FencingToken(0)),
            Err(FenceError::NoToken)
        ));
    }

    proptest! {
        #[test]
        fn a_fence_with_a_byte_flipped_or_cut_is_refused(
            token in 1..u64::MAX, at in any::<prop::sample::Index>(), flip in 1..=255u8
        ) {
            let whole = encode(FencingToken(token)).into_bytes();
            let at = at.index(whole.len());
            let mut flipped = whole.clone();
            flipped[at] ^= flip;
            for bytes in [&flipped[..], &whole[..at]] {
                let disk = MemoryDisk::default();
                disk.put(PATH.into(), bytes);
                prop_assert!(matches!(fence(&disk), Err(FenceError::Damaged { .. })), "{:?} was believed", bytes);
            }
        }

        #[test]
        fn the_highest_token_never_goes_back(tokens in prop::collection::vec(0..20u64, 0..30)) {
            let disk = MemoryDisk::default();
            let mut highest = 0;
            for token in tokens {
                let mut fence = fence(&disk).unwrap();
                prop_assert_eq!(fence.admit(FencingToken(token)).is_ok(), token > 0 && token >= highest);
                highest = highest.max(token);
                prop_assert_eq!(fence.highest(), FencingToken(highest));
            }
        }
    }
}
