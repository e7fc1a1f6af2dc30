//! Code page 437, the character set of the VGA's fonts.

const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";

/// The character of `code`; NUL and 0xFF show as blanks.
pub fn to_char(code: u8) -> char {
    let pick = |table: &str, n: u8| table.chars().nth(n.into()).unwrap_or(' ');
    match code {
        0x00..=0x1f => pick(LOW, code),
        0x20..=0x7e => code.into(),
        _ => pick(HIGH, code - 0x7f),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_complete() {
        assert_eq!(LOW.chars().count(), 32);
        assert_eq!(HIGH.chars().count(), 129);
        assert_eq!(
            (to_char(b'A'), to_char(0xc9), to_char(0xfe)),
            ('A', '╔', '■')
        );
    }
}
