//! Who was seen to be an administrator.

use std::collections::HashSet;
use std::sync::RwLock;

use crate::store::stream::UserId;

/// More administrators than any service has.
const ADMINS_MAX: usize = 4096;

/// Known administrators. A role that was taken away is forgotten with the process; until then its holder is only spared
/// from blocks.
#[derive(Default)]
pub(super) struct Admins(RwLock<HashSet<UserId>>);

impl Admins {
    pub(super) fn note(&self, user: &UserId) {
        if self.contains(user) {
            return;
        }
        let mut known = self.0.write().expect("no one panics with this lock");
        if known.len() < ADMINS_MAX {
            known.insert(user.clone());
        }
    }

    pub(super) fn contains(&self, user: &UserId) -> bool {
        self.0.read().expect("no one panics with this lock").contains(user)
    }
}
