//! Open files, of which each connection is one.

use std::io;

/// Raises the soft limit of open files to the hard one (getrlimit(2)): the soft one is for programs that use select(2).
/// Returns both.
///
/// # Errors
/// What the system says.
pub fn raise_limit() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a value of the type that the call writes, alive during it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((before, limit.rlim_max))
}

/// Descriptors that strangers' connections leave to health checks, to the store and to calls of other servers.
const RESERVE: u64 = 128;

/// How many may be open for a stranger's connection to be served, by the limit that holds now.
pub fn max_for_strangers() -> i32 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as in `raise_limit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return i32::MAX;
    }
    let reserve = RESERVE.min(limit.rlim_cur / 8);
    i32::try_from(limit.rlim_cur - reserve).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
        let (before, after) = raise_limit().unwrap();

        assert!(before <= after);
        assert_eq!(raise_limit().unwrap(), (after, after));
        assert!(u64::try_from(max_for_strangers()).unwrap() < after);
    }
}
