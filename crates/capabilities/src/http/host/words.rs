//! Our errors and methods in the words of the interface, which are the same in 0.2 and 0.3 and of a type of their own in
//! each.

use model::HttpScheme;

use crate::http::BodyError;
use crate::http::client::SendError;

macro_rules! words {
    ($types:path) => {
        const _: () = {
            use $types::{DnsErrorPayload, ErrorCode, Method, Scheme};

            impl From<&http::Method> for Method {
                fn from(method: &http::Method) -> Self {
                    match *method {
                        http::Method::GET => Self::Get,
                        http::Method::HEAD => Self::Head,
                        http::Method::POST => Self::Post,
                        http::Method::PUT => Self::Put,
                        http::Method::DELETE => Self::Delete,
                        http::Method::CONNECT => Self::Connect,
                        http::Method::OPTIONS => Self::Options,
                        http::Method::TRACE => Self::Trace,
                        http::Method::PATCH => Self::Patch,
                        _ => Self::Other(method.as_str().to_owned()),
                    }
                }
            }

            impl TryFrom<Method> for http::Method {
                type Error = http::method::InvalidMethod;

                fn try_from(method: Method) -> Result<Self, Self::Error> {
                    Ok(match method {
                        Method::Get => Self::GET,
                        Method::Head => Self::HEAD,
                        Method::Post => Self::POST,
                        Method::Put => Self::PUT,
                        Method::Delete => Self::DELETE,
                        Method::Connect => Self::CONNECT,
                        Method::Options => Self::OPTIONS,
                        Method::Trace => Self::TRACE,
                        Method::Patch => Self::PATCH,
                        Method::Other(name) => return Self::from_bytes(name.as_bytes()),
                    })
                }
            }

            impl From<Scheme> for Option<HttpScheme> {
                fn from(scheme: Scheme) -> Self {
                    match scheme {
                        Scheme::Http => Some(HttpScheme::Http),
                        Scheme::Https => Some(HttpScheme::Https),
                        Scheme::Other(_) => None,
                    }
                }
            }

            impl From<BodyError> for ErrorCode {
                fn from(error: BodyError) -> Self {
                    match error {
                        BodyError::Gone => Self::ConnectionTerminated,
                        BodyError::Timeout => Self::ConnectionReadTimeout,
                        BodyError::Malformed => Self::HttpProtocolError,
                        BodyError::TooLarge => Self::HttpResponseBodySize(None),
                    }
                }
            }

            impl From<SendError> for ErrorCode {
                fn from(error: SendError) -> Self {
                    let text = error.to_string();
                    match error {
                        SendError::Scheme | SendError::Destination(_) | SendError::Malformed => {
                            Self::HttpRequestUriInvalid
                        }
                        SendError::Method(_) => Self::HttpRequestMethodInvalid,
                        SendError::NotGranted(_) => Self::HttpRequestDenied,
                        SendError::TooMany | SendError::Busy => Self::ConnectionLimitReached,
                        SendError::NoApp => Self::DestinationNotFound,
                        SendError::NoAddress => Self::DnsError(DnsErrorPayload {
                            rcode: Some("NXDOMAIN".to_owned()),
                            info_code: None,
                        }),
                        SendError::LookUp(_) => Self::DnsError(DnsErrorPayload {
                            rcode: Some("SERVFAIL".to_owned()),
                            info_code: None,
                        }),
                        SendError::LookUpTimeout => Self::DnsTimeout,
                        SendError::Unreachable => Self::DestinationIpProhibited,
                        SendError::Refused => Self::ConnectionRefused,
                        SendError::Connect(_) => Self::DestinationUnavailable,
                        SendError::ConnectTimeout => Self::ConnectionTimeout,
                        SendError::Certificate(_) => Self::TlsCertificateError,
                        SendError::Tls(_) => Self::TlsProtocolError,
                        SendError::HeadTimeout => Self::HttpResponseTimeout,
                        SendError::HeadTooLarge => Self::HttpResponseHeaderSectionSize(None),
                        SendError::Protocol(_) => Self::HttpProtocolError,
                        SendError::Gone => Self::ConnectionTerminated,
                        SendError::BodyUnfinished => Self::HttpRequestBodySize(None),
                        SendError::ReplyTooLarge(size) => {
                            Self::HttpResponseBodySize(Some(size.bytes()))
                        }
                        SendError::Memory | SendError::Platform(_) => {
                            Self::InternalError(Some(text))
                        }
                    }
                }
            }
        };
    };
}

words!(super::bindings::wasi::http::types);
words!(super::wasi03::bindings::wasi::http::types);
