//! A virtual cable between two network namespaces that exist as long as they are used.
//!
//! Namespaces are made by the threads that enter them, without names, so nothing is left behind. Needs the right to make
//! them, and the `ip` program.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::mpsc;

use anyhow::{Context as _, bail};

use crate::receivers::Receivers;

/// Where the sender is.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 1);
/// Where the receivers are.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 2);
/// Where nobody is: the far end's interface takes packets to it, and its namespace throws them away at once.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 210, 0, 3);
/// Hardware address of nobody.
pub const NOBODY: Mac = [2, 0, 0, 0, 0, 3];
/// The sender's end of the cable.
pub const NEAR_NAME: &str = "bench-near";
const FAR_NAME: &str = "bench-far";

/// A hardware address.
pub type Mac = [u8; 6];

/// The cable, as its sending end sees it.
pub struct Link {
    pub receivers: Receivers,
    pub near: Mac,
    pub far: Mac,
}

/// Puts the calling thread into a new namespace with one end of a cable; `count` receivers are at the other end.
///
/// # Errors
///
/// Says which right or program is missing.
pub fn enter(count: usize, receivers_core: Option<usize>) -> anyhow::Result<Link> {
    new_namespace()?;
    let (tell_thread, thread) = mpsc::channel();
    let (tell_plugged, plugged) = mpsc::channel();
    let far = std::thread::spawn(move || -> anyhow::Result<(Receivers, Mac)> {
        new_namespace()?;
        // SAFETY: no memory is involved.
        tell_thread.send(unsafe { libc::gettid() }).context("the near end is gone")?;
        plugged.recv().context("the near end is gone")?;
        configure(FAR_NAME, FAR)?;
        Ok((Receivers::open(count, FAR, receivers_core)?, mac(FAR_NAME)?))
    });
    if let Ok(thread) = thread.recv() {
        ip(&["link", "add", NEAR_NAME, "type", "veth", "peer", "name", FAR_NAME])?;
        ip(&["link", "set", FAR_NAME, "netns", &thread.to_string()])?;
        configure(NEAR_NAME, NEAR)?;
        let nobody = NOBODY.map(|byte| format!("{byte:02x}")).join(":");
        ip(&["neighbour", "add", &NOWHERE.to_string(), "lladdr", &nobody, "dev", NEAR_NAME, "nud", "permanent"])?;
        // If the far end is gone it says so below.
        let _ = tell_plugged.send(());
    }
    let (receivers, far) = far.join().expect("the far end does not panic")?;
    Ok(Link { receivers, near: mac(NEAR_NAME)?, far })
}

/// Who cuts runs into datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmentation {
    /// Runs cross the cable whole, as they reach a NIC that cuts them.
    Device,
    /// The sender's kernel, as before a NIC that does not.
    Software,
}

impl Link {
    /// Sets who cuts runs; only for the thread that entered the namespace.
    ///
    /// # Errors
    ///
    /// When the system's `ip` does not know how.
    pub fn segment_by(&self, segmentation: Segmentation) -> anyhow::Result<()> {
        let segments = match segmentation {
            Segmentation::Device => "65535",
            Segmentation::Software => "1",
        };
        ip(&["link", "set", NEAR_NAME, "gso_max_segs", segments])
    }
}

fn new_namespace() -> anyhow::Result<()> {
    // SAFETY: no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(error).context("making a network namespace (needs root, or CAP_SYS_ADMIN)")
}

fn configure(name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    ip(&["address", "add", &format!("{address}/24"), "dev", name])?;
    ip(&["link", "set", name, "up"])
}

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("running `ip` (of iproute2)")?;
    if !output.status.success() {
        bail!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// The kernel's number of an interface in the calling thread's namespace.
///
/// # Errors
///
/// When there is none of that name.
pub fn index(name: &str) -> io::Result<u32> {
    let mut request = request(name);
    ask(libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: the kernel has written this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex }.cast_unsigned())
}

fn mac(name: &str) -> io::Result<Mac> {
    let mut request = request(name);
    ask(libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: the kernel has written this member.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let [a, b, c, d, e, f, ..] = data.map(|byte| byte as u8);
    Ok([a, b, c, d, e, f])
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero bytes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IFNAMSIZ - 1) {
        *to = from as libc::c_char;
    }
    request
}

fn ask(question: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: no memory is involved; the descriptor is new and nobody else's.
    let socket = unsafe {
        let descriptor = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    // SAFETY: the kernel reads and writes one request.
    match unsafe { libc::ioctl(socket.as_raw_fd(), question, std::ptr::from_mut(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
