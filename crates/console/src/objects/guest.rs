//! `IGuest`: what is known without anything of ours inside the guest.

use std::sync::Arc;

use api::types::{AdditionsFacility, AdditionsRunLevelType};
use api::{Call, ObjRef, Result, server};

use super::Core;

pub struct GuestObject(pub Arc<Core>);

impl server::IGuest for GuestObject {
    fn os_type_id(&self, _: &Call) -> Result<String> {
        Ok(String::new())
    }
    fn additions_run_level(&self, _: &Call) -> Result<AdditionsRunLevelType> {
        Ok(AdditionsRunLevelType::None)
    }
    fn additions_version(&self, _: &Call) -> Result<String> {
        Ok(String::new())
    }
    fn additions_revision(&self, _: &Call) -> Result<u32> {
        Ok(0)
    }
    fn facilities(&self, _: &Call) -> Result<Vec<AdditionsFacility>> {
        Ok(Vec::new())
    }
    fn event_source(&self, _: &Call) -> Result<ObjRef> {
        Ok(self.0.guest_events.path())
    }
    fn memory_balloon_size(&self, _: &Call) -> Result<u32> {
        Ok(0)
    }
}
api::object!(GuestObject: IGuest);
