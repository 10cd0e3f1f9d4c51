//! TLS for checks over https. **Certificates are not verified**, on purpose: the check is about whether the server serves,
//! it sends no secret, and a certificate that is self-signed or ran out is no reason to take every server of a service
//! down at once. Nothing but probes may use this.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

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
