//! What a DTLS handshake gives SRTP: a profile, keys and salts (RFC 5764).

use std::fmt;

use arrayvec::ArrayVec;

use crate::parameters::DtlsRole;

/// How SRTP packets are protected (RFC 5764, RFC 7714).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// AEAD_AES_128_GCM.
    AeadAes128Gcm,
    /// AEAD_AES_256_GCM.
    AeadAes256Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80.
    Aes128CmSha1_80,
}

impl SrtpProfile {
    /// Cheapest per packet first.
    pub const PREFERENCE: [Self; 3] = [Self::AeadAes128Gcm, Self::AeadAes256Gcm, Self::Aes128CmSha1_80];

    /// Length of a master key, in bytes.
    pub fn key_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::Aes128CmSha1_80 => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Length of a master salt, in bytes.
    pub fn salt_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            Self::Aes128CmSha1_80 => 14,
        }
    }

    pub(crate) fn from_wire(id: u16) -> Option<Self> {
        match id {
            0x0001 => Some(Self::Aes128CmSha1_80),
            0x0007 => Some(Self::AeadAes128Gcm),
            0x0008 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    pub(crate) fn to_wire(self) -> u16 {
        match self {
            Self::Aes128CmSha1_80 => 0x0001,
            Self::AeadAes128Gcm => 0x0007,
            Self::AeadAes256Gcm => 0x0008,
        }
    }
}

/// SRTP master keys and salts of both directions.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyingMaterial {
    /// How packets are protected.
    pub profile: SrtpProfile,
    /// What the peer encrypts with.
    pub receive_key: ArrayVec<u8, 32>,
    /// Salt of that key.
    pub receive_salt: ArrayVec<u8, 14>,
    /// What we encrypt with.
    pub send_key: ArrayVec<u8, 32>,
    /// Salt of that key.
    pub send_salt: ArrayVec<u8, 14>,
}

impl KeyingMaterial {
    /// Cuts exported bytes: client key, server key, client salt, server salt (RFC 5764, section 4.2).
    pub(crate) fn split(profile: SrtpProfile, exported: &[u8], role: DtlsRole) -> Option<Self> {
        let (client_key, rest) = exported.split_at_checked(profile.key_length())?;
        let (server_key, rest) = rest.split_at_checked(profile.key_length())?;
        let (client_salt, server_salt) = rest.split_at_checked(profile.salt_length())?;
        let (client, server) = ((client_key, client_salt), (server_key, server_salt));
        let (receive, send) = match role {
            DtlsRole::Server => (client, server),
            DtlsRole::Client => (server, client),
        };
        Some(Self {
            profile,
            receive_key: receive.0.try_into().ok()?,
            receive_salt: receive.1.try_into().ok()?,
            send_key: send.0.try_into().ok()?,
            send_salt: send.1.try_into().ok()?,
        })
    }
}

impl fmt::Debug for KeyingMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyingMaterial").field("profile", &self.profile).finish_non_exhaustive()
    }
}
