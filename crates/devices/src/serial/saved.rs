//! Saved state of a serial port.

use minicbor::{Decode, Encode};
use pdm::{Error, Result, ssm};

use super::uart::Uart;

/// Layout version.
pub const SAVED_VERSION: u32 = 1;

#[derive(Encode, Decode)]
struct Saved {
    #[n(0)]
    divisor: u16,
    #[n(1)]
    ier: u8,
    #[n(2)]
    fcr: u8,
    #[n(3)]
    lcr: u8,
    #[n(4)]
    mcr: u8,
    #[n(5)]
    line_errors: u8,
    #[n(6)]
    msr: u8,
    #[n(7)]
    scr: u8,
    #[n(8)]
    #[cbor(with = "minicbor::bytes")]
    rx: Vec<u8>,
    #[n(9)]
    #[cbor(with = "minicbor::bytes")]
    rx_errors: Vec<u8>,
    #[n(10)]
    #[cbor(with = "minicbor::bytes")]
    tx: Vec<u8>,
    #[n(11)]
    thre_pending: bool,
    #[n(12)]
    timeout_pending: bool,
    #[n(13)]
    timeout: Option<u64>,
    #[n(14)]
    transmit: Option<u64>,
}

/// Writes the state and the timers' deadlines.
pub fn save(uart: &Uart, timeout: Option<u64>, transmit: Option<u64>) -> Result<Vec<u8>> {
    ssm::encode(&Saved {
        divisor: uart.divisor,
        ier: uart.ier,
        fcr: uart.fcr,
        lcr: uart.lcr,
        mcr: uart.mcr,
        line_errors: uart.line_errors,
        msr: uart.msr,
        scr: uart.scr,
        rx: uart.rx.iter().map(|c| c.0).collect(),
        rx_errors: uart.rx.iter().map(|c| c.1).collect(),
        tx: uart.tx.iter().copied().collect(),
        thre_pending: uart.thre_pending,
        timeout_pending: uart.timeout_pending,
        timeout,
        transmit,
    })
}

/// Takes it over; returns the deadlines of time-out and transmit timer.
pub fn load(version: u32, data: &[u8], uart: &mut Uart) -> Result<(Option<u64>, Option<u64>)> {
    let s: Saved = ssm::decode(version, SAVED_VERSION, data)?;
    if s.rx.len() != s.rx_errors.len() || s.rx.len() > 64 || s.tx.len() > 64 {
        return Err(Error::SavedState("serial FIFO has a bad length".into()));
    }
    uart.divisor = s.divisor;
    uart.ier = s.ier & 0x0f;
    uart.fcr = s.fcr;
    uart.lcr = s.lcr;
    uart.mcr = s.mcr & 0x3f;
    uart.line_errors = s.line_errors;
    uart.msr = s.msr;
    uart.scr = s.scr;
    uart.rx = s.rx.into_iter().zip(s.rx_errors).collect();
    uart.tx = s.tx.into();
    uart.thre_pending = s.thre_pending;
    uart.timeout_pending = s.timeout_pending;
    Ok((s.timeout, s.transmit))
}
