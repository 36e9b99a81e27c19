//! Text from elsewhere, made fit for a terminal and a log.

/// The text as it would stand on a screen in the end, without anything that moves the cursor, changes colours, rings or hides: escape
/// sequences are taken out, of a line that was overwritten (`\r`: progress bars) the last state is kept, other control characters are
/// shown as `�`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    // Where the line begins, and whether the cursor went back to there.
    let (mut line, mut back) = (0, false);
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => {
                clean.push('\n');
                (line, back) = (clean.len(), false);
            }
            '\r' => back = true,
            '\u{1b}' => match letters.next() {
                // A control sequence ends with a letter or the like, a string with BEL or ESC \.
                Some('[') => drop(letters.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = letters.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && letters.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some('(' | ')' | '#' | '%' | ' ') => drop(letters.next()),
                _ => {}
            },
            '\u{9b}' => drop(letters.find(|c| ('\u{40}'..='\u{7e}').contains(c))),
            letter => {
                if std::mem::take(&mut back) {
                    clean.truncate(line);
                }
                if letter == '\u{8}' {
                    if clean.len() > line {
                        clean.pop();
                    }
                } else if letter == '\u{7}' {
                    // A bell says nothing.
                } else if (letter.is_control() && letter != '\t') || reorders(letter) {
                    clean.push('\u{fffd}');
                } else {
                    clean.push(letter);
                }
            }
        }
    }
    clean
}

/// Characters that change the order in which others are shown, or hide.
fn reorders(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_is_left() {
        for (raw, clean) in [
            ("plain µm\ttab\nnext", "plain µm\ttab\nnext"),
            ("\repoch 1\repoch 2\u{1b}[2J\u{1b}[31mfailed\u{7}\n", "epoch 2failed\n"),
            ("windows\r\nlines\r\n", "windows\nlines\n"),
            ("10%\r20%\r", "20%"),
            ("\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b", "ab"),
            ("\u{1b}(Bx\u{1b}cy", "xy"),
            ("\u{9b}31mred", "red"),
            ("ab\u{8}c", "ac"),
            ("nul\u{0}del\u{7f}", "nul\u{fffd}del\u{fffd}"),
            ("evil\u{202e}txt", "evil\u{fffd}txt"),
            ("cut \u{1b}[", "cut "),
            ("cut \u{1b}", "cut "),
        ] {
            assert_eq!(printable(raw), clean, "{raw:?}");
        }
    }
}
