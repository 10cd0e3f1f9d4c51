//! TLS for checks over https. **Certificates are not verified**, on purpose: the check is about whether the server serves,
//! it sends no secret, and a certificate that is self-signed or ran out is no reason to take every server of a service
//! down at once. Nothing but probes may use this.
//!
//! **Nor is anything kept secret**: our side of the key exchange is no secret at all (`Open`), for agreeing on one costs a probe more than
//! everything else together (perf/method.md). It is a whole handshake for all that, and the server does its part as for any client.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    ActiveKeyExchange, SharedSecret, SupportedKxGroup, WebPkiSupportedAlgorithms, ring,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, NamedGroup, PeerMisbehaved, SignatureScheme,
};

/// Offered first: much of what is left to do is hashing, and processors do SHA-256 faster than SHA-384.
const CHEAP: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// TLS 1.2 and 1.3. Sessions are not resumed: each probe is a whole handshake, as a new client's.
pub(super) fn client() -> Arc<ClientConfig> {
    static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let mut provider = ring::default_provider();
        // A server that does not take P-256 gets an exchange of another group, with a secret.
        provider.kx_groups.retain(|group| group.name() != NamedGroup::secp256r1);
        provider.kx_groups.insert(0, &Open);
        provider.cipher_suites.sort_by_key(|suite| !CHEAP.contains(&suite.suite()));
        let verifier = Arc::new(Anyone(provider.signature_verification_algorithms));
        let versions = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
        let mut client = versions
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Arc::new(client)
    });
    Arc::clone(&CLIENT)
}

/// The name that is asked for in the handshake; an address is not sent (RFC 6066, section 3).
pub(super) fn name(host: Option<&str>, cluster: IpAddr) -> ServerName<'static> {
    let bare = host.map(|host| host.trim_matches(['[', ']']).to_owned());
    bare.and_then(|host| ServerName::try_from(host).ok()).unwrap_or_else(|| cluster.into())
}

/// ECDH on P-256 with the private key 1: the public key is the generator, and what comes out is what the server sent.
#[derive(Debug)]
struct Open;

/// The base point of P-256, uncompressed (SEC 2 version 2.0, section 2.4.2).
const GENERATOR: [u8; 65] = *b"\x04\
    \x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\
    \x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";

impl SupportedKxGroup for Open {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Open))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

impl ActiveKeyExchange for Open {
    /// The secret is the X coordinate of the product (RFC 8446, section 7.4.2).
    fn complete(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        match server {
            [4, point @ ..] if point.len() == 64 => Ok(SharedSecret::from(&point[..32])),
            _ => Err(PeerMisbehaved::InvalidKeyShare.into()),
        }
    }

    fn pub_key(&self) -> &[u8] {
        &GENERATOR
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp256r1
    }
}

/// Takes any certificate, and any proof that the server has its key.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer,
        _: &[CertificateDer],
        _: &ServerName,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
