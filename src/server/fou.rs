//! Ports at which the kernel takes GUE apart (net/ipv4/fou_core.c), over generic netlink (include/uapi/linux/fou.h, genetlink.h).

use std::io::{self, ErrorKind};

use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub number: u16,
    pub is_v4: bool,
}

impl Port {
    /// What opens it by hand.
    pub fn command(self) -> String {
        format!("ip fou add port {} gue{}", self.number, if self.is_v4 { "" } else { " -6" })
    }
}

/// `NLMSG_ERROR`, `NLMSG_DONE`; `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `FOU_CMD_*`, `FOU_ATTR_*`, `FOU_ENCAP_GUE`.
const ADD: u8 = 1;
const DELETE: u8 = 2;
const GET: u8 = 3;
const PORT: u16 = 1;
const FAMILY: u16 = 2;
const KIND: u16 = 4;
const GUE: u8 = 2;

/// In front of the attributes: `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// A socket to the part of the kernel that has these ports.
pub struct Fou {
    socket: Socket,
    family: u16,
}

impl Fou {
    /// `None`: this kernel has none.
    pub fn open() -> io::Result<Option<Fou>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let controller = Fou { socket, family: CONTROLLER };
        let answers = match controller.ask(GET_FAMILY, ACK, &attribute(FAMILY_NAME, b"fou\0")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            answers => answers?,
        };
        let id = answers.iter().find_map(|answer| value(answer, FAMILY_ID)).and_then(|id| id.first_chunk().copied());
        Ok(id.map(|id| Fou { socket: controller.socket, family: u16::from_ne_bytes(id) }))
    }

    /// Those that take GUE apart.
    pub fn ports(&self) -> io::Result<Vec<Port>> {
        let port = |answer: &Vec<u8>| {
            let number = u16::from_be_bytes(*value(answer, PORT)?.first_chunk()?);
            let family = i32::from(*value(answer, FAMILY)?.first()?);
            let is_gue = value(answer, KIND)?.first() == Some(&GUE);
            is_gue.then_some(Port { number, is_v4: family == libc::AF_INET })
        };
        Ok(self.ask(GET, DUMP, &[])?.iter().filter_map(port).collect())
    }

    pub fn add(&self, port: Port) -> io::Result<()> {
        self.ask(ADD, ACK, &[attributes(port), attribute(KIND, &[GUE])].concat()).map(|_| ())
    }

    pub fn delete(&self, port: Port) -> io::Result<()> {
        self.ask(DELETE, ACK, &attributes(port)).map(|_| ())
    }

    /// The attributes of each message of the answer.
    fn ask(&self, command: u8, flags: u16, attributes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut request = Vec::with_capacity(HEADERS + attributes.len());
        request.extend(((HEADERS + attributes.len()) as u32).to_ne_bytes());
        request.extend([self.family, REQUEST | flags].iter().flat_map(|half| half.to_ne_bytes()));
        // Sequence and port; then version 1.
        request.extend([0; 8]);
        request.extend([command, 1, 0, 0]);
        request.extend(attributes);
        self.socket.send(&request, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while let Some(length) = rest.first_chunk().map(|head| u32::from_ne_bytes(*head) as usize) {
                let Some(message) = rest.get(..length).filter(|message| message.len() >= HEADERS) else { break };
                match u16::from_ne_bytes([message[4], message[5]]) {
                    DONE => return Ok(answers),
                    ERROR => {
                        return match i32::from_ne_bytes([message[16], message[17], message[18], message[19]]) {
                            0 => Ok(answers),
                            errno => Err(io::Error::from_raw_os_error(-errno)),
                        };
                    }
                    _ => answers.push(message[HEADERS..].to_vec()),
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

fn attributes(port: Port) -> Vec<u8> {
    let family = if port.is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    [attribute(PORT, &port.number.to_be_bytes()), attribute(FAMILY, &[family as u8])].concat()
}

/// `struct nlattr` and what it has, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = [length as u16, kind].iter().flat_map(|half| half.to_ne_bytes()).collect::<Vec<u8>>();
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

fn value(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(head) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let this = attributes.get(4..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) == kind {
            return Some(this);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_among_others_and_nothing_in_what_is_cut_short() {
        let all = [attribute(FAMILY, &[2]), attribute(PORT, &6080u16.to_be_bytes()), attribute(KIND, &[GUE])].concat();
        assert_eq!(value(&all, PORT), Some(&6080u16.to_be_bytes()[..]));
        assert_eq!(value(&all, KIND), Some(&[GUE][..]));
        assert_eq!(value(&all, 9), None);
        for length in 0..all.len() {
            let _ = value(&all[..length], KIND);
        }
    }
}
