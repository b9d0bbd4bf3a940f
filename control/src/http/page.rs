//! Query parameters, and lists that are given page by page (stream API, section 1.2).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::problem::{Code, Problem};
use crate::store::stream::PageEnd;

/// Rows of a page: unless told, and at most.
const ROWS: usize = 20;
const ROWS_MAX: usize = 100;

/// Longest cursor, in bytes.
const CURSOR_BYTES_MAX: usize = 256;

/// Parameters of one request that are looked at.
const PARAMETERS_MAX: usize = 64;

/// The query of a request. Unknown parameters are left alone.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().take(PARAMETERS_MAX).collect())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// It is given twice.
    pub fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(invalid(name, "must be given once")),
            (value, None) => Ok(value),
        }
    }

    /// A value in the form that `read` takes.
    ///
    /// # Errors
    /// It is given twice, or `read` gives `None`.
    pub fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        match self.one(name)? {
            Some(value) => read(value).map(Some).ok_or_else(|| invalid(name, expected)),
            None => Ok(None),
        }
    }

    /// # Errors
    /// `limit` is not 1 to 100.
    pub fn limit(&self) -> Result<usize, Problem> {
        let limit = self.read("limit", "must be 1 to 100", |text| {
            text.parse::<usize>().ok().filter(|limit| (1..=ROWS_MAX).contains(limit))
        })?;
        Ok(limit.unwrap_or(ROWS))
    }

    /// Which page of a list is asked for. `list` tells lists apart: a cursor of one means nothing in another.
    ///
    /// # Errors
    /// `limit` or `cursor` make no sense.
    pub fn page(&self, list: char) -> Result<Page, Problem> {
        let after = match self.one("cursor")? {
            Some(cursor) => Some(read_cursor(cursor, list).ok_or_else(|| {
                Problem::new(Code::InvalidCursor, "Take the cursor from nextCursor of the same list, or leave it out.")
            })?),
            None => None,
        };
        Ok(Page { list, limit: self.limit()?, after })
    }
}

pub(super) fn invalid(name: &str, expected: &str) -> Problem {
    Problem::new(Code::InvalidParameter, format!("The parameter {name} {expected}."))
}

/// The part of a list that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    list: char,
    pub limit: usize,
    pub after: Option<PageEnd>,
}

impl Page {
    /// How many rows to look up: one more than is given shows whether there are more.
    pub fn look_up(&self) -> usize {
        self.limit + 1
    }

    /// Cuts rows off that are beyond the page; the cursor of the next one.
    pub fn cut<T>(&self, rows: &mut Vec<T>, end: impl FnOnce(&T) -> PageEnd) -> Option<String> {
        if rows.len() <= self.limit {
            return None;
        }
        rows.truncate(self.limit);
        rows.last().map(|last| write_cursor(&end(last), self.list))
    }
}

fn write_cursor(end: &PageEnd, list: char) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}{}:{}", end.key, end.id))
}

fn read_cursor(text: &str, list: char) -> Option<PageEnd> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (key, id) = text.strip_prefix(list)?.split_once(':')?;
    let proper = !id.is_empty() && id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    proper.then_some(PageEnd { key: key.parse().ok()?, id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_to_the_end_of_its_page() {
        let page = Query::parse("limit=2").page('s').unwrap();
        let mut rows = vec![1, 2, 3];

        let cursor = page.cut(&mut rows, |row| PageEnd { key: i64::from(*row), id: "ab".to_owned() }).unwrap();

        assert_eq!(rows, [1, 2]);
        let next = Query::parse(&format!("cursor={cursor}")).page('s').unwrap();
        assert_eq!(next.after, Some(PageEnd { key: 2, id: "ab".to_owned() }));
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let page = Query::default().page('s').unwrap();

        assert_eq!(page.cut(&mut vec![0; 20], |_| unreachable!()), None);
    }

    #[test]
    fn a_cursor_of_another_list_or_of_nobody_is_refused() {
        let other = write_cursor(&PageEnd { key: 1, id: "ab".to_owned() }, 'v');
        for cursor in [other.as_str(), "", "%00", "AAAA", "czE6", &"c".repeat(300)] {
            let refused = Query::parse(&format!("cursor={cursor}")).page('s').unwrap_err();
            assert_eq!(refused.code, Code::InvalidCursor, "{cursor}");
        }
    }

    #[test]
    fn a_limit_is_1_to_100() {
        for (query, limit) in [("", Some(20)), ("limit=1", Some(1)), ("limit=100", Some(100))] {
            assert_eq!(Query::parse(query).limit().ok(), limit);
        }
        for query in ["limit=0", "limit=101", "limit=-1", "limit=x", "limit=", "limit=1&limit=2"] {
            assert_eq!(Query::parse(query).limit().unwrap_err().code, Code::InvalidParameter, "{query}");
        }
    }
}
