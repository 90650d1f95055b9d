//! Whether a JPEG file is whole: its decoder fills what is missing with grey and says nothing.

/// Whether the marker that ends the picture is there. Pillow, and so Hugging Face, refuses files without it too.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    // Behind the marker that starts the picture.
    let mut rest = bytes.get(2..).unwrap_or_default();
    // Between a scan's header and the next marker lie coded pixels, in which 0xff comes with a 0 or a restart's number.
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xff | 0xd0..=0xd8);
    while let Some(start) = rest.windows(2).position(is_marker) {
        if rest[start + 1] == 0xd9 {
            return true;
        }
        // Segments may hold pictures of their own, with ends of their own: they are stepped over.
        let segment = &rest[start + 2..];
        let length = segment.first_chunk().map_or(usize::MAX, |length| usize::from(u16::from_be_bytes(*length)));
        rest = segment.get(length..).unwrap_or_default();
    }
    false
}
