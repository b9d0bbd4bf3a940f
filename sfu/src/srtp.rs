//! SRTP and SRTCP: sealing in place in the send arena, opening in place in the receive buffer.
//!
//! Three profiles: AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714), AES128_CM_HMAC_SHA1_80 (RFC 3711). Key schedules
//! are built once a handshake; nothing is allocated for a packet. In tests every sealed packet must open with
//! `rtc-srtp`, and the reverse.

use aes::cipher::{BlockEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use aes::{Aes128, Aes256};
use hmac::{Hmac, Mac};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use sha1::Sha1;

use crate::demux::Discard;
pub use crate::keying::SrtpProfile;
use crate::rtp::u32_at;

/// Most bytes that sealing adds to an RTP or RTCP packet.
pub const OVERHEAD_MAX: usize = GCM_TAG + RTCP_INDEX;

const GCM_TAG: usize = 16;
const SHA1_TAG: usize = 10;
/// The E flag and index behind an SRTCP packet.
const RTCP_INDEX: usize = 4;
/// SRTCP leaves the header and the sender's SSRC in clear.
const RTCP_CLEAR: usize = 8;
const ENCRYPTED_FLAG: u32 = 1 << 31;
/// Streams of one transport that we keep replay state for.
const STREAMS_MAX: usize = 64;

/// Labels of RFC 3711, section 4.3.2. The SRTCP ones follow by adding three.
const LABEL_ENCRYPTION: u8 = 0;
const LABEL_AUTHENTICATION: u8 = 1;
const LABEL_SALT: u8 = 2;
const LABEL_RTCP: u8 = 3;

/// AES-128 in counter mode; SRTP's counter is the low 16 bits, which a packet never exhausts.
type CounterCore = ctr::CtrCore<Aes128, ctr::flavors::Ctr128BE>;

/// The keyed cipher of one direction for RTP or for RTCP.
#[expect(clippy::large_enum_variant, reason = "the one that the hot path meets stays inline")]
enum Cipher {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// Boxed: old peers pay for a pointer, so that the others' state stays small.
    CounterSha1(Box<CounterSha1>),
}

struct CounterSha1 {
    aes: Aes128,
    salt: [u8; 14],
    mac: Hmac<Sha1>,
}

impl Cipher {
    fn new(profile: SrtpProfile, master_key: &[u8], master_salt: &[u8], label: u8) -> Self {
        let mut salt14 = [0u8; 14];
        salt14[..master_salt.len().min(14)].copy_from_slice(&master_salt[..master_salt.len().min(14)]);
        let derive = |label_of: u8, into: &mut [u8]| match profile {
            SrtpProfile::AeadAes256Gcm => {
                let aes = Aes256::new_from_slice(master_key).expect("the profile fixes the key's length");
                derive_key(|block| aes.encrypt_block(block.into()), &salt14, label + label_of, into);
            }
            SrtpProfile::AeadAes128Gcm | SrtpProfile::Aes128CmSha1_80 => {
                let aes = Aes128::new_from_slice(master_key).expect("the profile fixes the key's length");
                derive_key(|block| aes.encrypt_block(block.into()), &salt14, label + label_of, into);
            }
        };
        match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                let (algorithm, length) = match profile {
                    SrtpProfile::AeadAes256Gcm => (&AES_256_GCM, 32),
                    SrtpProfile::AeadAes128Gcm | SrtpProfile::Aes128CmSha1_80 => (&AES_128_GCM, 16),
                };
                let (mut key, mut salt) = ([0u8; 32], [0u8; 12]);
                derive(LABEL_ENCRYPTION, &mut key[..length]);
                derive(LABEL_SALT, &mut salt);
                let key = UnboundKey::new(algorithm, &key[..length]).expect("the profile fixes the key's length");
                Self::Gcm { key: LessSafeKey::new(key), salt }
            }
            SrtpProfile::Aes128CmSha1_80 => {
                let (mut key, mut auth, mut salt) = ([0u8; 16], [0u8; 20], [0u8; 14]);
                derive(LABEL_ENCRYPTION, &mut key);
                derive(LABEL_AUTHENTICATION, &mut auth);
                derive(LABEL_SALT, &mut salt);
                Self::CounterSha1(Box::new(CounterSha1 {
                    aes: Aes128::new(&key.into()),
                    salt,
                    mac: <Hmac<Sha1> as Mac>::new_from_slice(&auth).expect("HMAC takes a key of any length"),
                }))
            }
        }
    }
}

/// The AES-CM key derivation of RFC 3711, section 4.3.1, with a key derivation rate of zero.
fn derive_key(encrypt: impl Fn(&mut [u8; 16]), salt: &[u8; 14], label: u8, into: &mut [u8]) {
    let mut x = [0u8; 16];
    x[..14].copy_from_slice(salt);
    x[7] ^= label;
    for (counter, chunk) in into.chunks_mut(16).enumerate() {
        let mut block = x;
        block[14..].copy_from_slice(&u16::try_from(counter).unwrap_or(0).to_be_bytes());
        encrypt(&mut block);
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
}

/// IV of RFC 7714, sections 8.1 and 9.1.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let mut iv = [0u8; 12];
    iv[2..6].copy_from_slice(&ssrc.to_be_bytes());
    iv[6..12].copy_from_slice(&index.to_be_bytes()[2..8]);
    for (byte, salt) in iv.iter_mut().zip(salt) {
        *byte ^= salt;
    }
    Nonce::assume_unique_for_key(iv)
}

/// Applies the key stream of RFC 3711, section 4.1.1.
fn counter_mode(aes: &Aes128, salt: &[u8; 14], ssrc: u32, index: u64, data: &mut [u8]) {
    let mut iv = [0u8; 16];
    iv[..14].copy_from_slice(salt);
    for (byte, other) in iv[4..8].iter_mut().zip(ssrc.to_be_bytes()) {
        *byte ^= other;
    }
    for (byte, other) in iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..8]) {
        *byte ^= other;
    }
    StreamCipherCoreWrapper::from_core(CounterCore::inner_iv_init(aes.clone(), &iv.into())).apply_keystream(data);
}

fn sha1_tag(mac: &Hmac<Sha1>, parts: [&[u8]; 2]) -> [u8; SHA1_TAG] {
    let mut mac = mac.clone();
    mac.update(parts[0]);
    mac.update(parts[1]);
    let full = mac.finalize().into_bytes();
    let mut tag = [0; SHA1_TAG];
    tag.copy_from_slice(&full[..SHA1_TAG]);
    tag
}

/// Compares without leaking where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// Our direction of one transport.
pub struct SrtpSender {
    rtp: Cipher,
    rtcp: Cipher,
    rtcp_index: u32,
}

impl SrtpSender {
    /// One with a master key and a master salt, of the profile's lengths.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Self {
        Self {
            rtp: Cipher::new(profile, key, salt, 0),
            rtcp: Cipher::new(profile, key, salt, LABEL_RTCP),
            rtcp_index: 0,
        }
    }

    /// Bytes that sealing adds to an RTP packet.
    pub fn rtp_overhead(&self) -> usize {
        match self.rtp {
            Cipher::Gcm { .. } => GCM_TAG,
            Cipher::CounterSha1(_) => SHA1_TAG,
        }
    }

    /// Seals the RTP packet at the start of `buffer` in place: `header` bytes in clear, up to `length`, then the tag.
    /// Returns the sealed length. `index` is the extended sequence number (rollover counter and number).
    ///
    /// The caller guarantees room for [`SrtpSender::rtp_overhead`] behind `length` and never repeats an index of an
    /// SSRC for different bytes.
    pub fn seal_rtp(&self, buffer: &mut [u8], header: usize, length: usize, ssrc: u32, index: u64) -> usize {
        let (clear, rest) = buffer.split_at_mut(header);
        let body = length - header;
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let nonce = gcm_nonce(salt, ssrc, index);
                let tag = key
                    .seal_in_place_separate_tag(nonce, Aad::from(&*clear), &mut rest[..body])
                    .expect("a packet is far below GCM's limit of length");
                rest[body..body + GCM_TAG].copy_from_slice(tag.as_ref());
                length + GCM_TAG
            }
            Cipher::CounterSha1(cipher) => {
                let CounterSha1 { aes, salt, mac } = &**cipher;
                counter_mode(aes, salt, ssrc, index, &mut rest[..body]);
                let roc = u32::try_from((index >> 16) & 0xffff_ffff).unwrap_or(0);
                let tag = sha1_tag(mac, [&buffer[..length], &roc.to_be_bytes()]);
                buffer[length..length + SHA1_TAG].copy_from_slice(&tag);
                length + SHA1_TAG
            }
        }
    }

    /// Seals a compound RTCP packet of at least eight bytes in place, growing `packet`.
    pub fn seal_rtcp(&mut self, packet: &mut Vec<u8>) {
        if packet.len() < RTCP_CLEAR {
            return;
        }
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let index = self.rtcp_index;
        self.rtcp_index = (index + 1) & !ENCRYPTED_FLAG;
        let trailer = (index | ENCRYPTED_FLAG).to_be_bytes();
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let (clear, body) = packet.split_at_mut(RTCP_CLEAR);
                let mut aad = [0; RTCP_CLEAR + RTCP_INDEX];
                aad[..RTCP_CLEAR].copy_from_slice(clear);
                aad[RTCP_CLEAR..].copy_from_slice(&trailer);
                let tag = key
                    .seal_in_place_separate_tag(gcm_nonce(salt, ssrc, index.into()), Aad::from(aad), body)
                    .expect("a packet is far below GCM's limit of length");
                packet.extend_from_slice(tag.as_ref());
                packet.extend_from_slice(&trailer);
            }
            Cipher::CounterSha1(cipher) => {
                let CounterSha1 { aes, salt, mac } = &**cipher;
                counter_mode(aes, salt, ssrc, index.into(), &mut packet[RTCP_CLEAR..]);
                packet.extend_from_slice(&trailer);
                let tag = sha1_tag(mac, [packet, &[]]);
                packet.extend_from_slice(&tag);
            }
        }
    }
}

/// Replay and rollover state of one SSRC (RFC 3711, sections 3.3.1 and 3.3.2).
#[derive(Debug, Clone, Copy)]
struct Stream {
    ssrc: u32,
    highest: u64,
    /// Bit n: `highest - n` was seen.
    window: u128,
}

impl Stream {
    /// The index that a packet with this number most likely has.
    fn index_of(&self, sequence: u16) -> u64 {
        let roc = self.highest >> 16;
        let last = (self.highest & 0xffff) as i64;
        let sequence = i64::from(sequence);
        let roc = match () {
            () if last < 0x8000 && sequence - last > 0x8000 => roc.saturating_sub(1),
            () if last >= 0x8000 && last - 0x8000 > sequence => roc + 1,
            () => roc,
        };
        (roc << 16) | sequence as u64
    }

    fn is_fresh(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        let age = self.highest - index;
        age < 128 && self.window & (1 << age) == 0
    }

    fn accept(&mut self, index: u64) {
        if index > self.highest {
            let shift = index - self.highest;
            self.window = if shift < 128 { self.window << shift } else { 0 };
            self.highest = index;
        }
        self.window |= 1 << (self.highest - index);
    }
}

/// The client's direction of one transport.
pub struct SrtpReceiver {
    rtp: Cipher,
    rtcp: Cipher,
    streams: Vec<Stream>,
    rtcp_streams: Vec<Stream>,
}

impl SrtpReceiver {
    /// One with a master key and a master salt, of the profile's lengths.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Self {
        Self {
            rtp: Cipher::new(profile, key, salt, 0),
            rtcp: Cipher::new(profile, key, salt, LABEL_RTCP),
            streams: Vec::new(),
            rtcp_streams: Vec::new(),
        }
    }

    /// Opens an RTP packet in place and returns its length without the tag. `header` as [`crate::rtp::header_len`]
    /// gives it.
    pub fn open_rtp(&mut self, packet: &mut [u8], header: usize) -> Result<usize, Discard> {
        let ssrc = u32::from_be_bytes(packet[8..12].try_into().map_err(|_| Discard::RtpMalformed)?);
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        let known = self.streams.iter().position(|stream| stream.ssrc == ssrc);
        let mut stream = match known {
            Some(at) => self.streams[at],
            None if self.streams.len() >= STREAMS_MAX => return Err(Discard::TooManyStreams),
            None => Stream { ssrc, highest: sequence.into(), window: 0 },
        };
        let index = stream.index_of(sequence);
        if !stream.is_fresh(index) && known.is_some() {
            return Err(Discard::SrtpReplay);
        }
        let length = match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let length =
                    packet.len().checked_sub(GCM_TAG).filter(|at| *at >= header).ok_or(Discard::RtpMalformed)?;
                let (clear, rest) = packet.split_at_mut(header);
                let (body, tag) = rest.split_at_mut(length - header);
                let tag = Tag::try_from(&*tag).map_err(|_| Discard::RtpMalformed)?;
                key.open_in_place_separate_tag(gcm_nonce(salt, ssrc, index), Aad::from(&*clear), tag, body, 0..)
                    .map_err(|_| Discard::SrtpAuthentication)?;
                length
            }
            Cipher::CounterSha1(cipher) => {
                let CounterSha1 { aes, salt, mac } = &**cipher;
                let length =
                    packet.len().checked_sub(SHA1_TAG).filter(|at| *at >= header).ok_or(Discard::RtpMalformed)?;
                let roc = u32::try_from(index >> 16).map_err(|_| Discard::RtpMalformed)?;
                let (body, tag) = packet.split_at_mut(length);
                if !same(&sha1_tag(mac, [body, &roc.to_be_bytes()]), tag) {
                    return Err(Discard::SrtpAuthentication);
                }
                counter_mode(aes, salt, ssrc, index, &mut body[header..]);
                length
            }
        };
        stream.accept(index);
        match known {
            Some(at) => self.streams[at] = stream,
            None => self.streams.push(stream),
        }
        Ok(length)
    }

    /// Opens a compound RTCP packet in place and returns its length without index and tag.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Discard> {
        let ssrc = u32_at(packet, 4).ok_or(Discard::RtcpMalformed)?;
        let (length, index) = match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let (rest, trailer) = packet.split_at_mut(packet.len() - RTCP_INDEX);
                let trailer = u32::from_be_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
                if trailer & ENCRYPTED_FLAG == 0 || rest.len() < RTCP_CLEAR + GCM_TAG {
                    return Err(Discard::RtcpMalformed);
                }
                let index = trailer & !ENCRYPTED_FLAG;
                let (clear, rest) = rest.split_at_mut(RTCP_CLEAR);
                let mut aad = [0; RTCP_CLEAR + RTCP_INDEX];
                aad[..RTCP_CLEAR].copy_from_slice(clear);
                aad[RTCP_CLEAR..].copy_from_slice(&trailer.to_be_bytes());
                let (body, tag) = rest.split_at_mut(rest.len() - GCM_TAG);
                let tag = Tag::try_from(&*tag).map_err(|_| Discard::RtcpMalformed)?;
                key.open_in_place_separate_tag(gcm_nonce(salt, ssrc, index.into()), Aad::from(aad), tag, body, 0..)
                    .map_err(|_| Discard::SrtpAuthentication)?;
                (RTCP_CLEAR + body.len(), index)
            }
            Cipher::CounterSha1(cipher) => {
                let CounterSha1 { aes, salt, mac } = &**cipher;
                if packet.len() < RTCP_CLEAR + RTCP_INDEX + SHA1_TAG {
                    return Err(Discard::RtcpMalformed);
                }
                let (rest, tag) = packet.split_at_mut(packet.len() - SHA1_TAG);
                if !same(&sha1_tag(mac, [rest, &[]]), tag) {
                    return Err(Discard::SrtpAuthentication);
                }
                let (body, trailer) = rest.split_at_mut(rest.len() - RTCP_INDEX);
                let trailer = u32::from_be_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]);
                let index = trailer & !ENCRYPTED_FLAG;
                if trailer & ENCRYPTED_FLAG != 0 {
                    counter_mode(aes, salt, ssrc, index.into(), &mut body[RTCP_CLEAR..]);
                }
                (body.len(), index)
            }
        };
        let index = u64::from(index);
        let known = self.rtcp_streams.iter().position(|stream| stream.ssrc == ssrc);
        match known {
            Some(at) if !self.rtcp_streams[at].is_fresh(index) => return Err(Discard::SrtpReplay),
            Some(at) => self.rtcp_streams[at].accept(index),
            None if self.rtcp_streams.len() >= STREAMS_MAX => return Err(Discard::TooManyStreams),
            None => self.rtcp_streams.push(Stream { ssrc, highest: index, window: 1 }),
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_srtp::context::Context;
    use rtc_srtp::protection_profile::ProtectionProfile;

    const PROFILES: [(SrtpProfile, ProtectionProfile); 3] = [
        (SrtpProfile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
        (SrtpProfile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
        (SrtpProfile::Aes128CmSha1_80, ProtectionProfile::Aes128CmHmacSha1_80),
    ];

    fn master(profile: SrtpProfile) -> (Vec<u8>, Vec<u8>) {
        let (key, salt) = (profile.key_length(), profile.salt_length());
        ((0..key as u8).collect(), (100..100 + salt as u8).collect())
    }

    fn oracle(profile: SrtpProfile, theirs: ProtectionProfile) -> Context {
        let (key, salt) = master(profile);
        let provider = rtc_crypto::default_provider().expect("a crypto provider");
        Context::new(&key, &salt, theirs, None, None, provider.crypto()).expect("a context")
    }

    fn packet(sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 1, 2, 9, 8, 7, 6]);
        packet.extend((0..700u16).map(|n| n as u8));
        packet
    }

    #[test]
    fn what_we_seal_opens_with_the_familys_srtp_also_after_a_rollover() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let sender = SrtpSender::new(ours, &key, &salt);
            let mut oracle = oracle(ours, theirs);
            for index in [65_534u64, 65_535, 65_536, 65_537] {
                let plain = packet(index as u16);
                let mut buffer = plain.clone();
                buffer.resize(plain.len() + OVERHEAD_MAX, 0);
                let sealed = sender.seal_rtp(&mut buffer, 12, plain.len(), 0x0908_0706, index);
                let opened = oracle.decrypt_rtp(&buffer[..sealed]).expect("opens");
                assert_eq!(&opened[..], &plain[..], "{ours:?} {index}");
            }
        }
    }

    #[test]
    fn we_open_what_the_familys_srtp_seals_and_refuse_it_twice() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let mut receiver = SrtpReceiver::new(ours, &key, &salt);
            let mut oracle = oracle(ours, theirs);
            for sequence in [65_534u16, 65_535, 0, 1] {
                let plain = packet(sequence);
                let sealed = oracle.encrypt_rtp(&plain).expect("seals").to_vec();
                let mut first = sealed.clone();
                let length = receiver.open_rtp(&mut first, 12).expect("opens");
                assert_eq!(&first[..length], &plain[..], "{ours:?} {sequence}");
                assert_eq!(receiver.open_rtp(&mut sealed.clone(), 12), Err(Discard::SrtpReplay));
            }
        }
    }

    /// Numbers as they arrive: of 64 each a third is lost, and the others come in the wrong order.
    fn arrivals(until: u64) -> Vec<u64> {
        let mut arrivals: Vec<u64> = (65_000..until).filter(|number| number % 3 != 0).collect();
        arrivals.chunks_mut(64).for_each(<[u64]>::reverse);
        arrivals
    }

    #[test]
    fn rollovers_are_counted_alike_under_loss_and_reordering() {
        // Two of them, with more packets than numbers, where the cipher is quick.
        for ((ours, theirs), until) in PROFILES.into_iter().zip([132_000, 66_000, 66_000]) {
            let (key, salt) = master(ours);
            let sender = SrtpSender::new(ours, &key, &salt);
            let (mut receiver, mut to_us, mut to_them) =
                (SrtpReceiver::new(ours, &key, &salt), oracle(ours, theirs), oracle(ours, theirs));
            let plain = |number: u64| packet(number as u16)[..40].to_vec();
            // A sender seals in order, whatever becomes of its packets.
            let sealed: HashMap<u64, Vec<u8>> = (65_000..until)
                .map(|number| (number, to_us.encrypt_rtp(&plain(number)).expect("seals").to_vec()))
                .collect();
            for number in arrivals(until) {
                let mut theirs = sealed[&number].clone();
                let length =
                    receiver.open_rtp(&mut theirs, 12).unwrap_or_else(|why| panic!("{ours:?} {number}: {why:?}"));
                assert_eq!(theirs[..length], plain(number));

                let mut ours = plain(number);
                ours.resize(40 + OVERHEAD_MAX, 0);
                let length = sender.seal_rtp(&mut ours, 12, 40, 0x0908_0706, number);
                assert_eq!(to_them.decrypt_rtp(&ours[..length]).expect("opens")[..], plain(number));
            }
        }
    }

    /// We name no key in use_srtp (RFC 5764, section 4.1.3), so nobody may name one in packets.
    #[test]
    fn packets_that_name_their_key_are_refused_and_change_nothing() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let mut receiver = SrtpReceiver::new(ours, &key, &salt);
            let mut oracle = oracle(ours, theirs);
            let tag = if ours == SrtpProfile::Aes128CmSha1_80 { SHA1_TAG } else { GCM_TAG };
            let sealed = oracle.encrypt_rtp(&packet(7)).expect("seals").to_vec();
            for key_id in [&[1][..], &[0, 0, 0, 1], &[7; 128]] {
                // Before the tag (RFC 3711, section 3.1), and behind it (RFC 7714, section 8.2).
                for at in [sealed.len() - tag, sealed.len()] {
                    let mut named = sealed.clone();
                    named.splice(at..at, key_id.iter().copied());
                    assert_eq!(receiver.open_rtp(&mut named, 12), Err(Discard::SrtpAuthentication));
                }
            }
            assert!(receiver.open_rtp(&mut sealed.clone(), 12).is_ok());
        }
    }

    #[test]
    fn rtcp_goes_both_ways() {
        let plain = {
            let mut out = vec![0x81, 201, 0, 7];
            out.extend_from_slice(&[1; 28]);
            out
        };
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let mut oracle = oracle(ours, theirs);
            let mut sender = SrtpSender::new(ours, &key, &salt);
            let mut sealed = plain.clone();
            sender.seal_rtcp(&mut sealed);
            assert_eq!(&oracle.decrypt_rtcp(&sealed).expect("opens")[..], &plain[..], "{ours:?}");

            let mut receiver = SrtpReceiver::new(ours, &key, &salt);
            let mut theirs = oracle.encrypt_rtcp(&plain).expect("seals").to_vec();
            let again = theirs.clone();
            let length = receiver.open_rtcp(&mut theirs).expect("opens");
            assert_eq!(&theirs[..length], &plain[..]);
            assert_eq!(receiver.open_rtcp(&mut again.clone()), Err(Discard::SrtpReplay));
        }
    }

    #[test]
    fn a_changed_byte_is_refused_and_does_not_move_the_window() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let mut receiver = SrtpReceiver::new(ours, &key, &salt);
            let sealed = oracle(ours, theirs).encrypt_rtp(&packet(7)).expect("seals").to_vec();
            for at in [3, 20, sealed.len() - 1] {
                let mut forged = sealed.clone();
                forged[at] ^= 1;
                assert_eq!(receiver.open_rtp(&mut forged, 12), Err(Discard::SrtpAuthentication));
            }
            assert!(receiver.open_rtp(&mut sealed.clone(), 12).is_ok());
        }
    }

    #[test]
    fn short_packets_are_refused() {
        for (ours, _) in PROFILES {
            let (key, salt) = master(ours);
            let mut receiver = SrtpReceiver::new(ours, &key, &salt);
            let tag = if ours == SrtpProfile::Aes128CmSha1_80 { SHA1_TAG } else { GCM_TAG };
            for length in 0..60 {
                let refusal = |least| if length < least { None } else { Some(Discard::SrtpAuthentication) };
                let expected = Err(refusal(RTCP_CLEAR + RTCP_INDEX + tag).unwrap_or(Discard::RtcpMalformed));
                assert_eq!(receiver.open_rtcp(&mut vec![0x80; length]), expected, "{ours:?}, {length} bytes");
                if length >= 12 {
                    let expected = Err(refusal(12 + tag).unwrap_or(Discard::RtpMalformed));
                    assert_eq!(receiver.open_rtp(&mut vec![0x80; length], 12), expected, "{ours:?}, {length} bytes");
                }
            }
        }
    }

    #[test]
    fn the_shortest_packets_are_sealed_and_opened() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let (mut sender, mut receiver) = (SrtpSender::new(ours, &key, &salt), SrtpReceiver::new(ours, &key, &salt));
            let (mut to_us, mut to_them) = (oracle(ours, theirs), oracle(ours, theirs));
            let plain = &packet(7)[..12];
            let mut sealed = to_us.encrypt_rtp(plain).expect("seals").to_vec();
            assert_eq!(receiver.open_rtp(&mut sealed, 12), Ok(12), "a header alone, {ours:?}");

            let plain = [0x80, 201, 0, 1, 9, 8, 7, 6];
            let mut sealed = plain.to_vec();
            sender.seal_rtcp(&mut sealed);
            assert_eq!(to_them.decrypt_rtcp(&sealed).expect("opens")[..], plain, "{ours:?}");
            let mut sealed = to_us.encrypt_rtcp(&plain).expect("seals").to_vec();
            assert_eq!(receiver.open_rtcp(&mut sealed), Ok(8), "an empty report, {ours:?}");
        }
    }

    /// Under an index that was used before, the cipher would use a nonce twice (RFC 7714, section 9.1), and the
    /// receiver would take the packet for a replayed one.
    #[test]
    fn each_rtcp_packet_has_an_index_of_its_own() {
        for (ours, _) in PROFILES {
            let (key, salt) = master(ours);
            let (mut sender, mut receiver) = (SrtpSender::new(ours, &key, &salt), SrtpReceiver::new(ours, &key, &salt));
            for number in 0..200u32 {
                let mut packet = [[0x80, 201, 0, 1], [0, 0, 0, 4]].concat();
                sender.seal_rtcp(&mut packet);
                let tag = if ours == SrtpProfile::Aes128CmSha1_80 { SHA1_TAG } else { 0 };
                let index = packet.len() - tag - RTCP_INDEX;
                assert_eq!(packet[index..index + RTCP_INDEX], (1 << 31 | number).to_be_bytes(), "{ours:?}");
                assert_eq!(receiver.open_rtcp(&mut packet), Ok(8), "{ours:?} {number}");
            }
        }
    }

    #[test]
    fn a_transport_has_so_many_streams_of_packets_and_of_reports() {
        for (ours, theirs) in PROFILES {
            let (key, salt) = master(ours);
            let (mut receiver, mut oracle) = (SrtpReceiver::new(ours, &key, &salt), oracle(ours, theirs));
            for ssrc in 0..STREAMS_MAX as u8 + 1 {
                let mut plain = packet(7);
                plain[8] = ssrc;
                let rtp = receiver.open_rtp(&mut oracle.encrypt_rtp(&plain).expect("seals").to_vec(), 12);
                let plain = [0x80, 201, 0, 1, ssrc, 0, 0, 1];
                let rtcp = receiver.open_rtcp(&mut oracle.encrypt_rtcp(&plain).expect("seals").to_vec());
                let is_beyond = usize::from(ssrc) >= STREAMS_MAX;
                let expected = |length| if is_beyond { Err(Discard::TooManyStreams) } else { Ok(length) };
                assert_eq!((rtp, rtcp), (expected(712), expected(8)), "{ours:?} {ssrc}");
            }
            // Those that are known go on.
            let mut plain = packet(8);
            plain[8] = 0;
            let rtp = receiver.open_rtp(&mut oracle.encrypt_rtp(&plain).expect("seals").to_vec(), 12);
            assert_eq!(rtp, Ok(712));
        }
    }

    /// The E flag says which (RFC 3711, section 3.4). With an AEAD nobody needs it (RFC 7714, section 9.3).
    #[test]
    fn rtcp_in_the_clear_is_taken_where_a_tag_of_its_own_protects_it() {
        let (key, salt) = master(SrtpProfile::Aes128CmSha1_80);
        let mut receiver = SrtpReceiver::new(SrtpProfile::Aes128CmSha1_80, &key, &salt);
        let plain = [&[0x81, 201, 0, 7, 9, 8, 7, 6][..], &[3; 24]].concat();
        let mut packet = [&plain[..], &5u32.to_be_bytes()].concat();
        let Cipher::CounterSha1(cipher) = &receiver.rtcp else { panic!("another cipher") };
        let tag = sha1_tag(&cipher.mac, [&packet, &[]]);
        packet.extend_from_slice(&tag);
        assert_eq!(receiver.open_rtcp(&mut packet), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);

        for profile in [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm] {
            let (key, salt) = master(profile);
            let mut packet = plain.clone();
            SrtpSender::new(profile, &key, &salt).seal_rtcp(&mut packet);
            let flag = packet.len() - RTCP_INDEX;
            packet[flag] &= 0x7f;
            let refusal = SrtpReceiver::new(profile, &key, &salt).open_rtcp(&mut packet);
            assert_eq!(refusal, Err(Discard::RtcpMalformed));
        }
    }

    /// RFC 3711, appendix A, where two are as near.
    #[test]
    fn of_two_numbers_that_are_as_near_the_one_of_the_same_rollover_is_taken() {
        let index = |highest, sequence| Stream { ssrc: 1, highest, window: 1 }.index_of(sequence);
        assert_eq!(index(0x1_0000, 0x8000), 0x1_8000);
        assert_eq!(index(0x1_8000, 0), 0x1_0000);
    }

    proptest! {
        /// Of the last 128 numbers each is taken once, in whatever order they come; older ones are not taken (RFC 3711,
        /// section 3.3.2).
        #[test]
        fn each_number_is_taken_once(steps in vec(prop_oneof![4 => -140i64..140, 1 => -2i64..3, 1 => 120i64..400], 1..300)) {
            let mut stream = Stream { ssrc: 1, highest: 1_000_000, window: 1 };
            let (mut seen, mut highest) = (HashSet::from([1_000_000]), 1_000_000u64);
            for step in steps {
                let index = highest.saturating_add_signed(step);
                let is_fresh = index > highest || (highest - index < 128 && !seen.contains(&index));
                prop_assert_eq!(stream.is_fresh(index), is_fresh, "{} after {}", index, highest);
                if is_fresh {
                    stream.accept(index);
                    seen.insert(index);
                    highest = highest.max(index);
                }
            }
        }

        /// RFC 3711, section 3.3.1.
        #[test]
        fn a_number_is_taken_for_the_nearest_of_its_kind(highest in 0x1_0000u64..0x5_0000, ahead in -0x7fffi64..0x8000) {
            let index = highest.saturating_add_signed(ahead);
            prop_assert_eq!(Stream { ssrc: 1, highest, window: 1 }.index_of(index as u16), index);
        }
    }
}
