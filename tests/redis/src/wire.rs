//! As much of RESP as a test needs: a command out, one answer back, over a Unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Several.
    Array(Vec<Value>),
    /// Bytes; every text that a test stores is UTF-8, others are read with replacements.
    Bulk(String),
    /// What the server complains about, its code first.
    Error(String),
    /// A number.
    Int(i64),
    /// Nothing there.
    Nil,
    /// A short text such as `OK`.
    Simple(String),
}

impl Value {
    /// The number, if it is one.
    #[must_use]
    pub const fn int(&self) -> Option<i64> {
        if let Value::Int(number) = self { Some(*number) } else { None }
    }

    /// The text, if it is one and no complaint.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Bulk(text) | Value::Simple(text) => Some(text),
            Value::Array(_) | Value::Error(_) | Value::Int(_) | Value::Nil => None,
        }
    }

    /// The answers inside, if there are several.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        if let Value::Array(items) = self { items } else { &[] }
    }
}

/// One connection, one command at a time.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the socket.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket)?) })
    }

    /// Sends a command and reads the answer; a complaint of the server is a [`Value::Error`].
    ///
    /// # Errors
    /// If the connection breaks or the answer is no RESP.
    pub fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<Value> {
        let mut request = format!("*{}\r\n", command.len()).into_bytes();
        for part in command {
            let part = part.as_ref();
            request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut chars = line.chars();
        let (kind, rest) = (chars.next(), chars.as_str());
        let number = || rest.parse::<i64>().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        match kind {
            Some('+') => Ok(Value::Simple(rest.to_owned())),
            Some('-') => Ok(Value::Error(rest.to_owned())),
            Some(':') => number().map(Value::Int),
            Some('$') => match usize::try_from(number()?) {
                Ok(len) => {
                    let mut bytes = vec![0; len.saturating_add(2)];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(len);
                    Ok(Value::Bulk(String::from_utf8_lossy(&bytes).into_owned()))
                }
                Err(_) => Ok(Value::Nil),
            },
            Some('*') => match usize::try_from(number()?) {
                Ok(len) => (0..len).map(|_| self.answer()).collect::<io::Result<_>>().map(Value::Array),
                Err(_) => Ok(Value::Nil),
            },
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
