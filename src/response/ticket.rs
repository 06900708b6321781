//! The ticket of a response: what judging it needs, carried by Envoy from the Check to the response, so that no process has to
//! remember a call and any replica can judge.
//!
//! Like the settle token it is signed and not encrypted, and signed with the same key; its first byte tells the two apart.

use std::sync::Arc;

use mcp_authz_core::{
    mcp::{Era, Method},
    response::Asked,
};

use crate::quota::{Keys, SealError};

/// Longest ticket that is written or read, in characters: the longest id and name of a tool fit.
pub const TICKET_BYTES_MAX: usize = 8 * 1024;

/// First byte of the format, which no settle token begins with.
const KIND: u8 = b'R';
/// Second byte. Another version is another program's: during an upgrade its responses are withheld.
const VERSION: u8 = 1;

/// What a ticket says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Unix milliseconds of the decision.
    pub issued_ms: u64,
    /// Name of the server.
    pub server: Arc<str>,
    /// Id of the policy that decided.
    pub policy: Arc<str>,
    /// First eight bytes of its digest.
    pub policy_digest: [u8; 8],
    /// Label of the grant.
    pub grant: Arc<str>,
    /// What was asked.
    pub asked: Asked,
    /// The wire protocol of the request.
    pub era: Era,
    /// The request's id exactly as written; `None` for GET.
    pub id: Option<Box<str>>,
    /// Envoy's own id of the stream.
    pub stream_id: Option<Box<str>>,
    /// Correlation id, as Envoy passed it on.
    pub request_id: Option<Box<str>>,
}

/// Why a ticket is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Too long, or no base64.
    #[error("ticket of a response cannot be read")]
    Garbled,
    /// Not signed with the keys of this store: forged, or the data of the store was lost since.
    #[error("ticket of a response is not signed with the keys of this store")]
    Signature,
    /// Signed by us, and of a format that this version does not know.
    #[error("ticket of a response has an unknown format")]
    Version,
}

impl Ticket {
    /// The method for metrics and audit: a closed set.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match &self.asked {
            Asked::Call(_) => Method::ToolsCall.name(),
            Asked::Request(method) => method.name(),
            Asked::Stream => "GET",
        }
    }

    /// The tool that was called, if one was.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        match &self.asked {
            Asked::Call(tool) => Some(tool),
            Asked::Request(_) | Asked::Stream => None,
        }
    }

    /// Signs it. `None` if it would be longer than [`TICKET_BYTES_MAX`]: such a request must not go, since nobody could judge its
    /// response.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> Option<String> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&[KIND, VERSION]);
        out.extend_from_slice(&self.issued_ms.to_be_bytes());
        out.extend_from_slice(&self.policy_digest);
        let (asked, name) = match &self.asked {
            Asked::Call(tool) => (b'c', &**tool),
            Asked::Request(method) => (b'r', method.name()),
            Asked::Stream => (b's', ""),
        };
        let era = match self.era {
            Era::Legacy => b'l',
            Era::Modern => b'm',
        };
        out.extend_from_slice(&[asked, era]);
        for text in [&self.server, &self.policy, &self.grant] {
            push(&mut out, text)?;
        }
        push(&mut out, name)?;
        for text in [&self.id, &self.stream_id, &self.request_id] {
            push(&mut out, text.as_deref().unwrap_or_default())?;
        }
        keys.seal(out, TICKET_BYTES_MAX)
    }

    /// Reads a ticket that Envoy brought back.
    ///
    /// # Errors
    /// See [`TicketError`]; the caller withholds the response.
    pub fn read(ticket: &[u8], keys: &Keys) -> Result<Self, TicketError> {
        let signed = keys.open(ticket, TICKET_BYTES_MAX).map_err(|error| match error {
            SealError::Garbled => TicketError::Garbled,
            SealError::Signature => TicketError::Signature,
        })?;
        let mut reader = Reader(&signed);
        let ticket = reader.ticket().filter(|_| reader.0.is_empty());
        ticket.ok_or(TicketError::Version)
    }
}

fn push(out: &mut Vec<u8>, text: &str) -> Option<()> {
    out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Some(())
}

/// What is left to read. Signed bytes are read as carefully as any others: another version of this program, or another kind of
/// token, may stand there.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn ticket(&mut self) -> Option<Ticket> {
        if self.array()? != [KIND, VERSION] {
            return None;
        }
        let issued_ms = u64::from_be_bytes(self.array()?);
        let policy_digest = self.array()?;
        let [asked, era] = self.array()?;
        let era = match era {
            b'l' => Era::Legacy,
            b'm' => Era::Modern,
            _ => return None,
        };
        let (server, policy, grant) = (self.text()?.into(), self.text()?.into(), self.text()?.into());
        let name = self.text()?;
        let asked = match asked {
            b'c' => Asked::Call(name.into()),
            b'r' => Asked::Request(Method::parse(name)?),
            b's' if name.is_empty() => Asked::Stream,
            _ => return None,
        };
        let mut optional = || self.text().map(|text| (!text.is_empty()).then(|| Box::from(text)));
        let (id, stream_id, request_id) = (optional()?, optional()?, optional()?);
        // A stream belongs to no request; everything else must be answered under the id that was asked with.
        if id.is_some() != (asked != Asked::Stream) {
            return None;
        }
        Some(Ticket { issued_ms, server, policy, policy_digest, grant, asked, era, id, stream_id, request_id })
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use proptest::prelude::*;

    use super::*;
    use crate::quota::SIGNATURE_BYTES;

    fn keys() -> Keys {
        Keys::derive(&[7; 32])
    }

    fn ticket() -> Ticket {
        Ticket {
            issued_ms: 1_781_604_300_007,
            server: "demo".into(),
            policy: "support".into(),
            policy_digest: [1, 2, 3, 4, 5, 6, 7, 8],
            grant: "agent".into(),
            asked: Asked::Call("find_käse".into()),
            era: Era::Modern,
            id: Some("\"a\\u0041\"".into()),
            stream_id: Some("9264854546074171864".into()),
            request_id: None,
        }
    }

    #[test]
    fn a_ticket_reads_back() {
        let stream = Ticket { asked: Asked::Stream, id: None, era: Era::Legacy, ..ticket() };
        let list = Ticket { asked: Asked::Request(Method::ToolsList), request_id: Some("r-1".into()), ..ticket() };
        for ticket in [ticket(), stream, list] {
            let text = ticket.sign(&keys()).unwrap();
            assert_eq!(Ticket::read(text.as_bytes(), &keys()), Ok(ticket));
        }
        assert_eq!(ticket().method(), "tools/call");
        assert_eq!(ticket().tool(), Some("find_käse"));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_says_why() {
        let text = ticket().sign(&keys()).unwrap();
        let read = |text: &str| Ticket::read(text.as_bytes(), &keys()).unwrap_err();
        assert_eq!(read(""), TicketError::Garbled);
        assert_eq!(read("no base64!"), TicketError::Garbled);
        assert_eq!(read(text.get(1..).unwrap()), TicketError::Garbled, "one character is missing");
        assert_eq!(read(text.get(4..).unwrap()), TicketError::Signature);
        assert_eq!(Ticket::read(text.as_bytes(), &Keys::derive(&[8; 32])), Err(TicketError::Signature));
        let sign = |bytes: &[u8]| {
            let mut out = bytes.to_vec();
            out.extend_from_slice(&keys().sign(bytes));
            URL_SAFE_NO_PAD.encode(out)
        };
        assert_eq!(read(&sign(b"R\x02")), TicketError::Version);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        let signed = &bytes[..bytes.len() - SIGNATURE_BYTES];
        assert!(Ticket::read(sign(signed).as_bytes(), &keys()).is_ok());
        let (mut other, mut longer) = (signed.to_vec(), signed.to_vec());
        other[0] = 1;
        longer.push(0);
        assert_eq!(read(&sign(&other)), TicketError::Version, "a settle token is no ticket");
        assert_eq!(read(&sign(&longer)), TicketError::Version);
        for end in 0..signed.len() {
            assert_eq!(read(&sign(&signed[..end])), TicketError::Version);
        }
        let no_id = Ticket { id: None, ..ticket() }.sign(&keys()).unwrap();
        assert_eq!(read(&no_id), TicketError::Version, "nobody could be answered");
    }

    #[test]
    fn the_longest_request_that_is_let_through_has_a_ticket_and_a_longer_one_has_none() {
        use mcp_authz_core::mcp::{ID_BYTES_MAX, NAME_BYTES_MAX};
        let longest = Ticket {
            asked: Asked::Call("t".repeat(NAME_BYTES_MAX).into()),
            id: Some("1".repeat(ID_BYTES_MAX).into()),
            grant: "g".repeat(128).into(),
            server: "s".repeat(64).into(),
            policy: "p".repeat(255).into(),
            stream_id: Some("1".repeat(20).into()),
            request_id: Some("r".repeat(64).into()),
            ..ticket()
        };
        let text = longest.sign(&keys()).unwrap();
        assert_eq!(Ticket::read(text.as_bytes(), &keys()).as_ref(), Ok(&longest));
        let room = TICKET_BYTES_MAX / 4 * 3 - URL_SAFE_NO_PAD.decode(text).unwrap().len();
        let with =
            |more: usize| Ticket { asked: Asked::Call("t".repeat(NAME_BYTES_MAX + more).into()), ..longest.clone() };
        let at_limit = with(room).sign(&keys()).unwrap();
        assert!(at_limit.len() <= TICKET_BYTES_MAX && Ticket::read(at_limit.as_bytes(), &keys()).is_ok());
        assert!(with(room + 1).sign(&keys()).is_none());
        assert_eq!(Ticket::read(&[b'A'; TICKET_BYTES_MAX + 1], &keys()), Err(TicketError::Garbled));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut signed = [KIND, VERSION].to_vec();
            signed.extend(&bytes);
            let signature = keys().sign(&signed);
            signed.extend_from_slice(&signature);
            let text = URL_SAFE_NO_PAD.encode(signed);
            if let Ok(ticket) = Ticket::read(text.as_bytes(), &keys()) {
                prop_assert_eq!(ticket.sign(&keys()), Some(text), "one spelling for each ticket");
            }
        }
    }
}
