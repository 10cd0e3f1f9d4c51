//! One oneip an interface. What a process asks of the kernel for its interface (rules, routes, neighbours, programs) is its own
//! then, and a second one that is refused has touched nothing.

use crate::limits::RELEASE;
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Why an interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{interface} is in use: {owner} dispatches or filters there; stop it, or set another `interface` (nothing was \
         changed)"
    )]
    Taken { interface: String, owner: String },
    #[error("{interface} cannot be locked: {error}")]
    Kernel { interface: String, error: io::Error },
}

/// The interface is this process's, in this network namespace, as long as this lives. The kernel lets it go with the process,
/// however that ends.
#[derive(Debug)]
pub struct InterfaceLock {
    _socket: Socket,
}

impl InterfaceLock {
    /// Waits a little for a process that is just ending.
    ///
    /// # Errors
    /// Another one has it.
    pub fn take(interface: &str) -> Result<InterfaceLock, LockError> {
        let give_up = Instant::now() + RELEASE;
        loop {
            match bind(interface) {
                Ok(socket) => return Ok(InterfaceLock { _socket: socket }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(LockError::Kernel { interface: interface.to_owned(), error });
                }
                Err(_) if Instant::now() < give_up => thread::sleep(Duration::from_millis(20)),
                Err(_) => return Err(LockError::Taken { interface: interface.to_owned(), owner: owner(interface) }),
            }
        }
    }
}

impl InterfaceLock {
    /// Whether somebody has it.
    pub fn is_taken(interface: &str) -> bool {
        bind(interface).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Names of abstract sockets are those of a network namespace (unix(7)), as interfaces are.
fn address(interface: &str) -> io::Result<SockAddr> {
    SockAddr::unix(format!("\0oneip/interface/{interface}"))
}

fn bind(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address(interface)?)?;
    // Whoever connects learns who listens.
    socket.listen(1)?;
    Ok(socket)
}

fn owner(interface: &str) -> String {
    let ask = || -> io::Result<String> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Blocking, it would wait for room in the queue, which nobody empties.
        socket.set_nonblocking(true)?;
        socket.connect(&address(interface)?)?;
        Ok(format!("oneip, process {},", socket_peercred(&socket)?.pid))
    };
    ask().unwrap_or_else(|_| "another oneip".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_one_process_s_until_it_lets_go() {
        let name = format!("test{}", std::process::id());
        let first = InterfaceLock::take(&name).expect("it is free");
        let _other = InterfaceLock::take(&format!("{name}b")).expect("another interface");
        for _ in 0..4 {
            // The queue of those who ask is full after the second.
            let error = InterfaceLock::take(&name).expect_err("it is taken").to_string();
            assert!(error.starts_with(&format!("{name} is in use: ")), "{error}");
            assert!(error.ends_with("(nothing was changed)"), "{error}");
            let owner = owner(&name);
            let pid = format!("oneip, process {},", std::process::id());
            assert!(owner == pid || owner == "another oneip", "{owner}");
        }
        drop(first);
        InterfaceLock::take(&name).expect("it is free again");
    }
}
