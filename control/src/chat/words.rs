//! What may be written in a chat: text, links, emoji, words that are filtered.

use std::net::Ipv4Addr;

use rustrict::{Censor, Type};
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;
use unicode_properties::UnicodeEmoji as _;
use unicode_segmentation::UnicodeSegmentation as _;

use crate::store::chat::{ChatSettings, WordFilter};
use crate::text;

use super::refusal::{Refusal, RefusalCode};

/// Of a message: a bound on bytes as well, since a character may bring any number of marks.
const TEXT_BYTES_MAX: usize = 2000;

/// Asks for the picture rather than the letter (U+FE0F).
const VARIATION_SELECTOR: char = '\u{fe0f}';

/// Endings that make a word with a dot a link in letters of either case: those of most links, and some short ones that
/// are no words. Others of two letters would hit sentences without a space after the full stop.
const LINK_ENDINGS: [&str; 45] = [
    "com", "net", "org", "io", "co", "me", "tv", "gg", "app", "dev", "info", "xyz", "ru", "cn", "de", "uk", "fr", "ly",
    "link", "site", "shop", "live", "club", "online", "biz", "us", "eu", "top", "store", "ai", "br", "cc", "cf", "ch",
    "cz", "gq", "hu", "jp", "kr", "kz", "nl", "pw", "tk", "ua", "ws",
];

/// Top-level domains that are more often something else: endings of files, and words that begin sentences, whose
/// domains are their owners' alone. They make a link only before a path or a port.
const PLAIN_ENDINGS: [&str; 25] = [
    "cab", "data", "map", "mov", "pub", "zip", "call", "got", "here", "how", "like", "man", "new", "now", "open",
    "pay", "play", "read", "save", "stop", "talk", "weather", "wow", "yes", "you",
];

/// The text as it is kept and sent, by the rules of the chat.
pub(crate) fn checked(text: &str, settings: &ChatSettings) -> Result<String, Refusal> {
    // Before the work of normalising: nothing longer can become acceptable.
    if text.len() > 4 * TEXT_BYTES_MAX {
        return Err(too_long(settings));
    }
    let text = text::plain(text).filter(|text| is_visible(text)).ok_or_else(|| invalid("The message is empty."))?;
    let characters = text.chars().count();
    if text.len() > TEXT_BYTES_MAX || characters > settings.max_length as usize {
        return Err(too_long(settings));
    }
    if settings.emoji_only && !is_emoji_only(&text) {
        return Err(invalid("Only emoji may be sent in this chat."));
    }
    if !settings.links_allowed && has_link(&text) {
        return Err(Refusal::new(RefusalCode::Filtered, "Links may not be sent in this chat."));
    }
    match settings.filter {
        WordFilter::Off => Ok(text),
        WordFilter::Mask => Ok(masked(&text)),
        WordFilter::Reject if is_offensive(&text) => {
            Err(Refusal::new(RefusalCode::Filtered, "The message has words that this chat does not allow."))
        }
        WordFilter::Reject => Ok(text),
    }
}

fn invalid(message: &'static str) -> Refusal {
    Refusal::new(RefusalCode::ValidationFailed, message)
}

fn too_long(settings: &ChatSettings) -> Refusal {
    let message = format!("At most {} characters may be sent.", settings.max_length);
    Refusal::new(RefusalCode::ValidationFailed, message)
}

/// Whether anything can be seen of it: there is more than spaces and characters without a shape.
fn is_visible(text: &str) -> bool {
    text.chars().any(|c| !c.is_whitespace() && !is_shapeless(c))
}

/// Characters that show nothing of themselves: Default_Ignorable_Code_Point (UAX #44) and U+FFF9 to U+FFFB.
fn is_shapeless(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// One emoji of Unicode's list (UTS #51, with and without variation selectors), or a single character that is one: a
/// newer one too, or a skin tone. Sequences beyond the list have no end, and each of them would be counted by itself.
pub(crate) fn is_one_emoji(text: &str) -> bool {
    let mut characters = text.trim_end_matches(VARIATION_SELECTOR).chars();
    let is_single = match (characters.next(), characters.next()) {
        (Some(only), None) => !only.is_ascii() && !is_flag_letter(only) && only.is_emoji_char(),
        _ => false,
    };
    is_single || emojis::get(text).is_some()
}

fn is_flag_letter(c: char) -> bool {
    ('\u{1f1e6}'..='\u{1f1ff}').contains(&c)
}

fn is_emoji_only(text: &str) -> bool {
    text.graphemes(true).all(|grapheme| grapheme.trim().is_empty() || is_emoji(grapheme))
}

fn is_emoji(grapheme: &str) -> bool {
    const KEYCAP: char = '\u{20e3}';
    let is_joiner = |c: char| matches!(c, '\u{200d}' | VARIATION_SELECTOR | KEYCAP | '\u{e0020}'..='\u{e007f}');
    let Some(first) = grapheme.chars().next() else {
        return false;
    };
    if first.is_ascii() {
        return (first.is_ascii_digit() || matches!(first, '#' | '*')) && grapheme.ends_with(KEYCAP);
    }
    if is_flag_letter(first) {
        return grapheme.chars().count() == 2;
    }
    first.is_emoji_char() && grapheme.chars().all(|c| is_joiner(c) || (!c.is_ascii() && c.is_emoji_char()))
}

/// Whether there is what a reader or an app may take for a link: an address with its scheme, one that begins with
/// `www.`, an IPv4 address, and a name with the ending of a top-level domain, whatever stands around it and whatever
/// without a shape stands inside. The text is read as browsers read it: wide letters as plain ones (UTS #46).
///
/// These still pass: what a person has to put together (`evil . com`, `evil dot com`, a letter of another script that
/// looks the same in the ending); names of most countries that nothing follows (`evil.it`; a path or a port gives them
/// away); endings that are written like the beginning of a sentence (`evil.World`) and [`PLAIN_ENDINGS`]; and, without
/// a scheme, IPv6 addresses, numbers that stand for an address (`0x7f.1`) and names without a dot.
fn has_link(text: &str) -> bool {
    let text: String = text.chars().filter(|c| !is_shapeless(*c)).nfkc().filter(|c| !is_shapeless(*c)).collect();
    let text = text.replace('。', ".");
    if text.contains("://") || text.to_lowercase().contains("mailto:") {
        return true;
    }
    let in_host = |c: char| c.is_alphanumeric() || is_combining_mark(c) || matches!(c, '.' | '-' | '_');
    let mut rest = text.as_str();
    while let Some(start) = rest.find(in_host) {
        rest = &rest[start..];
        let (host, after) = rest.split_at(rest.find(|c| !in_host(c)).unwrap_or(rest.len()));
        if is_host(host, is_path_or_port(after)) {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether what follows a word shows that it is a host.
fn is_path_or_port(after: &str) -> bool {
    let mut characters = after.chars();
    match characters.next() {
        Some('/') => characters.next().is_some_and(|c| !c.is_whitespace()),
        Some(':') => characters.next().is_some_and(|c| c.is_ascii_digit()),
        _ => false,
    }
}

fn is_host(word: &str, leads_on: bool) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric() && !is_combining_mark(c));
    if word.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let labels: Vec<&str> = word.split('.').collect();
    let is_www = labels[0].eq_ignore_ascii_case("www") && labels.get(1).is_some_and(|label| !label.is_empty());
    is_www
        || labels.windows(2).enumerate().any(|(n, pair)| {
            let [before, ending] = pair else { return false };
            let next = labels.get(n + 2);
            // A capital letter begins the next sentence.
            let is_last = next.is_none_or(|label| label.starts_with(char::is_uppercase));
            is_last && before.ends_with(char::is_alphanumeric) && is_link_ending(ending, leads_on && next.is_none())
        })
}

fn is_link_ending(ending: &str, leads_on: bool) -> bool {
    // Scripts without spaces go on after a Latin name.
    let ending = match ending.find(|c| c >= '\u{2e80}') {
        Some(end) if ending.starts_with(|c: char| c.is_ascii()) => &ending[..end],
        _ => ending,
    };
    let lower = ending.to_lowercase();
    if LINK_ENDINGS.contains(&lower.as_str()) || lower.starts_with("xn--") {
        return true;
    }
    if !is_top_level_domain(&lower) {
        return false;
    }
    let begins_sentence = ending.starts_with(char::is_uppercase) && ending.chars().skip(1).any(char::is_lowercase);
    let is_short = lower.is_ascii() && lower.len() < 3;
    leads_on || !(begins_sentence || is_short || PLAIN_ENDINGS.contains(&lower.as_str()))
}

/// By the Public Suffix List, which has them all.
fn is_top_level_domain(label: &str) -> bool {
    psl::suffix(label.as_bytes()).is_some_and(|suffix| suffix.is_known())
}

fn masked(text: &str) -> String {
    let (masked, kind) = Censor::from_str(text).censor_and_analyze();
    if kind.is(Type::INAPPROPRIATE) { masked } else { text.to_owned() }
}

fn is_offensive(text: &str) -> bool {
    Censor::from_str(text).analyze().is(Type::INAPPROPRIATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ChatSettings {
        ChatSettings::default()
    }

    fn code(text: &str, settings: &ChatSettings) -> Option<RefusalCode> {
        checked(text, settings).err().map(|refusal| refusal.code)
    }

    #[test]
    fn text_is_trimmed_composed_and_free_of_controls() {
        assert_eq!(checked("  e\u{301}\u{7} ok\u{0} ", &settings()), Ok("\u{e9} ok".into()));
    }

    #[test]
    fn a_message_has_one_to_five_hundred_characters() {
        assert_eq!(code("", &settings()), Some(RefusalCode::ValidationFailed));
        assert_eq!(code(" \u{200b}\u{feff} ", &settings()), Some(RefusalCode::ValidationFailed));
        assert_eq!(code(&"ö".repeat(500), &settings()), None);
        assert_eq!(code(&"ö".repeat(501), &settings()), Some(RefusalCode::ValidationFailed));
        assert_eq!(code(&"a".repeat(16_000), &settings()), Some(RefusalCode::ValidationFailed));
        assert_eq!(code("abc", &ChatSettings { max_length: 2, ..settings() }), Some(RefusalCode::ValidationFailed));
    }

    #[test]
    fn a_message_has_at_most_two_thousand_bytes() {
        assert_eq!(code(&"😀".repeat(500), &settings()), None);
        assert_eq!(code(&"👨‍👩‍👧‍👦".repeat(90), &settings()), Some(RefusalCode::ValidationFailed));
    }

    #[test]
    fn links_are_refused_where_they_are_not_allowed() {
        let strict = ChatSettings { links_allowed: false, ..settings() };
        let plain = ["see https://example.test/x", "www.example", "(example.com)", "evil.RU/path?x", "a.b.link"];
        let disguised =
            ["evil。com", "ｅｖｉｌ．ｃｏｍ", "evil․com", "evil｡com", "evil.xn--p1ai", "1.1.1.1", "mailto:a@b.c"];
        for link in plain.into_iter().chain(disguised) {
            assert_eq!(code(link, &strict), Some(RefusalCode::Filtered), "{link}");
            assert_eq!(code(link, &settings()), None, "{link}");
        }
        for text in ["Wait...what", "nice.Really nice", "3.14", "e.g. this", "com"] {
            assert_eq!(code(text, &strict), None, "{text}");
        }
    }

    #[test]
    fn a_link_is_found_whatever_stands_around_or_inside_of_it() {
        let strict = ChatSettings { links_allowed: false, ..settings() };
        let around = [
            "//evil.com/x",
            "https:/evil.com",
            "https//evil.com",
            "https:evil.com",
            "x/evil.com",
            "#evil.com",
            "\\evil.com",
            "a@evil.com",
            "*evil.com*",
            "a:evil.com",
            "\"evil.com\"",
            "👍evil.com👍",
            "see:evil.com.Then",
            "请看evil.com吧",
            "(www.example)",
            "evil.com:80",
            "evil.com…",
            "\u{a0}evil.com",
        ];
        let inside = [
            "evil\u{200b}.com",
            "\u{200b}evil.com",
            "evil.\u{2060}com",
            "evil.c\u{ad}om",
            "evil\u{fe0f}.com",
            "e\u{180e}vil.co\u{34f}m",
            "evil.\u{e0020}com",
            "evil.c\u{3164}om",
            "evil.com\u{200d}",
            "evil.c\u{fff9}om",
        ];
        let endings = [
            "evil.рф",
            "evil.РФ",
            "пример.онлайн",
            "evil.中国",
            "evil。中国",
            "evil.भारत",
            "evil.museum",
            "EVIL.MUSEUM",
            "evil.travel",
            "evil.world",
            "evil.ch",
            "youtu.be/x",
            "evil.it:8080",
            "evil.World/x",
            "evil.zip/x",
            "evil.co.uk",
        ];
        for link in around.into_iter().chain(inside).chain(endings) {
            assert_eq!(code(link, &strict), Some(RefusalCode::Filtered), "{link}");
            assert_eq!(code(link, &settings()), None, "{link}");
        }
    }

    #[test]
    fn what_is_no_link_passes_where_links_are_not_allowed() {
        let strict = ChatSettings { links_allowed: false, ..settings() };
        let prose = [
            "e.g. this",
            "i.e. that",
            "v1.2.3",
            "hello.World",
            "Mr.Smith",
            "fertig…und.Dann weiter",
            "ja.genau",
            "ok.now go",
            "wait.what",
            "yes.it is",
            "привет.как дела",
            "好.我们走",
            "a.m./p.m.",
            "and/or",
            "U.S.A.",
            "...",
            "a..b",
            ".com",
            "at 12:30, 3.5:1, 8/10",
            "12.30",
            "1.5/2",
            "no.1",
            "@ana #fun",
            "www...",
            "👩\u{200d}💻 ❤\u{fe0f}",
        ];
        let files = ["notes.txt", "src/main.rs", "a.zip", "clip.mov", "README.md", "run.py", "photo.jpeg", "x.tar.gz"];
        for text in prose.into_iter().chain(files) {
            assert_eq!(code(text, &strict), None, "{text}");
        }
    }

    #[test]
    fn only_emoji_pass_where_only_emoji_may_be_sent() {
        let strict = ChatSettings { emoji_only: true, ..settings() };
        for text in ["😀", "❤️ 🔥", "👨‍👩‍👧‍👦🇨🇭 1️⃣"] {
            assert_eq!(code(text, &strict), None, "{text}");
        }
        for text in ["ok 😀", "1", "#", "-"] {
            assert_eq!(code(text, &strict), Some(RefusalCode::ValidationFailed), "{text}");
        }
    }

    #[test]
    fn filtered_words_are_masked_or_refused() {
        let mask = ChatSettings { filter: WordFilter::Mask, ..settings() };
        let reject = ChatSettings { filter: WordFilter::Reject, ..settings() };

        let masked = checked("what a shit day", &mask).unwrap();
        assert!(masked.contains("s***") && masked.ends_with("day"), "{masked}");
        assert_eq!(code("what a shit day", &reject), Some(RefusalCode::Filtered));
        assert_eq!(checked("Scunthorpe é", &mask), Ok("Scunthorpe é".into()));
        assert_eq!(code("Scunthorpe", &reject), None);
    }

    #[test]
    fn every_standard_emoji_is_a_reaction() {
        // All sequences that are recommended for general interchange, of Unicode 17 (RGI_Emoji).
        let all: Vec<_> = include_str!("../../tests/chat/emoji.txt").lines().collect();

        assert!(all.len() > 3_900, "{}", all.len());
        for emoji in &all {
            assert!(is_one_emoji(emoji), "{emoji} {}", emoji.escape_unicode());
        }
    }

    #[test]
    fn a_sequence_that_is_no_standard_emoji_is_no_reaction() {
        let tones = format!("👋{}", "🏻🏿".repeat(3));
        for text in [&tones, "🔥\u{200d}👀", "❤️\u{fe0f}\u{200d}❤️", "🇽🇽", "🏴\u{e0061}\u{e007f}", "👍🏽🏽"]
        {
            assert_eq!(text.graphemes(true).count(), 1, "{text} is one grapheme cluster");
            assert!(!is_one_emoji(text), "{text}");
        }
    }

    #[test]
    fn a_reaction_is_one_emoji() {
        for emoji in ["❤️", "❤", "🔥", "👍🏽", "🇨🇭", "👩‍💻", "1️⃣", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "©️"]
        {
            assert!(is_one_emoji(emoji), "{emoji}");
        }
        for text in ["", "a", "1", "❤️❤️", "🔥x", "\u{200d}", "🇨", "é", "<b>", "👨‍👩‍👧‍👦👨‍👩‍👧‍👦"]
        {
            assert!(!is_one_emoji(text), "{text}");
        }
    }
}
