//! Who calls: a user of the app, known by its token (stream API, section 2).

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::stream::{OwnerProfile, UserId};

/// What a user may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    User,
    Admin,
}

/// The holder of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: UserId,
    pub role: Role,
    /// At most 64 characters.
    pub name: Option<String>,
    /// An https URL.
    pub picture: Option<String>,
    pub expires_at: Timestamp,
}

impl User {
    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    pub fn profile(&self) -> OwnerProfile {
        OwnerProfile { name: self.name.clone(), picture: self.picture.clone() }
    }
}

/// A user in one request, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user: User,
    pub request_id: String,
}
