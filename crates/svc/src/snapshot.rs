//! `ISnapshot`.

use crate::machine::snapshots::find_mut;
use crate::media::snapshots;
use crate::view::{View, gone};
use api::types::VBoxEventType;
use api::{Call, ObjRef, Wire, server};
use settings::model::Snapshot;
use uuid::Uuid;

pub struct SnapshotObject {
    pub view: View,
    pub id: Uuid,
}

impl SnapshotObject {
    fn get<R>(&self, f: impl FnOnce(&Snapshot) -> R) -> api::Result<R> {
        self.view
            .get(|m| m.find_snapshot(self.id).map(f))?
            .ok_or_else(|| gone("The snapshot"))
    }

    /// Changes what is told of the snapshot, at once in the file too.
    fn edit(&self, f: impl Fn(&mut Snapshot)) -> api::Result<()> {
        self.view.entry(|e| {
            let old = e.settings()?.clone();
            let id = self.id;
            let found = find_mut(e.settings_mut()?, id).ok_or_else(|| gone("The snapshot"))?;
            f(found);
            if let Err(error) = e.save() {
                *e.settings_mut()? = old;
                return Err(error);
            }
            if let Some(found) = e.pending.as_mut().and_then(|p| find_mut(p, id)) {
                f(found);
            }
            Ok(())
        })?;
        self.view.svc.fire(
            VBoxEventType::OnSnapshotChanged,
            vec![
                ("machineId", self.view.id.to_string().into_val()),
                ("snapshotId", self.id.to_string().into_val()),
            ],
        );
        Ok(())
    }

    fn path(&self, id: Uuid) -> ObjRef {
        let live = View {
            snapshot: None,
            ..self.view.clone()
        };
        live.path(&format!("Snapshot/{}", id.simple()))
    }
}

impl server::ISnapshot for SnapshotObject {
    crate::fields! {
        name: String = name;
        description: String = description;
    }
    fn set_name(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.edit(|s| s.name.clone_from(&value))
    }
    fn set_description(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.edit(|s| s.description.clone_from(&value))
    }
    fn id(&self, _cx: &Call) -> api::Result<String> {
        Ok(self.id.to_string())
    }
    fn time_stamp(&self, _cx: &Call) -> api::Result<i64> {
        self.get(|s| s.time.unix() * 1000)
    }
    fn online(&self, _cx: &Call) -> api::Result<bool> {
        self.get(|s| s.state_file.is_some())
    }
    fn machine(&self, _cx: &Call) -> api::Result<ObjRef> {
        let snapshot = Some(self.id);
        Ok(View {
            snapshot,
            ..self.view.plain()
        }
        .path(""))
    }
    fn parent(&self, _cx: &Call) -> api::Result<ObjRef> {
        let parent = self.view.get(|m| {
            let all = snapshots(m);
            all.into_iter()
                .find(|s| s.children.iter().any(|c| c.uuid == self.id))
                .map(|s| s.uuid)
        })?;
        Ok(parent.map_or(ObjRef::null(), |id| self.path(id)))
    }
    fn children(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        self.get(|s| s.children.iter().map(|c| self.path(c.uuid)).collect())
    }
    fn children_count(&self, _cx: &Call) -> api::Result<u32> {
        self.get(|s| u32::try_from(s.children.len()).unwrap_or(u32::MAX))
    }
}
api::object!(SnapshotObject: ISnapshot);
