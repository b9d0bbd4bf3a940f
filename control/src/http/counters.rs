//! How the API answered, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use shared::histogram::Histogram;
use shared::log_limit::LogLimit;

use crate::problem::Code;

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OTHER"];

/// Paths that are counted. There are as many as routes; the bound is for a mistake of ours.
const PATHS_MAX: usize = 256;

/// Bounds of how long answers take, in seconds.
const SECONDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Answers by route and status, refusals by code.
pub struct Counters {
    rows: Mutex<BTreeMap<String, Row>>,
    problems: Vec<AtomicU64>,
    pub(super) unauthenticated_log: LogLimit,
}

/// Of one path.
struct Row {
    /// By method and status: as many as our handlers and libraries give.
    answers: BTreeMap<(&'static str, u16), u64>,
    took: Histogram,
}

/// Answers of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    pub method: &'static str,
    /// As the route is written: `/api/live/{id}`.
    pub path: String,
    pub status: u16,
    pub count: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            rows: Mutex::default(),
            problems: Code::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            unauthenticated_log: LogLimit::default(),
        }
    }
}

impl Counters {
    pub(crate) fn answered(&self, method: &Method, path: &str, status: StatusCode, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or("OTHER");
        let mut rows = self.rows();
        if !rows.contains_key(path) {
            if rows.len() >= PATHS_MAX {
                return;
            }
            rows.insert(path.to_owned(), Row { answers: BTreeMap::new(), took: Histogram::new(&SECONDS) });
        }
        if let Some(row) = rows.get_mut(path) {
            *row.answers.entry((method, status.as_u16())).or_default() += 1;
            row.took.observe(took.as_secs_f64());
        }
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().expect("no one panics with this lock")
    }

    pub(crate) fn refused(&self, code: Code) {
        if let Some(position) = Code::ALL.iter().position(|known| *known == code) {
            self.problems[position].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All answers so far, without those that never happened.
    pub fn answers(&self) -> Vec<Answers> {
        let rows = self.rows();
        let answers = rows.iter().flat_map(|(path, row)| {
            row.answers.iter().map(|(&(method, status), &count)| Answers { method, path: path.clone(), status, count })
        });
        answers.collect()
    }

    /// How long answers took, by path.
    pub fn durations(&self) -> Vec<(String, Histogram)> {
        self.rows().iter().map(|(path, row)| (path.clone(), row.took)).collect()
    }

    /// Refusals so far by code, also those that never happened.
    pub fn problems(&self) -> impl Iterator<Item = (Code, u64)> {
        Code::ALL.iter().copied().zip(self.problems.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_route_and_status() {
        let counters = Counters::default();

        counters.answered(&Method::GET, "/api/live/{id}", StatusCode::OK, Duration::from_millis(7));
        counters.answered(&Method::GET, "/api/live/{id}", StatusCode::OK, Duration::from_millis(7));
        counters.answered(&Method::TRACE, "/api/live/{id}", StatusCode::IM_A_TEAPOT, Duration::from_millis(7));

        let path = || "/api/live/{id}".to_owned();
        let seen = counters.answers();
        assert!(seen.contains(&Answers { method: "GET", path: path(), status: 200, count: 2 }));
        assert!(seen.contains(&Answers { method: "OTHER", path: path(), status: 418, count: 1 }));
        assert_eq!(seen.len(), 2);
        let [(of, took)] = &counters.durations()[..] else { panic!("one path") };
        assert_eq!((of, took.count()), (&path(), 3));
    }

    #[test]
    fn refusals_are_counted_by_code() {
        let counters = Counters::default();

        counters.refused(Code::Blocked);

        assert_eq!(counters.problems().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [(Code::Blocked, 1)]);
    }
}
