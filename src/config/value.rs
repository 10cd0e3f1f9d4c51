//! From the text of one value to the value, or to what is wrong with it and what would be right.

use crate::model::{Admin, Mac, Port, Prefix, Transport};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

const MAX_NAME: usize = 64;

/// What an operator writes for what the configuration says.
const DEFAULT: &str = "default";

/// The kernel's `IFNAMSIZ` without the terminating zero.
const MAX_INTERFACE: usize = 15;

/// `sun_path` without the terminating zero, see unix(7).
const MAX_SOCKET: usize = 107;

/// RFC 1035, section 2.3.4.
const MAX_HOST: usize = 253;

/// RFC 9110, section 15.
pub const STATUSES: RangeInclusive<u16> = 100..=599;

/// A name of a service or server, as it stands in metrics, JSON and on the command line.
pub fn name(text: &str) -> Result<String, String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(is_legal) {
        return Ok(text.to_owned());
    }
    let name = quoted(text, '"');
    Err(format!("{name} is not a name; use 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores"))
}

/// The name of a server.
pub fn server_name(text: &str) -> Result<String, String> {
    match text {
        DEFAULT => Err(format!(
            "a server cannot be called \"{DEFAULT}\": that word means the configuration's weight in `oneip ctl \
             weight`; give it another name"
        )),
        _ => name(text),
    }
}

/// A name that the kernel would accept, see `dev_valid_name` in net/core/dev.c.
pub fn interface(text: &str) -> Result<String, String> {
    let is_legal = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if (1..=MAX_INTERFACE).contains(&text.len()) && text.chars().all(is_legal) && text != "." && text != ".." {
        return Ok(text.to_owned());
    }
    let name = quoted(text, '"');
    Err(format!("{name} is not an interface name; use 1 to {MAX_INTERFACE} characters without spaces, `/` and `:`"))
}

/// The address of one machine.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let quote = quoted(text, '"');
    let address = text.parse::<IpAddr>().map_err(|_| not_an_address(text))?;
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!("{quote} is an IPv4-mapped IPv6 address; write the IPv4 address, \"{v4}\""));
    }
    let kind = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of no host (RFC 1122, 3.2.1.3)",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => {
            "a reserved address (RFC 1112, section 4), which hosts and routers drop"
        }
        _ => return Ok(address),
    };
    Err(format!("{quote} is {kind}; write a unicast address, like \"203.0.113.80\""))
}

/// An address, or the addresses that begin alike.
pub fn prefix(text: &str) -> Result<Prefix, String> {
    let Some((head, length)) = text.split_once('/') else { return address(text).map(Prefix::host) };
    let quote = quoted(text, '"');
    let prefix = head.parse::<IpAddr>().ok().zip(length.parse::<u8>().ok());
    let Some((address, length)) = prefix.filter(|(address, length)| *length <= Prefix::host(*address).length) else {
        return Err(format!("{quote} is not a prefix; write one like \"192.0.2.0/24\" or \"2001:db8:2::/64\""));
    };
    let prefix = Prefix { address, length };
    match prefix.contains(address) {
        true => Ok(prefix),
        false => Err(format!("{quote} has host bits set; write \"{}\"", prefix.first())),
    }
}

/// An address that a router can have a route for.
pub fn cluster_address(text: &str) -> Result<IpAddr, String> {
    let cluster = address(text)?;
    let is_link_local = match cluster {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    match is_link_local {
        true => Err(format!(
            "{} is a link-local address, to which no router forwards; write another one, like \"203.0.113.80\"",
            quoted(text, '"')
        )),
        false => Ok(cluster),
    }
}

/// Addresses to which no router forwards, or which no host may have.
const SPECIAL: [(&str, u8, &str); 9] = [
    ("0.0.0.0", 8, "addresses of no host (RFC 1122, 3.2.1.3)"),
    ("127.0.0.0", 8, "loopback addresses"),
    ("169.254.0.0", 16, "link-local addresses"),
    ("224.0.0.0", 4, "multicast addresses"),
    ("240.0.0.0", 4, "reserved addresses (RFC 1112, section 4)"),
    ("::", 127, "the unspecified and the loopback address"),
    ("::ffff:0:0", 96, "IPv4-mapped addresses"),
    ("fe80::", 10, "link-local addresses"),
    ("ff00::", 8, "multicast addresses"),
];

/// A cluster address, or a prefix of them.
pub fn cluster_prefix(text: &str) -> Result<Prefix, String> {
    if !text.contains('/') {
        return cluster_address(text).map(Prefix::host);
    }
    let prefix = prefix(text)?;
    let quote = quoted(text, '"');
    if prefix.is_host() {
        return cluster_address(&prefix.to_string()).map(Prefix::host);
    }
    if prefix.length == 0 {
        return Err(format!(
            "{quote} covers every address; write the prefix that routers send here, like \"203.0.113.0/24\""
        ));
    }
    for (address, length, kind) in SPECIAL {
        let special = Prefix { address: address.parse().expect("an address"), length };
        if special.covers(&prefix) || prefix.covers(&special) {
            return Err(format!(
                "{quote} has {kind} in it; write a prefix of unicast addresses, like \"203.0.113.0/24\""
            ));
        }
    }
    Ok(prefix)
}

fn not_an_address(text: &str) -> String {
    let quote = quoted(text, '"');
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return format!("{quote} has a port; write the address alone, \"{}\"", with_port.ip());
    }
    for (mark, what) in [('/', "a prefix length"), ('%', "a zone")] {
        if let Some(address) = text.split_once(mark).and_then(|(head, _)| head.parse::<IpAddr>().ok()) {
            return format!("{quote} has {what}; write the address alone, \"{address}\"");
        }
    }
    format!("{quote} is not an IP address; write one like \"203.0.113.80\" or \"2001:db8::80\"")
}

/// A transport and port, `tcp/80`.
pub fn port(text: &str) -> Result<Port, String> {
    let quote = quoted(text, '"');
    let parts = text.split_once('/');
    if let Some((number, transport)) = parts
        && let (Some(number), Some(transport)) = (Port::number_of(number), Transport::from_name(transport))
    {
        return Err(format!("{quote} is the wrong way round; write \"{}\"", Port { transport, number }));
    }
    if let Some(number) = Port::number_of(text) {
        return Err(format!(
            "{quote} lacks the transport; write \"tcp/{number}\", \"udp/{number}\" or \"sctp/{number}\""
        ));
    }
    let Some((transport, number)) = parts else {
        return Err(format!("{quote} is not a transport and port; write it like \"tcp/80\""));
    };
    match (Transport::from_name(transport), Port::number_of(number)) {
        (Some(transport), Some(number)) => Ok(Port { transport, number }),
        (None, _) => Err(format!("{quote} does not begin with a transport that has ports; write tcp, udp or sctp")),
        (_, None) => Err(format!("{quote} does not end with a port; write one port from 1 to 65535, like \"tcp/80\"")),
    }
}

/// The Ethernet address of one machine.
pub fn mac(text: &str) -> Result<Mac, String> {
    let quote = quoted(text, '"');
    let Ok(mac) = text.parse::<Mac>() else {
        return Err(format!("{quote} is not a MAC address; write six pairs of hex digits, like \"02:00:00:00:00:11\""));
    };
    if mac.is_group() {
        return Err(format!("{quote} is a group address; write the server's own MAC, whose first byte is even"));
    }
    if mac.0 == [0; 6] {
        return Err(format!(
            "{quote} is not the address of a machine; write the server's own MAC, like \"02:00:00:00:00:11\""
        ));
    }
    Ok(mac)
}

/// One of a few words.
pub fn choice<T: Copy, const N: usize>(key: &str, choices: [(&str, T); N]) -> impl Fn(&str) -> Result<T, String> {
    move |text| {
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let (last, others) = words.split_last().expect("there is a choice");
            format!("{} is not a value of `{key}`; write {} or {last}", quoted(text, '"'), others.join(", "))
        })
    }
}

/// What a `Host` header says: a name or an address. As it is written in a URL, an IPv6 address in brackets.
pub fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(IpAddr::V6(v6)) = bare.parse() {
        return Ok(format!("[{v6}]"));
    }
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=MAX_HOST).contains(&text.len()) && text.chars().all(is_legal) {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a host; write a name or address alone, like \"www.example.org\"", quoted(text, '"')))
}

/// The path of a URL, with the query if there is one.
pub fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Ok(text.to_owned());
    }
    Err(format!("{} is not a path; write one like \"/healthz\", other characters as %XX", quoted(text, '"')))
}

/// A range of HTTP statuses, `200-299`.
pub fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let status = |text: &str| text.parse().ok().filter(|status| STATUSES.contains(status));
    match text.split_once('-').map(|(first, last)| (status(first), status(last))) {
        Some((Some(first), Some(last))) if first <= last => Ok(first..=last),
        _ => Err(format!("{} is not a range of HTTP statuses; write one like \"200-299\"", quoted(text, '"'))),
    }
}

/// The path of a file, like `example`; a relative one is looked up in `base`.
pub fn file(text: &str, example: &str, base: &Path) -> Result<PathBuf, String> {
    if text.is_empty() || text.ends_with('/') || text.contains('\0') {
        return Err(format!("{} is not the path of a file; write one like \"{example}\"", quoted(text, '"')));
    }
    Ok(base.join(text))
}

/// The path of a Unix socket, likewise.
pub fn socket(text: &str, base: &Path) -> Result<PathBuf, String> {
    let path = file(text, Admin::SOCKET, base)?;
    match path.as_os_str().len() {
        0..=MAX_SOCKET => Ok(path),
        bytes => {
            Err(format!("a socket's path has at most {MAX_SOCKET} bytes, and this has {bytes}; write a shorter one"))
        }
    }
}

/// An address of this machine and a port to listen on.
pub fn listener(text: &str) -> Result<SocketAddr, String> {
    let quote = quoted(text, '"');
    let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    match text.parse::<SocketAddr>() {
        Ok(listener) if listener.port() != 0 => Ok(listener),
        Ok(listener) => Err(format!(
            "{quote} has no port; write one from 1 to 65535, like \"{}\"",
            SocketAddr::new(listener.ip(), 9180)
        )),
        Err(_) if let Some(address) = address(text) => {
            Err(format!("{quote} lacks the port; write it like \"{}\"", SocketAddr::new(address, 9180)))
        }
        Err(_) => {
            Err(format!("{quote} is not an IP address and port; write it like \"127.0.0.1:9180\" or \"[::1]:9180\""))
        }
    }
}

/// Text from the file as a message may show it: on one line, nothing that a terminal obeys, not too long.
pub fn quoted(text: &str, quote: char) -> String {
    const SHOWN: usize = 48;
    let more = if text.chars().nth(SHOWN).is_some() { "..." } else { "" };
    let shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    format!("{quote}{shown}{more}{quote}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_stays_on_one_line_and_is_cut() {
        assert_eq!(quoted("a\nb\x1b[31m", '"'), r#""a\nb\u{1b}[31m""#);
        assert_eq!(quoted(&"é".repeat(60), '`'), format!("`{}...`", "é".repeat(48)));
    }
}
