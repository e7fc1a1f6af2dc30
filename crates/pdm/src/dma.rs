//! ISA DMA as devices on the bus see it (the 8237 pair implements it).

/// What one request moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transfer {
    /// Bytes moved; fewer than asked when the channel is masked, set up for the other direction,
    /// or reached its terminal count.
    pub moved: usize,
    /// The terminal count (TC) was reached by this transfer.
    pub terminal: bool,
}

/// The DMA controllers. Channels 0 to 3 move bytes, 5 to 7 move 16-bit words (a trailing odd byte
/// is not moved); others never move anything. Callable with the caller's device lock held.
pub trait IsaDma: Send + Sync {
    /// The device takes data out of memory (8237 "read transfer").
    #[expect(
        clippy::wrong_self_convention,
        reason = "a direction, not a conversion"
    )]
    fn from_memory(&self, channel: u8, data: &mut [u8]) -> Transfer;
    /// The device puts data into memory ("write transfer"; a "verify" channel counts the bytes
    /// without storing them).
    fn to_memory(&self, channel: u8, data: &[u8]) -> Transfer;
}
