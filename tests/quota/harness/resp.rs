//! Just enough of the Redis protocol to stand beside the engine: a client of our own, so that no test trusts the one it tests.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

/// How long one command may take before its connection counts as dead.
const COMMAND: Duration = Duration::from_secs(8);

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Int(i64),
    List(Vec<Value>),
    Nil,
    Text(String),
}

impl Value {
    /// The number of a reply, whichever way it is written; zero for nil.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Value::Int(number) => u64::try_from(*number).expect("not negative"),
            Value::Nil => 0,
            Value::Text(text) => text.parse().unwrap_or_else(|_| panic!("no number: {text}")),
            Value::List(_) => panic!("no number: {self:?}"),
        }
    }

    /// The text of a reply; empty for nil.
    pub(crate) fn text(&self) -> String {
        match self {
            Value::Int(number) => number.to_string(),
            Value::Nil => String::new(),
            Value::Text(text) => text.clone(),
            Value::List(_) => panic!("no text: {self:?}"),
        }
    }

    /// The members of a list.
    pub(crate) fn list(&self) -> &[Value] {
        match self {
            Value::List(members) => members,
            Value::Nil => &[],
            Value::Int(_) | Value::Text(_) => panic!("no list: {self:?}"),
        }
    }
}

/// A connection.
pub(crate) struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = timeout(COMMAND, TcpStream::connect(address)).await.map_err(|_| late())??;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command and reads its reply; an error reply is an `Err` of kind `Other` with the server's text.
    pub(crate) async fn call(&mut self, words: &[&str]) -> std::io::Result<Value> {
        let mut wire = format!("*{}\r\n", words.len());
        for word in words {
            wire.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        let exchange = async {
            self.stream.get_mut().write_all(wire.as_bytes()).await?;
            self.read().await
        };
        timeout(COMMAND, exchange).await.map_err(|_| late())?
    }

    async fn read(&mut self) -> std::io::Result<Value> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().map_err(|_| odd(&line));
        Ok(match kind {
            "+" => Value::Text(rest.to_owned()),
            "-" => return Err(std::io::Error::other(rest.to_owned())),
            ":" => Value::Int(count()?),
            "$" => match usize::try_from(count()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes).await?;
                    bytes.truncate(length);
                    Value::Text(String::from_utf8_lossy(&bytes).into_owned())
                }
            },
            "*" => {
                let mut members = Vec::new();
                for _ in 0..count()?.max(0) {
                    members.push(Box::pin(self.read()).await?);
                }
                Value::List(members)
            }
            _ => return Err(odd(&line)),
        })
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches("\r\n").to_owned();
        if line.is_empty() { Err(odd(&line)) } else { Ok(line) }
    }
}

fn late() -> std::io::Error {
    std::io::ErrorKind::TimedOut.into()
}

fn odd(line: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("not the protocol: {line}"))
}
