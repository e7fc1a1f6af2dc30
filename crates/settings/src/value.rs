//! How single values are spelled in attributes.

use iprt::time::Timestamp;
use uuid::Uuid;

/// A value that an attribute can hold.
pub(crate) trait Value: Sized {
    /// Reads it; the error says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
    /// Writes it.
    fn text(&self) -> String;
}

impl Value for String {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("must be true or false".to_owned()),
        }
    }

    fn text(&self) -> String {
        if *self { "true" } else { "false" }.to_owned()
    }
}

macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Value for $type {
            /// Decimal, or hexadecimal after `0x`.
            fn parse(text: &str) -> Result<Self, String> {
                let text = text.trim();
                let (negative, digits) = match text.strip_prefix('-') {
                    Some(rest) => (true, rest),
                    None => (false, text),
                };
                let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
                let (digits, radix) = match hex {
                    Some(rest) => (rest, 16),
                    None => (digits, 10),
                };
                let wide = (!digits.starts_with('+'))
                    .then(|| i128::from_str_radix(digits, radix).ok())
                    .flatten()
                    .filter(|n| *n >= 0);
                wide.and_then(|n| <$type>::try_from(if negative { -n } else { n }).ok()).ok_or_else(
                    || format!("must be a number from {} to {}", <$type>::MIN, <$type>::MAX),
                )
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

numbers!(u16, u32, u64, i64);

impl Value for Uuid {
    fn parse(text: &str) -> Result<Self, String> {
        iprt::uuid::parse(text).ok_or_else(|| "must be a UUID in braces".to_owned())
    }

    fn text(&self) -> String {
        iprt::uuid::braced(self)
    }
}

impl Value for Timestamp {
    fn parse(text: &str) -> Result<Self, String> {
        Timestamp::parse(text).ok_or_else(|| "must look like 2022-06-27T17:12:59Z".to_owned())
    }

    fn text(&self) -> String {
        self.to_string()
    }
}
