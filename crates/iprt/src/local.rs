//! The host's time zone.
#![allow(unsafe_code)] // the C library's conversion

use crate::time::Timestamp;

/// Seconds that local time is east of UTC at `when`; 0 when the C library cannot say.
pub fn seconds_east(when: Timestamp) -> i64 {
    let seconds: libc::time_t = when.unix();
    // SAFETY: all-zero bytes are a valid `tm` (its zone name is a pointer that may be null).
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point to live values; the function is thread safe.
    let done = unsafe { libc::localtime_r(&raw const seconds, &raw mut parts) };
    if done.is_null() { 0 } else { parts.tm_gmtoff }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_less_than_a_day_away() {
        assert!(seconds_east(Timestamp::now()).abs() < 86_400);
        assert_eq!(seconds_east(Timestamp::from_unix(0)) % 60, 0);
    }
}
