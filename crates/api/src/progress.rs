//! `IProgress` for whoever runs a long operation, and `IVirtualBoxErrorInfo` for what came of it.

use crate::types::ResultCode;
use crate::{Call, Error, ObjRef, Result, server};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a blocked call looks whether its client is still there.
pub(crate) const LOOK: Duration = Duration::from_millis(200);

/// A long operation in one or more steps. The worker reports, any number of clients wait.
#[derive(Debug)]
pub struct Progress {
    id: uuid::Uuid,
    description: String,
    operations: Vec<String>,
    cancelable: bool,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    operation: usize,
    /// Of the present operation, 0 to 100.
    percent: u32,
    result: Option<std::result::Result<(), Error>>,
    canceled: bool,
    timeout: u32,
}

impl Progress {
    /// An operation of one step.
    pub fn new(description: impl Into<String>, cancelable: bool) -> Arc<Self> {
        let description = description.into();
        Self::with_operations(description.clone(), vec![description], cancelable)
    }

    /// An operation of several steps of equal weight.
    pub fn with_operations(
        description: impl Into<String>,
        operations: Vec<String>,
        cancelable: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: uuid::Uuid::new_v4(),
            description: description.into(),
            operations,
            cancelable,
            started: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// An operation that is over already.
    pub fn done(description: impl Into<String>) -> Arc<Self> {
        let progress = Self::new(description, false);
        progress.complete(Ok(()));
        progress
    }

    /// Runs `work` on a thread of its own and completes with its result.
    pub fn spawn(
        description: impl Into<String>,
        cancelable: bool,
        work: impl FnOnce(&Self) -> Result<()> + Send + 'static,
    ) -> Arc<Self> {
        let progress = Self::new(description, cancelable);
        let worker = progress.clone();
        let spawned = std::thread::Builder::new()
            .name("progress".into())
            .spawn(move || {
                let result =
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&worker)));
                worker.complete(result.unwrap_or_else(|_| {
                    Err(Error::new(
                        ResultCode::E_UNEXPECTED,
                        "the operation failed inside; see the log",
                    ))
                }));
            });
        if let Err(e) = spawned {
            progress.complete(Err(Error::new(ResultCode::E_OUTOFMEMORY, e.to_string())));
        }
        progress
    }

    pub fn id(&self) -> uuid::Uuid {
        self.id
    }

    /// Percentage of the present operation, 0 to 100.
    pub fn set_percent(&self, percent: u32) {
        self.lock().percent = percent.min(100);
        self.changed.notify_all();
    }

    /// The present operation is done, the next one begins.
    pub fn next_operation(&self) {
        let mut state = self.lock();
        state.operation = (state.operation + 1).min(self.operations.len().saturating_sub(1));
        state.percent = 0;
        self.changed.notify_all();
    }

    /// Ends the operation; only the first end counts.
    pub fn complete(&self, result: Result<()>) {
        let mut state = self.lock();
        if state.result.is_none() {
            state.result = Some(result);
        }
        self.changed.notify_all();
    }

    /// Whether a client cancelled it; the worker then completes with `E_ABORT`.
    pub fn is_canceled(&self) -> bool {
        self.lock().canceled
    }

    pub fn is_completed(&self) -> bool {
        self.lock().result.is_some()
    }

    /// Waits; false when `timeout` passed first, or `gone` answered yes.
    pub fn wait(&self, timeout: Option<Duration>, gone: impl Fn() -> bool) -> bool {
        let end = timeout.map(|t| Instant::now() + t);
        let mut state = self.lock();
        while state.result.is_none() {
            let left = end.map_or(LOOK, |e| {
                e.saturating_duration_since(Instant::now()).min(LOOK)
            });
            if left.is_zero() || gone() {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn total(&self, state: &State) -> u32 {
        if matches!(state.result, Some(Ok(()))) {
            return 100;
        }
        let done = u32::try_from(state.operation).unwrap_or(0) * 100 + state.percent;
        // 100 is for the end only: clients stop asking there.
        (done / u32::try_from(self.operations.len()).unwrap_or(1).max(1)).min(99)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `timeout` of the API: milliseconds, negative for ever.
pub(crate) fn timeout(milliseconds: i32) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

impl server::IProgress for Progress {
    fn id(&self, _cx: &Call) -> Result<String> {
        Ok(self.id.to_string())
    }
    fn description(&self, _cx: &Call) -> Result<String> {
        Ok(self.description.clone())
    }
    fn cancelable(&self, _cx: &Call) -> Result<bool> {
        Ok(self.cancelable)
    }
    fn percent(&self, _cx: &Call) -> Result<u32> {
        Ok(self.total(&self.lock()))
    }
    fn time_remaining(&self, _cx: &Call) -> Result<i32> {
        let state = self.lock();
        let percent = u64::from(self.total(&state));
        if percent == 0 || state.result.is_some() {
            return Ok(if state.result.is_some() { 0 } else { -1 });
        }
        let left = self.started.elapsed().as_secs() * (100 - percent) / percent;
        Ok(i32::try_from(left).unwrap_or(i32::MAX))
    }
    fn completed(&self, _cx: &Call) -> Result<bool> {
        Ok(self.is_completed())
    }
    fn canceled(&self, _cx: &Call) -> Result<bool> {
        Ok(self.is_canceled())
    }
    fn result_code(&self, _cx: &Call) -> Result<i32> {
        match &self.lock().result {
            Some(Ok(())) => Ok(0),
            Some(Err(e)) => Ok(e.code.0.cast_signed()),
            None => Err(Error::new(
                ResultCode::E_UNEXPECTED,
                "Result code is not available, operation is still in progress",
            )),
        }
    }
    fn error_info(&self, cx: &Call) -> Result<ObjRef> {
        let error = match &self.lock().result {
            Some(Err(e)) => e.clone(),
            _ => return Ok(ObjRef::null()),
        };
        Ok(cx.export(Arc::new(ErrorInfo(error))))
    }
    fn operation_count(&self, _cx: &Call) -> Result<u32> {
        Ok(u32::try_from(self.operations.len()).unwrap_or(u32::MAX))
    }
    fn operation(&self, _cx: &Call) -> Result<u32> {
        Ok(u32::try_from(self.lock().operation).unwrap_or(u32::MAX))
    }
    fn operation_description(&self, _cx: &Call) -> Result<String> {
        Ok(self
            .operations
            .get(self.lock().operation)
            .cloned()
            .unwrap_or_default())
    }
    fn operation_percent(&self, _cx: &Call) -> Result<u32> {
        let state = self.lock();
        Ok(if state.result.is_some() {
            100
        } else {
            state.percent
        })
    }
    fn operation_weight(&self, _cx: &Call) -> Result<u32> {
        Ok(1)
    }
    fn timeout(&self, _cx: &Call) -> Result<u32> {
        Ok(self.lock().timeout)
    }
    fn wait_for_completion(&self, cx: &Call, timeout_ms: i32) -> Result<()> {
        self.wait(timeout(timeout_ms), || cx.peer.is_closed());
        Ok(())
    }
    fn wait_for_operation_completion(&self, cx: &Call, operation: u32, ms: i32) -> Result<()> {
        let end = timeout(ms).map(|t| Instant::now() + t);
        let mut state = self.lock();
        let wanted = usize::try_from(operation).unwrap_or(usize::MAX);
        while state.result.is_none() && state.operation <= wanted && !cx.peer.is_closed() {
            let left = end.map_or(LOOK, |e| {
                e.saturating_duration_since(Instant::now()).min(LOOK)
            });
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
    fn cancel(&self, _cx: &Call) -> Result<()> {
        if !self.cancelable {
            let text = "Operation cannot be canceled";
            return Err(Error::new(ResultCode::VBOX_E_INVALID_OBJECT_STATE, text));
        }
        self.lock().canceled = true;
        Ok(())
    }
}
crate::object!(Progress: IProgress);

/// An error as an object.
#[derive(Debug)]
pub struct ErrorInfo(pub Error);

impl server::IVirtualBoxErrorInfo for ErrorInfo {
    fn result_code(&self, _cx: &Call) -> Result<i32> {
        Ok(self.0.code.0.cast_signed())
    }
    fn result_detail(&self, _cx: &Call) -> Result<i32> {
        Ok(0)
    }
    fn interface_id(&self, _cx: &Call) -> Result<String> {
        Ok(self.0.interface.clone())
    }
    fn component(&self, _cx: &Call) -> Result<String> {
        Ok(self.0.component.clone())
    }
    fn text(&self, _cx: &Call) -> Result<String> {
        Ok(self.0.text.clone())
    }
    fn next(&self, _cx: &Call) -> Result<ObjRef> {
        Ok(ObjRef::null())
    }
}
crate::object!(ErrorInfo: IVirtualBoxErrorInfo);

impl crate::client::Progress {
    /// Waits for the end and turns a failure into its error.
    ///
    /// # Errors
    /// The operation's own, or that of the connection.
    pub fn finish(&self) -> Result<()> {
        self.wait_for_completion(-1)?;
        let code = self.result_code()?;
        if code >= 0 {
            return Ok(());
        }
        let code = ResultCode(code.cast_unsigned());
        match self.error_info()? {
            Some(info) => Err(Error {
                code,
                text: info.text()?,
                component: info.component()?,
                interface: info.interface_id()?,
            }),
            None => Err(Error::new(code, String::new())),
        }
    }
}
