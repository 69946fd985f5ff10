//! How a journal's bytes are cut into records, so that a cut-off write and a damaged one are told apart.
//!
//! A frame is `length`, `CRC32 of offset and length`, `CRC32 of payload` (each 4 bytes, little endian), then the
//! payload. The length has a sum of its own: a damaged length must not make the rest of the file look like a write
//! that was cut off. The offset is in it too, so that a frame proves itself in its own place only.

const HEAD: usize = 12;

/// The largest payload, in bytes. More than any record needs; it bounds what an append can ask of the disk.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;

/// Bytes that are no frame and no cut-off frame either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Where the frame begins, in bytes from the start of the file.
    pub(crate) offset: usize,
    pub(crate) why: &'static str,
}

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// A whole frame; the next one begins at `end`.
    Frame { payload: &'a [u8], end: usize },
    /// An append that was cut off before it was acknowledged, or nothing at all.
    Tail,
}

/// The payload as a frame that will stand at this offset.
pub(crate) fn encode(offset: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend(length);
    frame.extend(head_sum(offset, length).to_le_bytes());
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Reads the frame at an offset.
pub(crate) fn next(file: &[u8], offset: usize) -> Result<Next<'_>, Damage> {
    let rest = file.get(offset..).unwrap_or_default();
    // File systems may make room for an append before its bytes arrive; what was never written reads as zeros.
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(Next::Tail);
    }
    let Some((&[l0, l1, l2, l3, h0, h1, h2, h3, p0, p1, p2, p3], body)) = rest.split_first_chunk::<HEAD>()
    else {
        return Ok(Next::Tail);
    };
    let damage = |why| Err(Damage { offset, why });
    let length = [l0, l1, l2, l3];
    if u32::from_le_bytes([h0, h1, h2, h3]) != head_sum(offset, length) {
        return damage("the checksum of the record's length is wrong");
    }
    let length = u32::from_le_bytes(length) as usize;
    let Some(payload) = body.get(..length) else {
        return Ok(Next::Tail);
    };
    if u32::from_le_bytes([p0, p1, p2, p3]) != crc32fast::hash(payload) {
        return damage("the checksum of the record is wrong");
    }
    Ok(Next::Frame { payload, end: offset + HEAD + length })
}

fn head_sum(offset: usize, length: [u8; 4]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&(offset as u64).to_le_bytes());
    sum.update(&length);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_proves_itself_in_its_own_place_only() {
        let frame = encode(0, b"hello");
        assert_eq!(next(&frame, 0), Ok(Next::Frame { payload: b"hello", end: frame.len() }));
        let twice = [frame.as_slice(), frame.as_slice()].concat();
        assert_eq!(next(&twice, frame.len()).unwrap_err().offset, frame.len());
    }

    #[test]
    fn zeros_after_the_last_frame_are_an_append_that_never_arrived() {
        let mut file = encode(0, b"hello");
        let end = file.len();
        file.resize(end + 4096, 0);
        assert_eq!(next(&file, end), Ok(Next::Tail));
        file.push(b'x');
        assert!(next(&file, end).is_err(), "bytes after zeros were taken for a cut-off append");
    }
}
