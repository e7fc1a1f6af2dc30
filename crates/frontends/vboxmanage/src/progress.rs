//! A long operation as VirtualBox shows it on standard error: `0%...10%...` up to `100%`.

use crate::cx::Cx;
use crate::error::{During, Result};
use api::ResultCode;
use api::client::Progress;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long one question for the percentage may take to be answered.
const STEP_MS: i32 = 250;

/// Waits for the end of an operation, showing how far it is. `wanted` is the first line of the
/// error when it fails. Ctrl-C cancels it if it can be cancelled.
///
/// # Errors
/// The operation's own error, or that of the connection.
#[track_caller]
pub fn show(cx: &mut Cx<'_>, progress: &Progress, wanted: &str) -> Result {
    match follow(cx, progress) {
        Ok(result) => result.wanted(wanted, "progress->WaitForCompletion(-1)"),
        Err(e) => Err(e),
    }
}

fn follow(cx: &mut Cx<'_>, progress: &Progress) -> Result<api::Result<()>> {
    let cancel = progress.cancelable()?.then(cancel_flag);
    let mut canceled = false;
    let mut picture = Picture::new(cx.detailed);
    picture.begin(cx.err)?;
    let mut look = 10;
    loop {
        progress.wait_for_completion(look)?;
        look = (look * 2).min(STEP_MS);
        let done = progress.completed()?;
        if cx.detailed {
            let (at, of) = (progress.operation()?, progress.operation_count()?);
            let operation = Operation {
                number: at + 1,
                count: of,
                text: progress.operation_description()?,
                percent: progress.operation_percent()?,
                total: progress.percent()?,
                remaining: progress.time_remaining()?,
            };
            picture.detail(cx.err, &operation)?;
        } else {
            picture.to(cx.err, progress.percent()?)?;
        }
        if done {
            break;
        }
        if let Some(flag) = &cancel
            && flag.swap(false, Ordering::Relaxed)
            && !canceled
        {
            canceled = true;
            // It may have ended just now; the loop finds that out.
            let _ = progress.cancel();
        }
    }
    let result = progress.finish();
    picture.end(cx.err, result.as_ref().err().map(|e| e.code), canceled)?;
    Ok(result)
}

/// The operation in hand, for `--detailed-progress`.
struct Operation {
    number: u32,
    count: u32,
    text: String,
    percent: u32,
    total: u32,
    remaining: i32,
}

/// What has been drawn so far.
struct Picture {
    next: u32,
    detailed: bool,
    last: String,
    began: Instant,
}

impl Picture {
    fn new(detailed: bool) -> Self {
        Self {
            next: 10,
            detailed,
            last: String::new(),
            began: Instant::now(),
        }
    }

    fn begin(&mut self, err: &mut dyn Write) -> Result {
        if !self.detailed {
            write!(err, "0%...")?;
            err.flush()?;
        }
        Ok(())
    }

    /// Every ten up to `percent` that is not there yet, but never the hundred, which is the end.
    fn to(&mut self, err: &mut dyn Write, percent: u32) -> Result {
        while self.next <= percent.min(99) {
            write!(err, "{}%...", self.next)?;
            self.next += 10;
        }
        err.flush()?;
        Ok(())
    }

    fn detail(&mut self, err: &mut dyn Write, now: &Operation) -> Result {
        let left = if now.remaining >= 0 {
            format!("{} s remaining", now.remaining)
        } else {
            format!("{} s", self.began.elapsed().as_secs())
        };
        let line = format!(
            "({}/{}) {} {:02}% => {:02}%",
            now.number, now.count, now.text, now.percent, now.total
        );
        if line != self.last {
            writeln!(err, "{line} ({left})")?;
            self.last = line;
        }
        Ok(())
    }

    fn end(&mut self, err: &mut dyn Write, failed: Option<ResultCode>, canceled: bool) -> Result {
        match failed {
            None => {
                if !self.detailed {
                    self.to(err, 99)?;
                    writeln!(err, "100%")?;
                }
            }
            Some(_) if canceled => writeln!(err, "CANCELED")?,
            Some(code) => writeln!(err, "{code}")?,
        }
        err.flush()?;
        Ok(())
    }
}

/// Set when Ctrl-C is pressed from now on.
fn cancel_flag() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = flag.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    // Without it Ctrl-C ends this program, and with it the connection.
    if let Ok(runtime) = runtime {
        std::thread::spawn(move || {
            runtime.block_on(async {
                while tokio::signal::ctrl_c().await.is_ok() {
                    set.store(true, Ordering::Relaxed);
                }
            });
        });
    }
    // The handler is there when the first poll has run; a moment is enough for a person.
    std::thread::sleep(Duration::from_millis(1));
    flag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(percents: &[u32], failed: Option<ResultCode>, canceled: bool) -> String {
        let mut out = Vec::new();
        let mut picture = Picture::new(false);
        picture.begin(&mut out).expect("memory");
        for percent in percents {
            picture.to(&mut out, *percent).expect("memory");
        }
        picture.end(&mut out, failed, canceled).expect("memory");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn tens_are_never_left_out_nor_repeated() {
        let whole = "0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%\n";
        assert_eq!(drawn(&[], None, false), whole);
        assert_eq!(drawn(&[5, 10, 11, 47, 47, 100], None, false), whole);
    }

    #[test]
    fn a_failure_shows_its_code() {
        let code = Some(ResultCode::VBOX_E_FILE_ERROR);
        assert_eq!(
            drawn(&[25], code, false),
            "0%...10%...20%...VBOX_E_FILE_ERROR\n"
        );
        assert_eq!(drawn(&[], code, true), "0%...CANCELED\n");
    }

    #[test]
    fn details_are_lines() {
        let mut out = Vec::new();
        let mut picture = Picture::new(true);
        picture.begin(&mut out).expect("memory");
        let operation = Operation {
            number: 1,
            count: 3,
            text: "Creating disk".into(),
            percent: 5,
            total: 1,
            remaining: 12,
        };
        picture.detail(&mut out, &operation).expect("memory");
        picture.detail(&mut out, &operation).expect("memory");
        picture.end(&mut out, None, false).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "(1/3) Creating disk 05% => 01% (12 s remaining)\n"
        );
    }
}
