//! Times as VirtualBox prints them: UTC, nanoseconds, no library.

/// `2023-02-06T02:18:47.191000000Z` of milliseconds since 1970.
pub fn iso(milliseconds: i64) -> String {
    let (seconds, rest) = (milliseconds.div_euclid(1000), milliseconds.rem_euclid(1000));
    iso_nanos(seconds, rest * 1_000_000)
}

/// As [`iso`], of nanoseconds since 1970.
pub fn iso_of_nanos(nanoseconds: i64) -> String {
    iso_nanos(
        nanoseconds.div_euclid(1_000_000_000),
        nanoseconds.rem_euclid(1_000_000_000),
    )
}

fn iso_nanos(seconds: i64, nanoseconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Year, month and day of a day since 1970 in the Gregorian calendar: years of 146,097 days per
/// 400, counted from March so that the leap day is the last.
fn date(days: i64) -> (i64, i64, i64) {
    let from_0 = days + 719_468;
    let era = from_0.div_euclid(146_097);
    let day_of_era = from_0.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (1_675_649_927_191, "2023-02-06T02:18:47.191000000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000000000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999000000Z"),
            (-1, "1969-12-31T23:59:59.999000000Z"),
        ] {
            assert_eq!(iso(milliseconds), text);
        }
        assert_eq!(
            iso_of_nanos(1_550_641_065_785_000_001),
            "2019-02-20T05:37:45.785000001Z"
        );
    }
}
