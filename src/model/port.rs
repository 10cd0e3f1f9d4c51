//! Ports of transport protocols.

use std::fmt;
use std::str::FromStr;

/// A transport protocol and port, written `tcp/80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Port {
    pub transport: Transport,
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.transport.name(), self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Port, String> {
        let parts = text.split_once('/').and_then(|(transport, number)| {
            Some(Port { transport: Transport::from_name(transport)?, number: Port::number_of(number)? })
        });
        parts.ok_or_else(|| format!("{text} is not a transport and port; write it like tcp/80"))
    }
}

impl Port {
    /// The number of a port, in digits alone; there is no port 0.
    pub fn number_of(text: &str) -> Option<u16> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        text.parse().ok().filter(|number| *number != 0)
    }
}

impl From<Port> for String {
    fn from(port: Port) -> String {
        port.to_string()
    }
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Port, String> {
        text.parse()
    }
}

/// The transports whose first four bytes are the source and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    pub const ALL: [Transport; 3] = [Transport::Tcp, Transport::Udp, Transport::Sctp];

    /// IANA protocol number.
    pub const fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }

    pub const fn from_protocol(protocol: u8) -> Option<Transport> {
        match protocol {
            6 => Some(Transport::Tcp),
            17 => Some(Transport::Udp),
            132 => Some(Transport::Sctp),
            _ => None,
        }
    }

    pub fn from_name(name: &str) -> Option<Transport> {
        Transport::ALL.into_iter().find(|transport| transport.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_it_is_written() {
        for text in ["tcp/80", "udp/1", "sctp/65535"] {
            assert_eq!(text.parse::<Port>().map(|port| port.to_string()), Ok(text.to_owned()));
        }
        for text in
            ["", "80", "tcp", "tcp/", "tcp/0", "tcp/+80", "tcp/65536", "tcp/80-81", "80/tcp", "TCP/80", "icmp/80"]
        {
            let message = format!("{text} is not a transport and port; write it like tcp/80");
            assert_eq!(text.parse::<Port>(), Err(message));
        }
    }
}
