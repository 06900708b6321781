//! The name server of the cluster: answers with the addresses of the pods behind a headless Service.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

/// A name server for any name, which stops with its owner.
pub(crate) struct Names {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pods: Arc<Mutex<Vec<IpAddr>>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Starts it without pods.
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (pods, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(std::sync::atomic::AtomicBool::new(false)));
        let address = socket.local_addr().unwrap();
        let (held, stopped) = (Arc::clone(&pods), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut packet = [0_u8; 1500];
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                if let Some(answer) = answer(&packet[..length], &held.lock().unwrap()) {
                    socket.send_to(&answer, from).unwrap();
                }
            }
        });
        Self { address, pods, stop, thread: Some(thread) }
    }

    /// From now on these pods are ready.
    pub(crate) fn set(&self, pods: &[IpAddr]) {
        *self.pods.lock().unwrap() = pods.to_vec();
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// RFC 1035, as far as one question for the addresses of one name goes.
fn answer(query: &[u8], pods: &[IpAddr]) -> Option<Vec<u8>> {
    let end = query.get(12..)?.iter().position(|byte| *byte == 0)?.checked_add(17)?;
    let question = query.get(12..end)?;
    let kind = u16::from_be_bytes([
        *question.get(question.len().checked_sub(4)?)?,
        *question.get(question.len().checked_sub(3)?)?,
    ]);
    let addresses: Vec<[u8; 4]> = pods
        .iter()
        .filter_map(|pod| match pod {
            IpAddr::V4(pod) if kind == 1 => Some(pod.octets()),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect();
    let mut out = query.get(..2)?.to_vec();
    // An answer, with recursion, to one question.
    out.extend([0x81, 0x80, 0, 1]);
    out.extend(u16::try_from(addresses.len()).ok()?.to_be_bytes());
    out.extend([0, 0, 0, 0]);
    out.extend(question);
    for address in addresses {
        // The name of the question, type A, class IN, 5 seconds, four bytes.
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        out.extend(address);
    }
    Some(out)
}
