//! Whether the metadata in a WebP file are whole: its decoder takes the memory that a header claims before it reads.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes before the first chunk: `RIFF`, a length, `WEBP`.
const HEADER: u64 = 12;

/// Whether no EXIF block of `source`, a file of any kind, claims to go on behind its end. Leaves the position at the start.
///
/// # Errors
/// Those of `source`.
pub(super) fn is_whole(source: &mut (impl Read + Seek)) -> io::Result<bool> {
    let end = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let mut start = [0; HEADER as usize];
    let is_webp =
        end > HEADER && source.read_exact(&mut start).is_ok() && start.starts_with(b"RIFF") && start.ends_with(b"WEBP");
    let mut position = HEADER;
    let mut is_whole = true;
    while is_webp && position + 8 <= end {
        let mut chunk = [0; 8];
        source.seek(SeekFrom::Start(position))?;
        source.read_exact(&mut chunk)?;
        let length = chunk.last_chunk::<4>().map_or(0, |length| u64::from(u32::from_le_bytes(*length)));
        position += 8 + length;
        is_whole &= !chunk.starts_with(b"EXIF") || position <= end;
        // Chunks begin at even places.
        position += length % 2;
    }
    source.rewind()?;
    Ok(is_whole)
}
