//! A guest's serial port, as a Unix socket that the machine listens on.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::eventually;

/// Reads all the time, so that a guest never waits for a reader.
pub struct Serial {
    stream: UnixStream,
    chunks: Receiver<Vec<u8>>,
    /// Everything received so far.
    text: String,
    /// Where the next search begins: after what the last one found.
    position: usize,
}

impl Serial {
    /// # Errors
    /// When nobody listens on `path` within ten seconds.
    pub fn connect(path: &Path) -> Result<Serial> {
        let stream = eventually(
            &format!("connect to {}", path.display()),
            Duration::from_secs(10),
            || Ok(UnixStream::connect(path).ok()),
        )?;
        let mut reader = stream.try_clone().context("clone the socket")?;
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Serial {
            stream,
            chunks,
            text: String::new(),
            position: 0,
        })
    }

    /// Waits until the guest has written `wanted` after what was found before; returns the text
    /// up to it.
    ///
    /// # Errors
    /// After `limit`, or when the machine closes the port; with the end of what was received.
    pub fn wait_for(&mut self, wanted: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let rest = self.text.get(self.position..).unwrap_or_default();
            if let Some(at) = rest.find(wanted) {
                let found = rest[..at].to_owned();
                self.position += at + wanted.len();
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.text.push_str(&String::from_utf8_lossy(&chunk)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "no {wanted:?} on the serial port within {limit:?}; its end:\n{}",
                        self.tail()
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "the serial port closed before {wanted:?}; its end:\n{}",
                        self.tail()
                    )
                }
            }
        }
    }

    /// # Errors
    /// When the port is closed.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .context("write to the serial port")
    }

    /// Logs in at a `login: ` prompt that is about to come.
    ///
    /// # Errors
    /// When a step does not come within `limit`.
    pub fn log_in(&mut self, limit: Duration) -> Result<()> {
        self.wait_for("oxbox login: ", limit)?;
        self.send_line("root")?;
        self.wait_for("Password: ", limit)?;
        self.send_line("oxbox")?;
        self.wait_for("root@oxbox:~# ", limit)?;
        // Neither the line editor's escape sequences, nor the echo, nor the kernel's messages may
        // stand between the answers. The last words of a shutdown come all the same.
        self.send_line("bind 'set enable-bracketed-paste off'; stty -echo; dmesg -n 1")?;
        self.wait_for("root@oxbox:~# ", limit)?;
        Ok(())
    }

    /// Runs a shell command at the prompt and returns its output.
    ///
    /// # Errors
    /// When it has not ended within `limit`, or ends with another status than 0.
    pub fn shell(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.send_line(&format!("{command}; echo \"[status $?]\""))?;
        let output = self.wait_for("[status ", limit)?;
        let status = self.wait_for("]", limit)?;
        self.wait_for("root@oxbox:~# ", limit)?;
        if status != "0" {
            bail!("{command:?} ended with status {status} in the guest:\n{output}");
        }
        Ok(output.replace('\r', "").trim().to_owned())
    }

    /// The last lines received, for messages.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A guest that logs in anybody and answers every command with status 0, or 3 for `false`.
    fn guest(listener: &UnixListener) -> std::io::Result<()> {
        let (mut port, _) = listener.accept()?;
        port.write_all(b"booting\r\noxbox ")?;
        port.write_all(b"login: ")?;
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(port.try_clone()?));
        for answer in ["Password: ", "root@oxbox:~# ", "root@oxbox:~# "] {
            lines.next().transpose()?;
            port.write_all(answer.as_bytes())?;
        }
        while let Some(line) = lines.next().transpose()? {
            let status = if line.starts_with("false") { 3 } else { 0 };
            port.write_all(format!("out\r\n[status {status}]\r\nroot@oxbox:~# ").as_bytes())?;
        }
        Ok(())
    }

    #[test]
    fn a_session_is_driven_and_failures_are_told() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("port");
        let listener = UnixListener::bind(&path).expect("listen");
        std::thread::spawn(move || guest(&listener));
        let (long, short) = (Duration::from_secs(10), Duration::from_millis(50));
        let mut serial = Serial::connect(&path).expect("connect");
        serial.log_in(long).expect("log in");
        assert_eq!(serial.shell("true", long).expect("true"), "out");
        let error = serial.shell("false", long).expect_err("false ends with 3");
        assert!(error.to_string().contains("status 3"), "{error}");
        let error = serial.wait_for("never", short).expect_err("never comes");
        assert!(error.to_string().contains("no \"never\""), "{error}");
    }
}
