//! `IDisplay`.

use std::sync::Arc;

use api::types::{BitmapFormat, GuestMonitorStatus, ResultCode};
use api::{Call, Error, Result, server};

use super::Core;
use crate::screenshot;

pub struct DisplayObject(pub Arc<Core>);

fn check(screen: u32) -> Result<()> {
    if screen == 0 {
        Ok(())
    } else {
        Err(Error::new(
            ResultCode::E_INVALIDARG,
            format!("There is no screen {screen}"),
        ))
    }
}

fn no_screen() -> Error {
    Error::new(
        ResultCode::VBOX_E_NOT_SUPPORTED,
        "The virtual machine has no graphics device",
    )
}

impl server::IDisplay for DisplayObject {
    fn get_screen_resolution(
        &self,
        _: &Call,
        screen_id: u32,
    ) -> Result<(u32, u32, u32, i32, i32, GuestMonitorStatus)> {
        check(screen_id)?;
        let (width, height, depth) = self.0.vm()?.screen_mode().ok_or_else(no_screen)?;
        Ok((width, height, depth, 0, 0, GuestMonitorStatus::Enabled))
    }

    fn take_screen_shot_to_array(
        &self,
        _: &Call,
        screen_id: u32,
        width: u32,
        height: u32,
        bitmap_format: BitmapFormat,
    ) -> Result<Vec<u8>> {
        check(screen_id)?;
        let frame = self.0.vm()?.frame().ok_or_else(no_screen)?;
        screenshot::encode(&frame, width, height, bitmap_format)
    }

    fn invalidate_and_update(&self, _: &Call) -> Result<()> {
        // Pictures are rendered when they are asked for.
        Ok(())
    }

    fn invalidate_and_update_screen(&self, _: &Call, screen_id: u32) -> Result<()> {
        check(screen_id)
    }
}
api::object!(DisplayObject: IDisplay);
