//! What people write, made safe to keep and show (stream API, sections 3.3 and 8.2).

use std::borrow::Cow;
use std::str::FromStr;

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;
use url::Url;

/// Longest title, in characters (stream API, section 3.3).
pub const TITLE_CHARS_MAX: usize = 120;

/// Characters of four bytes each.
pub const TITLE_BYTES_MAX: usize = 4 * TITLE_CHARS_MAX;

/// Most tags of a stream.
pub const TAGS_MAX: usize = 10;

/// Longest tag, in characters.
pub const TAG_CHARS_MAX: usize = 32;

/// What browsers and proxies accept as a URL without trouble.
pub const URL_BYTES_MAX: usize = 2048;

/// Why a text is not acceptable; says what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAcceptable(pub Cow<'static, str>);

impl From<&'static str> for NotAcceptable {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for NotAcceptable {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

/// NFC, without characters that rule what is around them, trimmed. `None` if nothing is left.
pub fn plain(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !rules_others(*c)).nfc().collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether a character has no shape and changes how others are shown: control characters, ends of lines and paragraphs,
/// and those of bidirectional text (Unicode Standard Annex #9, sections 2.1 to 2.6), which would turn around what an
/// app writes next to a name or a title. Text of right-to-left scripts needs none of them.
pub fn rules_others(c: char) -> bool {
    let line_ends = '\u{2028}'..='\u{2029}';
    let embeddings = '\u{202a}'..='\u{202e}';
    let isolates = '\u{2066}'..='\u{2069}';
    let marks = ['\u{200e}', '\u{200f}', '\u{61c}'];
    c.is_control() || line_ends.contains(&c) || embeddings.contains(&c) || isolates.contains(&c) || marks.contains(&c)
}

/// [`plain`], of at most so many characters of at most four bytes each.
///
/// # Errors
/// It is longer.
pub fn short(text: &str, chars_max: usize) -> Result<Option<String>, NotAcceptable> {
    let text = plain(text);
    if text.as_ref().is_some_and(|text| text.chars().count() > chars_max) {
        return Err(format!("at most {chars_max} characters").into());
    }
    Ok(text)
}

/// As [`short`], of which something is left.
///
/// # Errors
/// It is longer, or nothing is left of it.
pub fn short_and_given(text: &str, chars_max: usize) -> Result<String, NotAcceptable> {
    short(text, chars_max)?.ok_or_else(|| "must not be empty".into())
}

/// A stream's title: [`short`], not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Title(String);

impl Title {
    /// `None` if nothing is left of it.
    ///
    /// # Errors
    /// It is longer than [`TITLE_CHARS_MAX`] or [`TITLE_BYTES_MAX`].
    pub fn if_given(text: &str) -> Result<Option<Self>, NotAcceptable> {
        Ok(short(text, TITLE_CHARS_MAX)?.map(Self))
    }
}

impl FromStr for Title {
    type Err = NotAcceptable;

    /// As [`Title::if_given`]; nor may it be empty.
    fn from_str(text: &str) -> Result<Self, NotAcceptable> {
        short_and_given(text, TITLE_CHARS_MAX).map(Self)
    }
}

impl From<Title> for String {
    fn from(Title(text): Title) -> Self {
        text
    }
}

/// A stream's tags: each in its one spelling, in the given order, none twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Vec<String>);

impl Tags {
    /// # Errors
    /// Too many, or one that is no tag.
    pub fn read<S: AsRef<str>>(tags: &[S]) -> Result<Self, NotAcceptable> {
        self::tags(tags).map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Tags> for Vec<String> {
    fn from(Tags(tags): Tags) -> Self {
        tags
    }
}

fn tags<S: AsRef<str>>(tags: &[S]) -> Result<Vec<String>, NotAcceptable> {
    let mut kept: Vec<String> = Vec::new();
    for text in tags {
        let tag = tag(text.as_ref())?;
        if !kept.contains(&tag) {
            kept.push(tag);
        }
        if kept.len() > TAGS_MAX {
            return Err(format!("at most {TAGS_MAX} tags").into());
        }
    }
    Ok(kept)
}

/// One tag in its one spelling: NFKC, lower case, without a leading `#`.
///
/// # Errors
/// It is empty, longer than [`TAG_CHARS_MAX`], or has other characters than letters, marks, digits, `-` and `_`.
pub fn tag(text: &str) -> Result<String, NotAcceptable> {
    // Lower case may take a letter apart (İ), and NFKC puts it together again.
    let text: String = text.nfkc().flat_map(char::to_lowercase).nfkc().collect();
    let text = text.trim();
    let text = text.strip_prefix('#').unwrap_or(text);
    if text.is_empty() || text.chars().count() > TAG_CHARS_MAX {
        return Err(format!("each tag has 1 to {TAG_CHARS_MAX} characters").into());
    }
    if !text.chars().all(|c| c.is_alphanumeric() || is_combining_mark(c) || c == '-' || c == '_') {
        return Err("tags consist of letters, digits, - and _".into());
    }
    Ok(text.to_owned())
}

/// The URL of a stream's cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoverUrl(String);

impl CoverUrl {
    /// `None` if it is empty.
    ///
    /// # Errors
    /// Those of [`picture_url`].
    pub fn if_given(text: &str, schemes: Schemes) -> Result<Option<Self>, NotAcceptable> {
        Ok(picture_url(text, schemes)?.map(Self))
    }
}

impl From<CoverUrl> for String {
    fn from(CoverUrl(url): CoverUrl) -> Self {
        url
    }
}

/// Schemes of a URL that is shown but never fetched here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schemes {
    Https,
    /// In development.
    HttpAndHttps,
}

/// The URL of a picture, in its one spelling; `None` if it is empty.
///
/// # Errors
/// It is no absolute URL of that scheme, too long, or carries user information.
pub fn picture_url(text: &str, schemes: Schemes) -> Result<Option<String>, NotAcceptable> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let too_long = || NotAcceptable::from(format!("at most {URL_BYTES_MAX} bytes"));
    if text.len() > URL_BYTES_MAX {
        return Err(too_long());
    }
    let url = Url::parse(text).map_err(|_| "an absolute https URL")?;
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && schemes == Schemes::HttpAndHttps);
    if !scheme || !url.has_host() {
        return Err("an absolute https URL".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL without a user name".into());
    }
    let url = String::from(url);
    if url.len() > URL_BYTES_MAX { Err(too_long()) } else { Ok(Some(url)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn title(text: &str) -> Result<Option<String>, NotAcceptable> {
        Title::if_given(text).map(|title| title.map(String::from))
    }

    #[test]
    fn a_title_is_trimmed_composed_and_freed_of_control_characters() {
        assert_eq!(title("  Cafe\u{301}\u{7}\n! "), Ok(Some("Café!".to_owned())));
        assert_eq!(title("\u{1b}\t "), Ok(None));
    }

    #[test]
    fn nobody_turns_around_what_is_written_next_to_their_name() {
        let turned = "\u{202e}nimda\u{202c} \u{2066}x\u{2069}\u{200f}\u{200e}\u{61c}\u{2028}!";

        assert_eq!(plain(turned).as_deref(), Some("nimda x!"));
        assert_eq!(title(turned), Ok(Some("nimda x!".to_owned())));
        assert!(tag("\u{202e}tag").is_err());
        assert_eq!(plain("שלום سلام").as_deref(), Some("שלום سلام"));
        assert_eq!(plain("👩\u{200d}💻").as_deref(), Some("👩\u{200d}💻"), "a joiner is part of an emoji");
    }

    #[test]
    fn a_title_has_at_most_120_characters_of_any_width() {
        assert_eq!(title(&"🦀".repeat(120)).map(|title| title.map(|title| title.len())), Ok(Some(TITLE_BYTES_MAX)));
        assert_eq!(title(&"a".repeat(121)), Err("at most 120 characters".into()));
    }

    #[test]
    fn a_tag_has_one_spelling() {
        for text in ["Pet", "#pet", " PET ", "ｐｅｔ", "#ＰＥＴ"] {
            assert_eq!(tag(text).as_deref(), Ok("pet"), "{text}");
        }
    }

    #[test]
    fn letters_of_all_scripts_make_tags() {
        for text in ["猫", "हिन्दी", "öl", "кот", "snake_case", "a-b", "2026", &"猫".repeat(32)] {
            assert!(tag(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for text in ["", "#", " ", "two words", "a,b", "a.b", "##x", "🦀", "a\u{0}b", &"x".repeat(33)] {
            assert!(tag(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tags_are_merged_before_they_are_counted() {
        let many: Vec<String> = (0..30).map(|n| format!("#Tag{}", n % 10)).collect();

        assert_eq!(tags(&many).map(|tags| tags.len()), Ok(10));
        assert_eq!(tags(&[many.as_slice(), &["one-more".to_owned()]].concat()), Err("at most 10 tags".into()));
    }

    #[test]
    fn a_picture_has_an_absolute_https_url_without_user_information() {
        let https = |text: &str| picture_url(text, Schemes::Https);

        assert_eq!(https("https://a.example/x.png"), Ok(Some("https://a.example/x.png".to_owned())));
        assert_eq!(https(" "), Ok(None));
        for text in
            ["http://a.example/", "//a.example/", "x.png", "javascript:alert(1)", "data:,x", "https://u:p@a.example/"]
        {
            assert!(https(text).is_err(), "{text}");
        }
        let of_bytes = |bytes: usize| format!("https://a.example/{}", "x".repeat(bytes - "https://a.example/".len()));
        assert_eq!(https(&of_bytes(2048)), Ok(Some(of_bytes(2048))));
        assert!(https(&of_bytes(2049)).is_err());
        assert!(picture_url("http://a.example/", Schemes::HttpAndHttps).is_ok());
    }

    proptest! {
        /// What was made safe once stays as it is.
        #[test]
        fn cleaning_twice_changes_nothing(text in "\\PC{0,40}|.{0,40}") {
            if let Some(once) = plain(&text) {
                prop_assert_eq!(plain(&once), Some(once.clone()));
            }
            if let Ok(once) = tag(&text) {
                prop_assert_eq!(tag(&once), Ok(once.clone()));
            }
        }
    }
}
