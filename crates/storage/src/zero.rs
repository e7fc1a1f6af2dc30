//! Are these bytes all zero? Asked for every block of every conversion, so it compares pages.

const PAGE: [u8; 4096] = [0; 4096];

/// True when every byte of `data` is zero (and for an empty slice).
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(PAGE.len()).all(|chunk| PAGE.starts_with(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_byte_is_found_wherever_it_is() {
        for len in [0, 1, 4095, 4096, 4097, 10_000] {
            let mut data = vec![0u8; len];
            assert!(is_zero(&data));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if at < len {
                    data[at] = 1;
                    assert!(!is_zero(&data), "len {len}, byte {at}");
                    data[at] = 0;
                }
            }
        }
    }
}
