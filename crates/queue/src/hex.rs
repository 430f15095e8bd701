//! Bytes as hexadecimal digits.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits for each byte, in lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from(DIGITS[usize::from(half)]));
        }
    }
    text
}

/// Without a digit more or less than two for each byte; either case.
pub(crate) fn unhex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("`{}` is not hexadecimal", text.chars().take(40).collect::<String>());
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let pair = |place: usize| u8::from_str_radix(&text[place..place + 2], 16).map_err(|_| wrong());
    (0..text.len()).step_by(2).map(pair).collect()
}
