//! Calendar arithmetic of the clock: seconds since 1970 and the clock's time registers.

/// A moment as the clock shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Full year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 1 (Sunday) to 7.
    pub weekday: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Months and days out of range count
/// on from their place.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March put the leap day last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9).rem_euclid(12)) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Moment {
    /// The moment `seconds` after 1970-01-01 00:00:00.
    pub fn from_seconds(seconds: i64) -> Self {
        let day = seconds.div_euclid(86_400);
        let rest = seconds.rem_euclid(86_400);
        let shifted = day + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            weekday: ((day + 4).rem_euclid(7) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01 00:00:00.
    pub fn to_seconds(self) -> i64 {
        let day = days(self.year, self.month.clamp(1, 12).into(), self.day.into());
        let hour = i64::from(self.hour);
        day * 86_400 + hour * 3600 + i64::from(self.minute) * 60 + i64::from(self.second)
    }
}

/// To two decimal digits.
pub fn to_bcd(value: u8) -> u8 {
    (value / 10 % 10) << 4 | (value % 10)
}

/// From two decimal digits; digits above 9 count as they are.
pub fn from_bcd(value: u8) -> u8 {
    (value >> 4).wrapping_mul(10).wrapping_add(value & 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_convert_both_ways() {
        for (seconds, date) in [
            (0, (1970, 1, 1, 5)),
            (951_782_400, (2000, 2, 29, 3)),
            (1_709_208_000, (2024, 2, 29, 5)),
            (4_102_444_800, (2100, 1, 1, 6)),
            (-1, (1969, 12, 31, 4)),
        ] {
            let m = Moment::from_seconds(seconds);
            assert_eq!((m.year, m.month, m.day, m.weekday), date);
            assert_eq!(m.to_seconds(), seconds);
        }
        for day in -40_000..60_000 {
            assert_eq!(
                Moment::from_seconds(day * 86_400 + 7).to_seconds(),
                day * 86_400 + 7
            );
        }
    }

    #[test]
    fn decimal_digits() {
        assert_eq!(
            (to_bcd(59), from_bcd(0x59), from_bcd(0xff)),
            (0x59, 59, 165)
        );
    }
}
