//! The reply a guest makes.

use http::{HeaderMap, StatusCode};
use wasmtime::component::Resource;

use super::bindings::wasi::http::types::{self, ErrorCode};
use super::body::OutgoingBody;
use super::{HttpView, take_fields};
use crate::http::{Fields, GaveUp, Outgoing, Reply};

/// A reply that is being made.
pub struct OutgoingResponse {
    status: StatusCode,
    headers: Fields,
    body: Option<Outgoing>,
}

/// The place for the one answer of an invocation.
pub struct ResponseOutparam;

impl types::HostOutgoingResponse for HttpView<'_> {
    fn new(&mut self, headers: Resource<Fields>) -> wasmtime::Result<Resource<OutgoingResponse>> {
        let headers = take_fields(self.table, headers)?;
        Ok(self.table.push(OutgoingResponse {
            status: StatusCode::OK,
            headers,
            body: None,
        })?)
    }

    fn status_code(&mut self, response: Resource<OutgoingResponse>) -> wasmtime::Result<u16> {
        Ok(self.table.get(&response)?.status.as_u16())
    }

    fn set_status_code(
        &mut self,
        response: Resource<OutgoingResponse>,
        status: u16,
    ) -> wasmtime::Result<Result<(), ()>> {
        let Some(status) = final_status(status) else {
            return Ok(Err(()));
        };
        self.table.get_mut(&response)?.status = status;
        Ok(Ok(()))
    }

    fn headers(
        &mut self,
        response: Resource<OutgoingResponse>,
    ) -> wasmtime::Result<Resource<Fields>> {
        let headers = self.table.get(&response)?.headers.shared();
        Ok(self.table.push(headers)?)
    }

    fn body(
        &mut self,
        response: Resource<OutgoingResponse>,
    ) -> wasmtime::Result<Result<Resource<OutgoingBody>, ()>> {
        let response = self.table.get_mut(&response)?;
        if response.body.is_some() {
            return Ok(Err(()));
        }
        let Ok(length) = content_length(response.headers.map()) else {
            return Ok(Err(()));
        };
        let body = Outgoing::held(&self.context.memory)?;
        response.body = Some(body.clone());
        Ok(Ok(self.table.push(OutgoingBody::new(body, length))?))
    }

    fn drop(&mut self, response: Resource<OutgoingResponse>) -> wasmtime::Result<()> {
        self.table.delete(response)?;
        Ok(())
    }
}

impl types::HostResponseOutparam for HttpView<'_> {
    fn set(
        &mut self,
        outparam: Resource<ResponseOutparam>,
        response: Result<Resource<OutgoingResponse>, ErrorCode>,
    ) -> wasmtime::Result<()> {
        self.table.delete(outparam)?;
        let answer = match response {
            Ok(response) => {
                let response = self.table.delete(response)?;
                match content_length(response.headers.map()) {
                    Ok(_) => Ok(Reply {
                        status: response.status,
                        headers: response.headers.into_map(),
                        body: response.body.unwrap_or_else(Outgoing::empty),
                    }),
                    Err(text) => Err(GaveUp(text)),
                }
            }
            Err(code) => Err(GaveUp(format!("{code:?}"))),
        };
        self.context.body = answer.as_ref().ok().map(|reply| reply.body.clone());
        if let Some(sender) = self.context.answer.take() {
            // Nobody listens if the client is gone; the invocation ends for that reason.
            let _ = sender.send(answer);
        }
        Ok(())
    }

    fn drop(&mut self, outparam: Resource<ResponseOutparam>) -> wasmtime::Result<()> {
        self.table.delete(outparam)?;
        Ok(())
    }
}

/// A reply's status: 1xx is not a reply, and what lies above 599 is not a status (RFC 9110 §15).
pub(super) fn final_status(status: u16) -> Option<StatusCode> {
    let status = StatusCode::from_u16(status).ok()?;
    (200..=599).contains(&status.as_u16()).then_some(status)
}

/// The one length that the fields promise. Several, or one that is no plain number, would frame the message in two ways.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, String> {
    let mut values = headers.get_all(http::header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (is_number, text.parse(), values.next()) {
        (true, Ok(length), None) => Ok(Some(length)),
        _ => Err(format!(
            "`content-length: {}`, which is not one plain number",
            text.escape_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_one_plain_length_or_none() {
        let check = |values: &[&str], expected: Result<Option<u64>, ()>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(http::header::CONTENT_LENGTH, value.parse().unwrap());
            }
            assert_eq!(
                content_length(&headers).map_err(drop),
                expected,
                "{values:?}"
            );
        };
        check(&[], Ok(None));
        check(&["5"], Ok(Some(5)));
        for bad in ["+5", "-1", "5,5", "", " 5", "0x5", "99999999999999999999"] {
            check(&[bad], Err(()));
        }
        check(&["5", "5"], Err(()));
    }
}
