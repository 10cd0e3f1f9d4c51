//! `[group]`: the store that dispatchers and filters share. Certificates and the password are read here, so that what is wrong with
//! them is found before anything runs. No message shows any part of a secret.

use super::file;
use super::report::Report;
use super::schema;
use super::section::{At, Section, text_element};
use super::value;
use crate::limits::{GROUP_ENDPOINTS, GROUP_MEMBERS, MAX_CERTIFICATES, MAX_PASSWORD};
use crate::model::{Certificates, Group, GroupHealth, Secret};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Debian's package ca-certificates makes it, and most other systems have it there.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The permission bit.
const OTHERS_READ: u32 = 0o004;

/// Reads the section; relative paths are looked up in `base`. `None` where something is absent, which was reported.
pub fn read(section: &Section, base: &Path, report: &mut Report) -> Option<Group> {
    let name = section.text("name", report, value::name);
    let member = match section.key_at("member") {
        Some(_) => section.text("member", report, value::name).map(|member| member.value),
        None => host_name().map_err(|why| report.missing(section.at, why)).ok(),
    };
    let etcd = endpoints(section, report);
    let is_tls = etcd.iter().any(|endpoint| endpoint.starts_with("https://"));
    let ca = section.text("ca_file", report, |path| certificates(&base.join(path)));
    let cert = section.text("cert_file", report, |path| certificates(&base.join(path)));
    let key = secret_file(section, "key_file", report, |path| private_key(&base.join(path)));
    let user = section.text("user", report, value::name);
    let password = secret_file(section, "password_file", report, |path| password(&base.join(path)));
    for (one, other) in [("cert_file", "key_file"), ("user", "password_file")] {
        match (section.key_at(one), section.key_at(other)) {
            (Some(at), None) => report.missing(at, format!("`{one}` needs `{other}` too; write {}", form(other))),
            (None, Some(at)) => report.missing(at, format!("`{other}` needs `{one}` too; write {}", form(one))),
            _ => {}
        }
    }
    for file in ["ca_file", "cert_file"] {
        if let Some(at) = section.key_at(file).filter(|_| !is_tls && !etcd.is_empty()) {
            report.error(at, format!("`{file}` is for TLS, and no address in `etcd` begins with https://"));
        }
    }
    let ca = match ca {
        Some(ca) => Some(ca.value),
        None if !is_tls || section.key_at("ca_file").is_some() => None,
        None => certificates(Path::new(SYSTEM_CA))
            .map_err(|why| {
                report.error(section.at, format!("{why}; name the authority's certificate: {}", form("ca_file")))
            })
            .ok(),
    };
    let health = health(section, report);
    let places = [("file", false), ("etcd", true)];
    let takes_published = section.text("config", report, value::choice("config", places)).is_some_and(|it| it.value);
    let identity = cert.zip(key).map(|(cert, key)| (cert.value, key.value));
    let user = user.zip(password).map(|(user, password)| (user.value, password.value));
    Some(Group { name: name?.value, member: member?, etcd, ca, identity, user, health, takes_published })
}

fn health(section: &Section, report: &mut Report) -> GroupHealth {
    let kinds = [("own", false), ("shared", true)];
    let is_shared = section.text("health", report, value::choice("health", kinds)).is_some_and(|health| health.value);
    let check_by = section.integer("check_by", 1..=GROUP_MEMBERS as u32, report);
    match (is_shared, check_by) {
        (true, check_by) => GroupHealth::Shared { check_by: check_by.map(|check_by| check_by.value as usize) },
        (false, Some(check_by)) => {
            report.error(check_by.at, format!("`check_by` is for shared health; write {} too", form("health")));
            GroupHealth::Own
        }
        (false, None) => GroupHealth::Own,
    }
}

fn form(key: &str) -> &'static str {
    schema::GROUP.key(key).form
}

fn endpoints(section: &Section, report: &mut Report) -> Vec<String> {
    let wanted = "an address of etcd, like \"https://192.0.2.51:2379\"";
    let empty = "`etcd` is empty; write the addresses of the store, like [\"https://192.0.2.51:2379\"]";
    let read =
        section.list("etcd", report, empty, |endpoint, report| text_element(endpoint, report, wanted, self::endpoint));
    let read: Vec<At<String>> = read.unwrap_or_default();
    if let Some(beyond) = read.get(GROUP_ENDPOINTS) {
        report.error(beyond.at, format!("at most {GROUP_ENDPOINTS} addresses of etcd are possible"));
    }
    let plain = read.iter().find(|endpoint| endpoint.starts_with("http://"));
    if let Some(plain) = plain {
        match read.iter().any(|endpoint| endpoint.starts_with("https://")) {
            true => report.error(plain.at, "http:// and https:// are mixed; use https:// for all"),
            false => report.warn(
                plain.at,
                "etcd is used without TLS: anybody on the network path can read and change the group's orders; use \
                 https://",
            ),
        }
    }
    read.into_iter().map(|endpoint| endpoint.value).collect()
}

fn endpoint(text: &str) -> Result<String, String> {
    let quote = value::quoted(text, '"');
    let wrong = || format!("{quote} is not an address of etcd; write one like \"https://192.0.2.51:2379\"");
    let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
    if !["http", "https"].contains(&scheme) {
        return Err(wrong());
    }
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    let is_v6 =
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).map(|host| host.parse::<std::net::Ipv6Addr>());
    let is_host = match is_v6 {
        Some(parsed) => parsed.is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)),
    };
    match port.parse::<u16>() {
        Ok(1..) if is_host => Ok(format!("{scheme}://{authority}")),
        _ => Err(wrong()),
    }
}

/// What this host calls itself.
fn host_name() -> Result<String, String> {
    let text = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    value::name(text.trim())
        .map_err(|why| format!("the host name cannot be used as the member's name: {why}; write {}", form("member")))
}

/// A file whose content is a secret. Others that can read it are warned of.
fn secret_file<T>(
    section: &Section,
    key: &str,
    report: &mut Report,
    read: impl FnOnce(&str) -> Result<(T, bool, PathBuf), String>,
) -> Option<At<T>> {
    let At { at, value: (secret, exposed, path) } = section.text(key, report, read)?;
    if exposed {
        report.warn(at, format!("every user of this machine can read the `{key}` {path:?}; run `chmod o-rwx` on it"));
    }
    Some(At { at, value: secret })
}

fn certificates(path: &Path) -> Result<Certificates, String> {
    let (pem, _) = file::read(path, MAX_CERTIFICATES).map_err(|why| format!("the certificate file {path:?} {why}"))?;
    let count = CertificateDer::pem_slice_iter(&pem).try_fold(0, |count, read| read.map(|_| count + 1));
    match count {
        Ok(1..) => Ok(Certificates(pem)),
        _ => Err(format!(
            "the certificate file {path:?} holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"
        )),
    }
}

fn private_key(path: &Path) -> Result<(Secret, bool, PathBuf), String> {
    let (pem, facts) = file::read(path, MAX_CERTIFICATES).map_err(|why| format!("the key file {path:?} {why}"))?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(_) => Ok((Secret(pem), facts.permissions().mode() & OTHERS_READ != 0, path.to_owned())),
        Err(_) => Err(format!("the key file {path:?} holds no private key in PEM without a passphrase")),
    }
}

fn password(path: &Path) -> Result<(Secret, bool, PathBuf), String> {
    let (text, facts) = file::read(path, MAX_PASSWORD).map_err(|why| format!("the password file {path:?} {why}"))?;
    let password = text.trim_ascii();
    match std::str::from_utf8(password) {
        Ok(text) if !text.is_empty() && !text.contains(|c: char| c.is_control()) => {
            Ok((Secret(password.to_vec()), facts.permissions().mode() & OTHERS_READ != 0, path.to_owned()))
        }
        _ => Err(format!("the password file {path:?} does not hold one line of text")),
    }
}
