//! Whose a QUIC connection is, by its connection ID (draft-ietf-quic-load-balancers-21).

use super::index::Index;
use crate::limits::QUIC_CONFIGS;
use crate::model::{QuicConfig, ServerId};
use crate::wire::connection_id::{self, Codec};
use crate::wire::quic;
use std::sync::Arc;

/// What the connection IDs of a service are read by. Behind those of all configs, where a connection ID of none looks, there is nothing.
pub struct Codecs([Option<Codec>; QUIC_CONFIGS + 1]);

impl Codecs {
    /// `None`: connection IDs say nothing.
    pub fn new(configs: &[QuicConfig]) -> Option<Arc<Codecs>> {
        if configs.is_empty() {
            return None;
        }
        let of = |id| configs.iter().find(|config| usize::from(config.id) == id).map(Codec::new);
        Some(Arc::new(Codecs(std::array::from_fn(of))))
    }
}

/// The servers of a service by what connection IDs say.
pub struct ConnectionIds {
    codecs: Arc<Codecs>,
    /// `ServerId::number` -> server.
    servers: Index<u128>,
}

impl ConnectionIds {
    /// Of these servers, each with its position. Of equal IDs the first one's stays.
    pub fn new<'s>(codecs: &Arc<Codecs>, servers: impl Iterator<Item = (u16, &'s [ServerId])>) -> ConnectionIds {
        let each = servers.flat_map(|(server, ids)| ids.iter().map(move |id| (id.number(), u32::from(server))));
        ConnectionIds { codecs: Arc::clone(codecs), servers: Index::new(each) }
    }

    /// The server of what a UDP datagram carries. `None`: its connection ID says nothing, or is nobody's.
    #[inline]
    pub fn server(&self, datagram: &[u8]) -> Option<u16> {
        let id = quic::destination_id(datagram)?;
        let codec = self.codecs.0[usize::from(connection_id::config_id(id)?)].as_ref()?;
        self.servers.get(codec.server_id(id)?.number()).map(|server| server as u16)
    }

    /// The configs by which it reads.
    pub fn configs(&self) -> impl Iterator<Item = &QuicConfig> {
        self.codecs.0.iter().flatten().map(Codec::config)
    }

    /// Every server ID, with the server that it is of.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, u16)> {
        self.servers.iter().map(|(id, server)| (ServerId::from_number(id), server as u16))
    }
}
