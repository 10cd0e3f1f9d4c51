//! The store that the members of a group share, and how a member gets there.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Of the cluster: what its keys in the store begin with.
    pub name: String,
    /// What this process is called there.
    pub member: String,
    /// `http://HOST:PORT` or `https://HOST:PORT`, all of one kind.
    pub etcd: Vec<String>,
    /// Who certifies the store; `None`: it is asked without TLS.
    pub ca: Option<Certificates>,
    /// Who this process is, by its certificate and key.
    pub identity: Option<(Certificates, Secret)>,
    /// Who it is, by name and password.
    pub user: Option<(String, Secret)>,
    pub health: GroupHealth,
    /// Whether services that were published in the store stand in the place of those of the file.
    pub takes_published: bool,
}

/// By whose checks servers are up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupHealth {
    /// Each member's own.
    #[default]
    Own,
    /// Those of all dispatchers of the group, of which `check_by` check a server; `None`: all.
    Shared { check_by: Option<usize> },
}

/// In PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates(pub Vec<u8>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({} bytes)", self.0.len())
    }
}

/// It never reaches a log or an error message.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
