//! `IMediumFormat`: the image formats that can be opened.

use api::types::*;
use api::{Call, ObjRef, Object, server};
use std::sync::Arc;
use storage::capability;

/// A backend.
pub struct FormatObject(&'static dyn storage::Format);

/// Where a backend's object is.
pub fn path(id: &str) -> ObjRef {
    ObjRef::new(format!("/MediumFormat/{}", id.to_uppercase()))
}

/// The object of the backend of that name.
pub fn object(id: &str) -> Option<Arc<dyn Object>> {
    Some(Arc::new(FormatObject(storage::format_by_id(id)?)))
}

/// The ending of the file names of its new images.
pub fn extension(format: &dyn storage::Format) -> &'static str {
    format.extensions().first().map_or("img", |(e, _)| *e)
}

impl server::IMediumFormat for FormatObject {
    fn id(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.id().to_owned())
    }
    fn name(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.id().to_owned())
    }
    fn capabilities(&self, _cx: &Call) -> api::Result<Vec<MediumFormatCapabilities>> {
        use MediumFormatCapabilities as C;
        let all = [
            (capability::UUID, C::Uuid),
            (capability::CREATE_FIXED, C::CreateFixed),
            (capability::CREATE_DYNAMIC, C::CreateDynamic),
            (capability::CREATE_SPLIT_2G, C::CreateSplit2G),
            (capability::DIFFERENCING, C::Differencing),
            (capability::ASYNCHRONOUS, C::Asynchronous),
            (capability::FILE, C::File),
            (capability::VFS, C::VFS),
            (capability::DISCARD, C::Discard),
            (capability::PREFERRED, C::Preferred),
        ];
        let has = self.0.capabilities();
        Ok(all
            .into_iter()
            .filter(|(bit, _)| has & bit != 0)
            .map(|(_, c)| c)
            .collect())
    }
    fn describe_file_extensions(&self, _cx: &Call) -> api::Result<(Vec<String>, Vec<DeviceType>)> {
        let all = self.0.extensions().iter();
        Ok(all
            .map(|(e, k)| ((*e).to_owned(), crate::media::device_type(*k)))
            .unzip())
    }
    fn describe_properties(
        &self,
        _cx: &Call,
    ) -> api::Result<(
        Vec<String>,
        Vec<String>,
        Vec<DataType>,
        Vec<u32>,
        Vec<String>,
    )> {
        Ok((Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new()))
    }
}
api::object!(FormatObject: IMediumFormat);
