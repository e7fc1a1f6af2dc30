//! `IMouse`.

use std::sync::Arc;

use api::types::ResultCode;
use api::{Call, Error, ObjRef, Result, server};
use pdm::MouseEvent;

use super::Core;

pub struct MouseObject(pub Arc<Core>);

/// `MouseButtonState` bits to buttons held: left, right, middle, then the side buttons.
fn buttons(state: i32) -> u8 {
    let bit = |from: i32, to: u8| if state & from != 0 { to } else { 0 };
    bit(1, 1) | bit(2, 2) | bit(4, 4) | bit(32, 8) | bit(64, 16)
}

impl server::IMouse for MouseObject {
    fn absolute_supported(&self, _: &Call) -> Result<bool> {
        Ok(false)
    }
    fn relative_supported(&self, _: &Call) -> Result<bool> {
        Ok(true)
    }
    fn touch_screen_supported(&self, _: &Call) -> Result<bool> {
        Ok(false)
    }
    fn touch_pad_supported(&self, _: &Call) -> Result<bool> {
        Ok(false)
    }
    fn needs_host_cursor(&self, _: &Call) -> Result<bool> {
        Ok(false)
    }
    fn event_source(&self, _: &Call) -> Result<ObjRef> {
        Ok(self.0.mouse_events.path())
    }
    fn put_mouse_event(
        &self,
        _: &Call,
        dx: i32,
        dy: i32,
        dz: i32,
        _dw: i32,
        button_state: i32,
    ) -> Result<()> {
        let event = MouseEvent {
            dx,
            dy,
            dz,
            buttons: buttons(button_state),
        };
        if self.0.vm()?.put_mouse_event(event) {
            Ok(())
        } else {
            Err(Error::new(
                ResultCode::VBOX_E_PDM_ERROR,
                "The virtual machine has no mouse",
            ))
        }
    }
}
api::object!(MouseObject: IMouse);

#[cfg(test)]
mod tests {
    #[test]
    fn buttons_are_in_the_devices_order() {
        assert_eq!(super::buttons(1 | 4 | 8 | 64), 1 | 4 | 16);
    }
}
