//! The word to a service manager such as systemd, where it asked for one (sd_notify(3), `Type=notify`).

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{env, io};

/// Says that this process is the service and is ready. After an upgrade it is another process than the one that the
/// manager started.
pub fn ready() -> io::Result<()> {
    let Some(address) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&address)?,
    };
    let word = format!("READY=1\nMAINPID={}\n", std::process::id());
    UnixDatagram::unbound()?.send_to_addr(word.as_bytes(), &address)?;
    Ok(())
}
