//! Release logs: `VBox.log`, `VBoxSVC.log`, rotated, each line `HH:MM:SS.ffffff text` with the
//! time since the log was opened.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, span};

use crate::Error;
use crate::file::with_suffix;

/// Old logs kept by default (`LogHistoryCount` in the system properties).
pub const DEFAULT_HISTORY: u32 = 3;
/// Most old logs that are ever kept.
pub const MAX_HISTORY: u32 = 99;
/// Longest text of one line in bytes; the rest is cut off, with a mark.
const MAX_LINE: usize = 16 * 1024;

/// One open release log. Shared freely: each call writes whole lines.
#[derive(Debug)]
pub struct ReleaseLog {
    file: Mutex<File>,
    path: PathBuf,
    opened: Instant,
}

impl ReleaseLog {
    /// Opens a new log at `path`, its folder made if missing; old ones move to `.1` ... `.history`.
    pub fn create(path: &Path, history: u32) -> Result<Self, Error> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        rotate(path, history)?;
        // Append mode: a writer that truncates the log behind our back leaves no hole of zeros.
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        Ok(Self {
            file: Mutex::new(file),
            path: path.to_owned(),
            opened: Instant::now(),
        })
    }

    /// The file written to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `text`, each of its lines with the time in front. Control characters are escaped.
    ///
    /// Errors are dropped: a full disk must not stop the machine that logs about it.
    pub fn line(&self, text: &str) {
        let out = format_lines(self.opened.elapsed(), text);
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = file.write_all(out.as_bytes());
    }

    /// Puts what was written on disk.
    pub fn sync(&self) -> Result<(), Error> {
        let file = self
            .file
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        file.sync_data()
            .map_err(|e| Error::io("sync", &self.path, e))
    }
}

/// `X.2` -> `X.3`, `X.1` -> `X.2`, `X` -> `X.1`; with `history` 0, `X` is removed.
fn rotate(path: &Path, history: u32) -> Result<(), Error> {
    let history = history.min(MAX_HISTORY);
    let old = |n: u32| {
        if n == 0 {
            path.to_owned()
        } else {
            with_suffix(path, &format!(".{n}"))
        }
    };
    for n in (0..history).rev() {
        ignore_missing(fs::rename(old(n), old(n + 1)))
            .map_err(|e| Error::io("rotate", &old(n), e))?;
    }
    if history == 0 {
        ignore_missing(fs::remove_file(path)).map_err(|e| Error::io("remove", path, e))?;
    }
    Ok(())
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn format_lines(since: Duration, text: &str) -> String {
    let (s, us) = (since.as_secs(), since.subsec_micros());
    let stamp = format!("{:02}:{:02}:{:02}.{us:06}", s / 3600, s / 60 % 60, s % 60);
    let mut out = String::with_capacity(text.len() + stamp.len() + 2);
    let mut left = MAX_LINE;
    for line in text.trim_end_matches('\n').split('\n') {
        out.push_str(&stamp);
        out.push(' ');
        for c in line.trim_end_matches('\r').chars() {
            if left < c.len_utf8() {
                out.push_str(" [...]\n");
                return out;
            }
            left -= c.len_utf8();
            if c.is_control() && c != '\t' {
                // Guests choose some of these texts: no terminal sequences, no forged lines.
                let _ = write!(out, "{}", c.escape_default());
            } else {
                out.push(c);
            }
        }
        out.push('\n');
    }
    out
}

/// Sends this process's tracing events to a release log: `COMPONENT: message key=value`.
///
/// Spans are not recorded. Install with `tracing::subscriber::set_global_default`.
#[derive(Debug)]
pub struct LogSubscriber {
    log: std::sync::Arc<ReleaseLog>,
    max: Level,
}

impl LogSubscriber {
    /// Events up to `max` (`Level::INFO` for releases) go to `log`.
    pub fn new(log: std::sync::Arc<ReleaseLog>, max: Level) -> Self {
        Self { log, max }
    }
}

impl tracing::Subscriber for LogSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.max
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.max.into())
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = EventText::default();
        event.record(&mut text);
        let component = event
            .metadata()
            .target()
            .split("::")
            .next()
            .unwrap_or_default();
        let mark = match *event.metadata().level() {
            Level::ERROR => "ERROR ",
            Level::WARN => "WARNING ",
            _ => "",
        };
        let name = component.to_uppercase();
        self.log
            .line(&format!("{name}: {mark}{}{}", text.message, text.fields));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct EventText {
    message: String,
    fields: String,
}

impl Visit for EventText {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn rotation_keeps_three() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Logs").join("VBox.log");
        for n in 0..6 {
            ReleaseLog::create(&path, DEFAULT_HISTORY)
                .unwrap()
                .line(&format!("run {n}"));
        }
        for (suffix, run) in [("", 5), (".1", 4), (".2", 3), (".3", 2)] {
            let text = fs::read_to_string(with_suffix(&path, suffix)).unwrap();
            assert!(text.ends_with(&format!(" run {run}\n")), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        assert!(!with_suffix(&path, ".4").exists());
        ReleaseLog::create(&path, 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn lines_look_right_and_stay_bounded() {
        let at = Duration::new(3 * 3600 + 4 * 60 + 5, 6_007_000);
        assert_eq!(
            format_lines(at, "a\nb\x1b[1m\n"),
            "03:04:05.006007 a\n03:04:05.006007 b\\u{1b}[1m\n"
        );
        let long = format_lines(at, &"\u{e9}".repeat(MAX_LINE));
        assert!(long.len() < MAX_LINE + 64 && long.ends_with("[...]\n"));
    }

    #[test]
    fn tracing_events_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let log = Arc::new(ReleaseLog::create(&path, 0).unwrap());
        let sub = LogSubscriber::new(log, Level::INFO);
        tracing::subscriber::with_default(sub, || {
            tracing::info!(target: "pgm::ram", pages = 3, name = "x", "mapped");
            tracing::debug!("not shown");
            tracing::error!(target: "em", "no {}", "way");
        });
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|l| &l[16..]).collect();
        assert_eq!(lines, ["PGM: mapped pages=3 name=x", "EM: ERROR no way"]);
    }
}
