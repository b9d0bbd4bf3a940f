//! How the API answered, for metrics.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{Method, StatusCode};

use crate::problem::Code;

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OTHER"];

const STATUSES: [u16; 21] =
    [200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 503, 504, 0];

/// Paths that are counted. There are as many as routes; the bound is for a mistake of ours.
const PATHS_MAX: usize = 256;

/// Answers by route and status, refusals by code.
pub struct Counters {
    answers: RwLock<HashMap<String, Row>>,
    problems: Vec<AtomicU64>,
}

/// Of one path: a count for each method and status.
type Row = Box<[[AtomicU64; STATUSES.len()]; METHODS.len()]>;

/// Answers of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    pub method: &'static str,
    /// As the route is written: `/api/live/{id}`.
    pub path: String,
    /// 0: another than those that we give.
    pub status: u16,
    pub count: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { answers: RwLock::default(), problems: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Counters {
    pub(super) fn answered(&self, method: &Method, path: &str, status: StatusCode) {
        let method = position(&METHODS, &method.as_str());
        let status = position(&STATUSES, &status.as_u16());
        if let Some(row) = self.answers.read().expect("no one panics with this lock").get(path) {
            row[method][status].fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut answers = self.answers.write().expect("no one panics with this lock");
        if answers.len() < PATHS_MAX {
            let row = answers.entry(path.to_owned()).or_default();
            row[method][status].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn refused(&self, code: Code) {
        if let Some(position) = Code::ALL.iter().position(|known| *known == code) {
            self.problems[position].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All answers so far, without those that never happened.
    pub fn answers(&self) -> Vec<Answers> {
        let answers = self.answers.read().expect("no one panics with this lock");
        let mut list = Vec::new();
        for (path, row) in answers.iter() {
            for (method, counts) in METHODS.into_iter().zip(row.iter()) {
                let counts = STATUSES.into_iter().zip(counts.iter().map(|count| count.load(Ordering::Relaxed)));
                let seen = counts.filter(|(_, count)| *count > 0);
                list.extend(seen.map(|(status, count)| Answers { method, path: path.clone(), status, count }));
            }
        }
        list
    }

    /// Refusals so far by code, also those that never happened.
    pub fn problems(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.iter().copied().zip(self.problems.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Of an item in a list; the last place is for all others.
fn position<T: PartialEq>(list: &[T], item: &T) -> usize {
    list.iter().position(|known| known == item).unwrap_or(list.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_and_status() {
        let counters = Counters::default();

        counters.answered(&Method::GET, "/api/live/{id}", StatusCode::OK);
        counters.answered(&Method::GET, "/api/live/{id}", StatusCode::OK);
        counters.answered(&Method::TRACE, "/api/live/{id}", StatusCode::IM_A_TEAPOT);

        let path = || "/api/live/{id}".to_owned();
        let seen = counters.answers();
        assert!(seen.contains(&Answers { method: "GET", path: path(), status: 200, count: 2 }));
        assert!(seen.contains(&Answers { method: "OTHER", path: path(), status: 0, count: 1 }));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn refusals_are_counted_by_code() {
        let counters = Counters::default();

        counters.refused(Code::Blocked);

        assert_eq!(counters.problems().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(Code::Blocked, 1)]);
    }
}
