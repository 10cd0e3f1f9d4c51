//! `[service.quic]` and the servers' `quic_id`: their keys, and the rules between them (draft-ietf-quic-load-balancers-21).

use super::draft::{Draft, ServerDraft, ServiceDraft};
use super::key::{self, Names};
use super::report::Report;
use super::schema;
use super::section::{At, Section, text_element};
use super::service::distinct;
use super::value::quoted;
use crate::limits::{MAX_ROUTED, MAX_SERVER_ID, NONCE_LENGTHS, QUIC_CONFIGS, SERVER_ID_LENGTHS, SERVER_IDS};
use crate::model::{Engine, QuicConfig, QuicKey, ServerId, Transport};
use std::path::Path;

pub struct QuicDraft {
    at: usize,
    id: Option<At<u32>>,
    server_id_length: Option<At<u32>>,
    nonce_length: Option<At<u32>>,
    key: Option<At<QuicKey>>,
    /// A key that was refused is there as well.
    has_key: bool,
}

impl QuicDraft {
    /// The configs of a service.
    pub fn read_all(service: &Section, base: &Path, report: &mut Report) -> Vec<QuicDraft> {
        let sections = service.one_or_tables("quic", QUIC_CONFIGS, &schema::QUIC, report);
        sections.iter().map(|section| QuicDraft::read(section, base, report)).collect()
    }

    fn read(section: &Section, base: &Path, report: &mut Report) -> QuicDraft {
        let names = Names { inline: "key", in_file: "key_file", called: "key" };
        let no_secret = "this key is not secret, so anybody can read the server from connection IDs; make one with \
                         `openssl rand -hex 16`";
        let key = key::read_either(section, &names, no_secret, base, report);
        QuicDraft {
            at: section.at,
            id: section.integer("config_id", 0..=QUIC_CONFIGS as u32 - 1, report),
            server_id_length: section.integer("server_id_length", SERVER_ID_LENGTHS, report),
            nonce_length: section.integer("nonce_length", NONCE_LENGTHS, report),
            key: key.map(|At { at, value }| At { at, value: QuicKey(value) }),
            has_key: section.key_at("key").or(section.key_at("key_file")).is_some(),
        }
    }

    pub fn into_config(self) -> Option<QuicConfig> {
        Some(QuicConfig {
            id: self.id?.value as u8,
            server_id_length: self.server_id_length?.value as u8,
            nonce_length: self.nonce_length?.value as u8,
            key: self.key.map(|key| key.value),
        })
    }
}

/// The server IDs of a server.
pub fn read_ids(server: &Section, report: &mut Report) -> Vec<At<ServerId>> {
    let form = "hex digits, like \"c4605e\"";
    let empty = "`quic_id` is empty; leave the key out, or write quic_id = \"c4605e\"";
    let read = |id: &str| {
        id.parse().map_err(|()| {
            let most = 2 * MAX_SERVER_ID;
            format!("{} is not a server ID; write an even number of hex digits, {most} at most", quoted(id, '"'))
        })
    };
    let ids = server.one_or_list("quic_id", report, empty, |id, report| text_element(id, report, form, read));
    let ids: Vec<At<ServerId>> = ids.unwrap_or_default();
    if let Some(beyond) = ids.get(SERVER_IDS) {
        report.error(beyond.at, format!("{} of `quic_id`; at most {SERVER_IDS} are possible", ids.len()));
    }
    ids
}

/// Reports what these keys break together, and with what decides frames.
pub fn check(draft: &Draft, report: &mut Report) {
    for service in &draft.services {
        check_configs(service, report);
        check_ids(service, report);
    }
    check_engine(draft, report);
}

fn check_configs(service: &ServiceDraft, report: &mut Report) {
    let Some(first) = service.quic.first() else { return };
    if !service.ports.iter().flatten().any(|port| port.transport == Transport::Udp) {
        let label = service.label();
        report.missing(first.at, format!("{label} lists no UDP port for QUIC; write ports = [\"udp/443\"]"));
    }
    distinct(service.quic.iter().filter_map(|config| config.id.as_ref()), report, |id, line| {
        let most = QUIC_CONFIGS - 1;
        format!("config_id {id} is already given on line {line}; write another one, 0 to {most}")
    });
    for QuicDraft { server_id_length, nonce_length, .. } in &service.quic {
        let (Some(server), Some(nonce)) = (server_id_length, nonce_length) else { continue };
        if (server.value + nonce.value) as usize > MAX_ROUTED {
            report.error(
                nonce.at,
                format!(
                    "a server ID of {} bytes and a nonce of {} are more than the {MAX_ROUTED} that a connection ID has room for; write \
                     {} or less",
                    server.value,
                    nonce.value,
                    MAX_ROUTED as u32 - server.value
                ),
            );
        }
    }
    // Section 9.8: who knows plaintexts learns of the key.
    let plain = service.quic.iter().find(|config| !config.has_key);
    let Some(plain) = plain.and_then(|config| config.server_id_length) else { return };
    let encrypted = service.quic.iter().filter(|config| config.has_key).filter_map(|config| config.server_id_length);
    for length in encrypted.filter(|length| length.value == plain.value) {
        report.error(
            length.at,
            format!(
                "this config has a key, but the one on line {} has none and the same server IDs, so everybody can read \
                 them; write another `server_id_length`, and a `quic_id` of that length for each server",
                report.line(plain.at)
            ),
        );
    }
}

fn check_ids(service: &ServiceDraft, report: &mut Report) {
    let ids = || service.servers.iter().flat_map(|server| &server.quic_ids);
    if service.quic.is_empty() {
        if let Some(first) = ids().next() {
            let form = schema::SERVICE.key("quic").form;
            report.missing(
                first.at,
                format!("`quic_id` needs [service.quic], which {} lacks; write {form}", service.label()),
            );
        }
        return;
    }
    distinct(ids(), report, |id, line| {
        format!("server ID \"{id}\" is already given on line {line} in this service; each server has its own")
    });
    let lengths: Vec<At<u32>> = service.quic.iter().filter_map(|config| config.server_id_length).collect();
    let has_length = |id: &ServerId, length: &At<u32>| id.length() == length.value as usize;
    for id in ids().filter(|id| !lengths.is_empty() && lengths.iter().all(|length| !has_length(&id.value, length))) {
        let (digits, At { at, value: length }) = (2 * id.length(), lengths[0]);
        let (line, wanted) = (report.line(at), 2 * length);
        report.error(
            id.at,
            format!(
                "\"{}\" has {digits} hex digits, and `server_id_length` on line {line} is {length}; write {wanted} digits",
                id.value
            ),
        );
    }
    for QuicDraft { at, id, server_id_length, .. } in &service.quic {
        let (Some(config), Some(length)) = (id, server_id_length) else { continue };
        let lacks = |server: &&ServerDraft| !server.quic_ids.iter().any(|id| has_length(&id.value, length));
        let without: Vec<&ServerDraft> = service.servers.iter().filter(lacks).collect();
        let Some(name) = without.first().and_then(|server| server.name.as_ref()) else { continue };
        let config = config.value;
        let have = if without.len() == 1 { "has".to_owned() } else { format!("and {} more have", without.len() - 1) };
        report.warn(
            *at,
            format!(
                "server \"{}\" {have} no `quic_id` of {} bytes: connection IDs of config {config} never select it",
                name.value, length.value
            ),
        );
    }
}

/// Who cannot read connection IDs, or not those with a key: AES is for workers, a program in the kernel has none.
fn check_engine(draft: &Draft, report: &mut Report) {
    let engine = draft.dispatcher.as_ref().and_then(|dispatcher| dispatcher.engine);
    let engine = engine.filter(|engine| matches!(engine.value, Engine::Xdp | Engine::Auto));
    for QuicDraft { at, key, .. } in draft.services.iter().flat_map(|service| &service.quic) {
        if draft.filter.is_some() {
            report.warn(*at, "`oneip filter` ignores connection IDs: only dispatchers use them");
        }
        let (Some(key), Some(engine)) = (key, engine) else { continue };
        let what = match engine.value {
            Engine::Auto => "engine = \"auto\" may choose the engine xdp, which",
            _ => "the engine xdp",
        };
        let line = report.line(engine.at);
        let message = format!(
            "{what} cannot decrypt connection IDs; leave the key out, or write engine = \"af_xdp\" on line {line}"
        );
        report.error(key.at, message);
    }
}
