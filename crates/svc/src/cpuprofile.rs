//! `ICPUProfile`: the processors a guest can be shown.

use std::sync::Arc;

use api::types::CPUArchitecture;
use api::{Call, ObjRef, Object, server};
use cpu::profile::{PROFILES, Profile};

/// A profile.
pub struct ProfileObject(&'static Profile);

/// Where the profiles whose names contain `pattern` (any case; empty: all) are.
pub fn matching(pattern: &str) -> Vec<ObjRef> {
    let pattern = pattern.to_lowercase();
    PROFILES
        .iter()
        .enumerate()
        .filter(|(_, p)| p.name.to_lowercase().contains(&pattern))
        .map(|(n, _)| ObjRef::new(format!("/CPUProfile/{n}")))
        .collect()
}

/// The object of profile number `id`.
pub fn object(id: &str) -> Option<Arc<dyn Object>> {
    let profile = PROFILES.get(id.parse::<usize>().ok()?)?;
    Some(Arc::new(ProfileObject(profile)))
}

impl server::ICPUProfile for ProfileObject {
    fn name(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.name.to_owned())
    }
    fn full_name(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.0.title.to_owned())
    }
    fn architecture(&self, _cx: &Call) -> api::Result<CPUArchitecture> {
        Ok(if self.0.features[6] & 1 << 29 != 0 {
            CPUArchitecture::AMD64
        } else {
            CPUArchitecture::x86
        })
    }
}
api::object!(ProfileObject: ICPUProfile);
