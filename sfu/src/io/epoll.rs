//! Waiting for sockets, and being woken by other threads.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// An epoll instance.
pub(super) struct Epoll(OwnedFd);

/// What a registered descriptor waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// In nothing but its end.
    None,
    Read,
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        match self {
            Interest::None => 0,
            Interest::Read => libc::EPOLLIN as u32,
            Interest::ReadWrite => (libc::EPOLLIN | libc::EPOLLOUT) as u32,
        }
    }
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is owned by nobody else.
        unsafe { check(libc::epoll_create1(libc::EPOLL_CLOEXEC)).map(|fd| Self(OwnedFd::from_raw_fd(fd))) }
    }

    pub(super) fn add(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub(super) fn change(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.bits(), u64: token };
        // SAFETY: `event` lives through the call.
        unsafe { check(libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &mut event)).map(drop) }
    }

    /// Appends the tokens of what is ready to `ready`; waits at most `timeout`, for ever without one.
    pub(super) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 128];
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().min(3600) as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        });
        let timespec = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` and `timespec` live through the call, and the length is that of `events`.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as libc::c_int,
                timespec,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        match check(count as i32) {
            Ok(count) => {
                ready.extend(events.iter().take(count.max(0) as usize).map(|event| event.u64));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Wakes a worker from [`Epoll::wait`]: an eventfd.
#[derive(Clone)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the descriptor is owned by nobody else.
        unsafe {
            check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))
                .map(|fd| Self(Arc::new(OwnedFd::from_raw_fd(fd))))
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn wake(&self) {
        let one = 1u64;
        // SAFETY: eight bytes are read from `one`. A full counter means that it is awake already.
        unsafe { libc::write(self.fd(), std::ptr::from_ref(&one).cast(), 8) };
    }

    /// Forgets all wake-ups so far.
    pub(super) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight bytes are written to `count`. Nothing to read is fine.
        unsafe { libc::read(self.fd(), std::ptr::from_mut(&mut count).cast(), 8) };
    }
}

/// The system's error for a negative result.
pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
