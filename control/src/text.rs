//! What people write, made safe to keep and show.

use unicode_normalization::UnicodeNormalization as _;

/// NFC, without control characters, trimmed. `None` if nothing is left.
pub fn plain(text: &str) -> Option<String> {
    let text: String = text.nfc().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
