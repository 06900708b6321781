//! One request to the admin port: HTTP/1.0 over a plain connection, bounded in time and size.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::Duration,
};

use secrecy::zeroize::Zeroizing;

/// For each step of the exchange.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The port cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(in crate::command) enum ClientError {
    #[error("the answer is none of mcp-authz: is {0} its admin port?")]
    Odd(SocketAddr),
    #[error("{address} cannot be asked: {source}; is mcp-authz running there?")]
    Unreachable { address: SocketAddr, source: io::Error },
}

/// The admin port of one process.
pub(super) struct Client {
    address: SocketAddr,
    token: Zeroizing<String>,
}

impl Client {
    pub(super) fn new(address: SocketAddr, token: Zeroizing<String>) -> Self {
        // Listening on every address is no address to connect to.
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        Self { address: SocketAddr::new(ip, address.port()), token }
    }

    /// Sends `METHOD /path` and a body; gives status and body of the answer.
    pub(super) fn ask(&self, what: &str, body: Option<&str>) -> Result<(u16, String), ClientError> {
        let bytes =
            self.exchange(what, body).map_err(|source| ClientError::Unreachable { address: self.address, source })?;
        parse(&bytes).ok_or(ClientError::Odd(self.address))
    }

    fn exchange(&self, what: &str, body: Option<&str>) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (host, token) = (self.address, self.token.as_str());
        let length = body.map_or(0, str::len);
        let head = Zeroizing::new(format!(
            "{what} HTTP/1.0\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ));
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.unwrap_or_default().as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    // The length tells a whole answer from one that broke off.
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    (length == Some(body.len())).then(|| Some((status.parse().ok()?, body.to_owned())))?
}

/// Percent-encodes a value of a query.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_is_one() {
        let answer = |text: &str| parse(text.as_bytes());
        assert_eq!(answer("HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\n\r\nno"), Some((404, "no".to_owned())));
        for odd in [
            "",
            "HTTP/1.0 200 OK",
            "HTTP/1.0 200 OK\r\n\r\nno",
            "HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nno",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(answer(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_text_survives_a_query() {
        assert_eq!(encode("a+b c/ä&=%"), "a%2Bb%20c%2F%C3%A4%26%3D%25");
    }
}
