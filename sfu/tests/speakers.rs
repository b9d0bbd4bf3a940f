//! Who speaks, by the audio levels in publishers' packets (RFC 6464): what rooms hear of it.

mod media;

use std::time::Duration;

use media::{AUDIO, Rtp, World, audio_section};
use sfu::command::{Command, Event, PublicationId};

const PACKET: Duration = Duration::from_millis(20);
const MIC: u64 = 2;

/// A publisher of audio; each packet carries the level of its 20 ms, 0 the loudest.
struct Mic {
    world: World,
    sequence: u16,
    timestamp: u32,
}

impl Mic {
    fn new() -> Self {
        let mut world = World::new();
        world.join(1);
        world.publish(1, MIC, audio_section(200));
        Self { world, sequence: 0, timestamp: 0 }
    }

    fn send(&mut self, level: u8, packets: usize) {
        for _ in 0..packets {
            self.world.pass(PACKET);
            self.sequence = self.sequence.wrapping_add(1);
            self.timestamp = self.timestamp.wrapping_add(960);
            self.packet(level);
        }
    }

    fn packet(&mut self, level: u8) {
        let packet = Rtp {
            payload_type: AUDIO,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 200,
            extensions: vec![(5, vec![level])],
            payload: vec![1; 80],
            ..Rtp::default()
        };
        self.world.send(1, &[packet]);
    }

    /// DTX: nothing is sent, and the clock goes on.
    fn fall_silent(&mut self, packets: u32) {
        self.world.pass(PACKET * packets);
        self.timestamp = self.timestamp.wrapping_add(960 * packets);
    }

    /// The levels that the room was told of since the last call.
    fn told(&mut self) -> Vec<f32> {
        let activity = |event| if let Event::AudioActivity { level, .. } = event { Some(level) } else { None };
        std::mem::take(&mut self.world.events).into_iter().filter_map(activity).collect()
    }

    fn mute(&mut self, muted: bool) {
        self.world.command(Command::SetMuted { publication: PublicationId(MIC), muted });
    }
}

#[test]
fn chromiums_fake_microphone_becomes_a_speaker_within_two_beeps() {
    // A beep of 20 ms twice a second, smeared over two packets by the encoder; DTX falls silent 200 ms after it.
    let mut mic = Mic::new();
    for _ in 0..3 {
        mic.send(13, 2);
        mic.send(127, 10);
        mic.fall_silent(13);
    }
    assert!(mic.told().iter().any(|level| *level > 0.0));
}

/// livekit-server's clock has to tick first: up to 400 ms more.
#[test]
fn a_speaker_is_told_with_the_packet_that_makes_it_one() {
    for wait in 0..20 {
        let mut mic = Mic::new();
        mic.world.pass(PACKET * wait);
        let mut first = None;
        mic.send(13, 2);
        let start = mic.world.now;
        for _ in 0..3 {
            mic.send(127, 10);
            mic.fall_silent(13);
            for _ in 0..2 {
                mic.send(13, 1);
                if first.is_none() && mic.told().iter().any(|level| *level > 0.0) {
                    first = Some(mic.world.now - start);
                }
            }
        }
        assert_eq!(first, Some(Duration::from_millis(480)), "{wait}");
    }
}

#[test]
fn a_voice_is_told_while_it_lasts_and_silence_after_it() {
    let mut mic = Mic::new();
    mic.send(20, 100);
    assert!(mic.told().iter().all(|level| *level > 0.0));
    mic.send(127, 60);
    assert_eq!(mic.told(), [0.0]);
}

/// Its clock and levels are what it likes; each time all of its room would be told.
#[test]
fn a_publisher_that_changes_all_the_time_is_told_of_a_few_times_a_second() {
    let mut mic = Mic::new();
    for number in 0..1_000 {
        mic.world.pass(Duration::from_millis(1));
        mic.timestamp = mic.timestamp.wrapping_add(48_000);
        mic.sequence += 1;
        let level = if number % 3 == 0 { 0 } else { 127 };
        mic.packet(level);
    }
    let told = mic.told().len();
    assert!((2..=9).contains(&told), "{told}");
}

#[test]
fn a_speaker_whose_packets_stop_is_told_to_be_silent() {
    let mut mic = Mic::new();
    mic.send(20, 100);
    assert!(mic.told().iter().all(|level| *level > 0.0));
    mic.fall_silent(100);
    assert_eq!(mic.told(), [0.0]);
}

#[test]
fn a_speaker_that_was_muted_is_told_again() {
    let mut mic = Mic::new();
    mic.send(20, 100);
    assert!(!mic.told().is_empty());
    mic.mute(true);
    mic.send(20, 100);
    assert_eq!(mic.told(), []);
    mic.mute(false);
    mic.send(20, 100);
    assert!(mic.told().iter().any(|level| *level > 0.0));
}
