//! The clock shared by the two ends of a measurement.
//!
//! `std::time::Instant` hides its value, but a send time has to travel inside a packet, so both ends read
//! `CLOCK_MONOTONIC` themselves. Publisher and subscriber must therefore run on one machine.

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of CPU that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds of the wall clock since 1970, which the kernel's arrival times count too.
pub fn realtime_ns() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// The wall clock as a 64-bit NTP timestamp (RFC 3550, section 4).
pub fn ntp_now() -> u64 {
    const NTP_TO_UNIX_S: u64 = 2_208_988_800;
    let now_ns = realtime_ns();
    let (seconds, rest_ns) = (now_ns / 1_000_000_000, now_ns % 1_000_000_000);
    ((seconds + NTP_TO_UNIX_S) << 32) | ((rest_ns << 32) / 1_000_000_000)
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the kernel to write one timespec.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn ntp_time_is_after_2020() {
        assert!(ntp_now() >> 32 > 3_786_825_600);
    }
}
