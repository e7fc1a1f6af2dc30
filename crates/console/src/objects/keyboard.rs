//! `IKeyboard`.

use std::sync::Arc;
use std::time::Duration;

use api::types::{KeyboardLED, ResultCode};
use api::{Call, Error, ObjRef, Result, server};

use super::Core;

pub struct KeyboardObject(pub Arc<Core>);

/// How long a full queue is waited for.
const PATIENCE: u32 = 400;
const STEP: Duration = Duration::from_millis(5);
/// A long text goes in at the pace of a very fast typist: the BIOS keeps 15 keys and drops others.
const BURST: usize = 8;
const BURST_PAUSE: Duration = Duration::from_millis(40);

/// Ctrl, Alt and Del pressed, then let go.
const CTRL_ALT_DEL: [u8; 8] = [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d];
/// Break codes of both shift, control and alt keys.
const RELEASE: [u8; 8] = [0xaa, 0xb6, 0x9d, 0xe0, 0x9d, 0xb8, 0xe0, 0xb8];

impl KeyboardObject {
    /// Queues codes, waiting for the guest where the queue is full; how many got in.
    fn put(&self, codes: &[u8]) -> Result<u32> {
        let vm = self.0.vm()?;
        let mut done = 0;
        let mut waited = 0;
        while done < codes.len() {
            let end = (done + BURST).min(codes.len());
            let n = vm.put_scancodes(&codes[done..end]);
            done += n;
            if done == end && end < codes.len() {
                std::thread::sleep(BURST_PAUSE);
            }
            if n > 0 {
                waited = 0;
            } else if waited < PATIENCE {
                waited += 1;
                std::thread::sleep(STEP);
            } else {
                break;
            }
        }
        Ok(u32::try_from(done).unwrap_or(u32::MAX))
    }
}

fn bytes(codes: &[i32]) -> Result<Vec<u8>> {
    codes
        .iter()
        .map(|c| {
            u8::try_from(*c).map_err(|_| {
                Error::new(
                    ResultCode::E_INVALIDARG,
                    format!("{c} is not a scan code (0 to 255)"),
                )
            })
        })
        .collect()
}

impl server::IKeyboard for KeyboardObject {
    fn keyboard_le_ds(&self, _: &Call) -> Result<Vec<KeyboardLED>> {
        let leds = self.0.vm()?.keyboard_leds();
        let all = [
            (1, KeyboardLED::ScrollLock),
            (2, KeyboardLED::NumLock),
            (4, KeyboardLED::CapsLock),
        ];
        let lit = all.into_iter().filter(|(bit, _)| leds & bit != 0);
        Ok(lit.map(|(_, led)| led).collect())
    }
    fn event_source(&self, _: &Call) -> Result<ObjRef> {
        Ok(self.0.keyboard_events.path())
    }
    fn put_scancode(&self, _: &Call, scancode: i32) -> Result<()> {
        self.put(&bytes(&[scancode])?).map(drop)
    }
    fn put_scancodes(&self, _: &Call, scancodes: Vec<i32>) -> Result<u32> {
        self.put(&bytes(&scancodes)?)
    }
    fn put_cad(&self, _: &Call) -> Result<()> {
        self.put(&CTRL_ALT_DEL).map(drop)
    }
    fn release_keys(&self, _: &Call) -> Result<()> {
        self.put(&RELEASE).map(drop)
    }
}
api::object!(KeyboardObject: IKeyboard);

#[cfg(test)]
mod tests {
    #[test]
    fn only_bytes_are_scan_codes() {
        assert_eq!(super::bytes(&[0x1c, 0x9c]).unwrap(), [0x1c, 0x9c]);
        assert!(super::bytes(&[0x1c, 256]).is_err());
        assert!(super::bytes(&[-1]).is_err());
    }
}
