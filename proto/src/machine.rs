//! What tells a machine from others. A machine-id is nobody else's business
//! (<https://www.freedesktop.org/software/systemd/man/latest/machine-id.html>: it is to be hashed before it is told), so a
//! hash stands for it.

use sha2::{Digest as _, Sha256};

/// Hashed along, so that the hash tells nothing to whoever has the machine-id hashed by another program.
const WORD: &[u8] = b"liftlock.dev/machine\n";

/// The file that names a machine for as long as its system is installed.
pub const MACHINE_ID: &str = "/etc/machine-id";

/// The mark of the machine with this content of [`MACHINE_ID`], lower-case hexadecimal; `None` where the file names none
/// (it is empty in images and while systemd has not made one, when it says `uninitialized`).
pub fn mark(machine_id: &str) -> Option<String> {
    let id = machine_id.trim();
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| {
        let digest = Sha256::new().chain_update(WORD).chain_update(id.to_ascii_lowercase()).finalize();
        format!("{digest:x}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_machines_apart_and_says_nothing_of_their_ids() {
        let (one, other) = ("0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff");
        let marked = mark(&format!("{one}\n")).unwrap();
        assert_eq!(Some(&marked), mark(one).as_ref());
        assert_ne!(Some(&marked), mark(other).as_ref());
        assert!(!marked.contains(one) && marked.len() == 64);
        assert_eq!([mark(""), mark("uninitialized\n"), mark("0123")], [None, None, None]);
    }
}
