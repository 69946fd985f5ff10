//! What lies behind an error: transports wrap the cause that a person needs in several layers.

use std::error::Error;
use std::io;
use std::iter::successors;

/// The error and what caused it, outermost first. `source` of an I/O or TLS error skips the error that it
/// wraps; this does not.
pub fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| inner(error).or_else(|| error.source()))
}

fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    }
    match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => Some(other.0.as_ref()),
        _ => None,
    }
}

/// The first error of one type in the chain.
pub fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    chain(error).find_map(|error| error.downcast_ref())
}

/// The chain as one line, nothing said twice.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for error in chain(error) {
        let text = error.to_string();
        if !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Transport(#[source] io::Error);

    fn wrapped() -> Transport {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        Transport(io::Error::other(tls))
    }

    #[test]
    fn a_cause_inside_an_io_error_is_found() {
        assert!(matches!(find_cause(&wrapped()), Some(rustls::Error::InvalidCertificate(_))));
    }

    #[test]
    fn causes_are_said_once_and_outermost_first() {
        assert_eq!(causes(&wrapped()), "transport error: invalid peer certificate: Expired");
    }
}
