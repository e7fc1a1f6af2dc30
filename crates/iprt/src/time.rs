//! UTC time stamps, `YYYY-MM-DDTHH:MM:SSZ`, as settings files and logs write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A UTC time in whole seconds since 1970, proleptic Gregorian, years 0 to 9999 when written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

const DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const MIN: i64 = -62_167_219_200;
const MAX: i64 = 253_402_300_799;

impl Timestamp {
    /// From seconds since 1970, clamped to what four year digits can write.
    pub fn from_unix(seconds: i64) -> Self {
        Self(seconds.clamp(MIN, MAX))
    }

    /// Seconds since 1970.
    pub fn unix(self) -> i64 {
        self.0
    }

    /// The host's present time.
    pub fn now() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self::from_unix(i64::try_from(now.as_secs()).unwrap_or(MAX))
    }

    /// Reads `YYYY-MM-DDTHH:MM:SSZ`, fractions of seconds dropped. The `Z` may be missing.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('Z').unwrap_or(text);
        let (main, fraction) = match text.split_once('.') {
            Some((main, fraction)) => (main, fraction),
            None => (text, ""),
        };
        let b = main.as_bytes();
        let seps = b.len() == 19
            && (b[4], b[7], b[10], b[13], b[16]) == (b'-', b'-', b'T', b':', b':')
            && fraction.bytes().all(|c| c.is_ascii_digit());
        if !seps {
            return None;
        }
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            b[range].iter().try_fold(0i64, |n, c| {
                c.is_ascii_digit().then(|| n * 10 + i64::from(c - b'0'))
            })
        };
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        // 60 is a leap second; it reads as the second after.
        let valid = (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        valid.then(|| {
            Self::from_unix(
                days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second,
            )
        })
    }

    /// Year, month (1-12), day (1-31), hour, minute, second.
    pub fn civil(self) -> (i64, u8, u8, u8, u8, u8) {
        let (days, rest) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        (
            year,
            month,
            day,
            (rest / 3600) as u8,
            (rest / 60 % 60) as u8,
            (rest % 60) as u8,
        )
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (y, mo, d, h, mi, s) = self.civil();
        write!(f, "{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970 of a Gregorian date. The year is shifted to start in March, so that the leap
/// day is its last, and 400-year eras all have 146,097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        // Values from `date -u -d ... +%s`.
        for (text, unix) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2022-06-27T17:12:59Z", 1_656_349_979),
            ("1969-12-31T23:59:59Z", -1),
            ("0000-01-01T00:00:00Z", MIN),
            ("9999-12-31T23:59:59Z", MAX),
        ] {
            assert_eq!(
                Timestamp::parse(text).map(Timestamp::unix),
                Some(unix),
                "{text}"
            );
            assert_eq!(Timestamp::from_unix(unix).to_string(), text);
        }
        assert_eq!(
            Timestamp::parse("2022-06-27T17:12:59.261527000Z")
                .unwrap()
                .unix(),
            1_656_349_979
        );
        for bad in [
            "",
            "2022-06-27",
            "2022-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2022-06-27T24:00:00Z",
            "2022-06-27T17:12:59.xZ",
            "2022-06-27T17:12:+9Z",
        ] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_eight_centuries_round_trips() {
        for day in (MIN / DAY)..(MIN / DAY + 366 * 800) {
            let t = Timestamp::from_unix(day * DAY);
            assert_eq!(Timestamp::parse(&t.to_string()), Some(t));
        }
    }
}
