//! The media that the service knows: those of machines' registries, of `VirtualBox.xml`, and those
//! opened since. A medium is kept in a settings file once it is attached to a machine.

use crate::conv::{file_error, not_found};
use crate::state::{Entry, State, is_running};
use api::types::{DeviceType, MediumState};
use api::{Error, ResultCode};
use settings::model::{
    AttachedMedium, HardDisk, HardDiskType, Hardware, Image, Machine, MediaRegistry, Snapshot,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use storage::{Layout, MediaInfo, MediaKind, Variant};
use uuid::Uuid;

/// One medium.
#[derive(Debug, Clone)]
pub struct Medium {
    pub id: Uuid,
    pub kind: DeviceType,
    /// Absolute path.
    pub location: PathBuf,
    /// `VDI`, `RAW`, ...
    pub format: String,
    pub disk_type: HardDiskType,
    pub parent: Option<Uuid>,
    pub auto_reset: bool,
    pub description: String,
    pub properties: BTreeMap<String, String>,
    /// As found last; locks by running machines come on top.
    pub state: MediumState,
    pub error: String,
    /// What the file's header says; none before it was read or when it cannot be.
    pub info: Option<MediaInfo>,
    /// Machine whose settings file keeps it; nil is `VirtualBox.xml`.
    pub registry: Option<Uuid>,
    /// Rank among all media, in the order they became known: that of the files they are kept in.
    order: u64,
}

impl Medium {
    pub fn new(id: Uuid, kind: DeviceType, location: PathBuf, format: String) -> Self {
        Self {
            id,
            kind,
            location,
            format,
            disk_type: HardDiskType::Normal,
            parent: None,
            auto_reset: false,
            description: String::new(),
            properties: BTreeMap::new(),
            state: MediumState::NotCreated,
            error: String::new(),
            info: None,
            registry: None,
            order: 0,
        }
    }

    /// Looks at the file.
    pub fn refresh(&mut self) {
        match storage::media_info(&self.location) {
            Ok(info) => {
                let wanted = info.uuid.filter(|_| self.kind == DeviceType::HardDisk);
                if let Some(found) = wanted.filter(|u| *u != self.id) {
                    self.state = MediumState::Inaccessible;
                    self.error = format!(
                        "UUID {{{found}}} of the medium '{}' does not match the value {{{}}} stored in the media registry",
                        self.location.display(),
                        self.id
                    );
                } else {
                    self.state = MediumState::Created;
                    self.error.clear();
                }
                self.info = Some(info);
            }
            Err(e) => {
                self.state = MediumState::Inaccessible;
                self.error = open_error(&self.location, &e).text;
                self.info = None;
            }
        }
    }

    /// The file name.
    pub fn name(&self) -> String {
        self.location
            .file_name()
            .map_or(String::new(), |n| n.to_string_lossy().into_owned())
    }

    /// How the image lies in its files, once it has been looked at.
    pub fn variant(&self) -> Option<(Variant, Layout)> {
        self.info.as_ref().map(|i| (i.variant, i.layout))
    }
}

/// What VirtualBox says of an image that cannot be opened.
pub fn open_error(path: &Path, error: &storage::Error) -> Error {
    let path = path.display();
    file_error(match error {
        storage::Error::NotFound { .. } => {
            format!(
                "Could not find file for the medium '{path}' ({})",
                error.status()
            )
        }
        _ => format!(
            "Could not open the medium '{path}'.\n{error} ({})",
            error.status()
        ),
    })
}

/// The API's word for what a medium goes into.
pub fn device_type(kind: MediaKind) -> DeviceType {
    match kind {
        MediaKind::HardDisk => DeviceType::HardDisk,
        MediaKind::Dvd => DeviceType::DVD,
        MediaKind::Floppy => DeviceType::Floppy,
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Media {
    list: BTreeMap<Uuid, Medium>,
    /// The last rank given.
    last: u64,
}

impl Media {
    /// Takes in a registry; `owner` is the machine it belongs to.
    pub fn load(&mut self, registry: &MediaRegistry, folder: &Path, owner: Option<Uuid>) {
        let owner = Some(owner.unwrap_or(Uuid::nil()));
        let mut open: Vec<(&HardDisk, Option<Uuid>)> =
            registry.hard_disks.iter().map(|d| (d, None)).collect();
        open.reverse();
        while let Some((disk, parent)) = open.pop() {
            let location = settings::resolve_path(&disk.location, folder);
            let mut medium = Medium::new(
                disk.uuid,
                DeviceType::HardDisk,
                location,
                disk.format.clone(),
            );
            medium.parent = parent;
            medium.disk_type = disk.kind;
            medium.auto_reset = disk.auto_reset;
            medium.description.clone_from(&disk.description);
            medium.properties.clone_from(&disk.properties);
            medium.registry = owner;
            self.insert_unless_known(medium);
            open.extend(disk.children.iter().rev().map(|c| (c, Some(disk.uuid))));
        }
        let images = |list: &[Image], kind: DeviceType| {
            list.iter()
                .map(|i| {
                    let location = settings::resolve_path(&i.location, folder);
                    let mut medium = Medium::new(i.uuid, kind, location, "RAW".to_owned());
                    medium.description.clone_from(&i.description);
                    medium.properties.clone_from(&i.properties);
                    medium.registry = owner;
                    medium
                })
                .collect::<Vec<_>>()
        };
        let dvds = images(&registry.dvds, DeviceType::DVD);
        for m in dvds
            .into_iter()
            .chain(images(&registry.floppies, DeviceType::Floppy))
        {
            self.insert_unless_known(m);
        }
    }

    fn insert_unless_known(&mut self, mut medium: Medium) {
        if !self.list.contains_key(&medium.id) {
            self.last += 1;
            medium.order = self.last;
            self.list.insert(medium.id, medium);
        }
    }

    /// The registry that a settings file in `folder` keeps for `owner`.
    pub fn registry(&self, owner: Uuid, folder: &Path) -> MediaRegistry {
        let mine: Vec<&Medium> = self.in_order(|m| m.registry == Some(owner));
        let location = |m: &Medium| {
            settings::store_path(&m.location, folder)
                .unwrap_or_else(|| m.location.to_string_lossy().into_owned())
        };
        let image = |m: &Medium| Image {
            uuid: m.id,
            location: location(m),
            format: String::new(),
            description: m.description.clone(),
            properties: m.properties.clone(),
        };
        let of = |kind: DeviceType| mine.iter().copied().filter(move |m| m.kind == kind);
        let is_root = |m: &&Medium| {
            m.parent
                .and_then(|p| self.list.get(&p))
                .is_none_or(|p| p.registry != Some(owner))
        };
        MediaRegistry {
            hard_disks: of(DeviceType::HardDisk)
                .filter(is_root)
                .map(|m| self.tree(m, owner, &location, 0))
                .collect(),
            dvds: of(DeviceType::DVD).map(image).collect(),
            floppies: of(DeviceType::Floppy).map(image).collect(),
        }
    }

    fn in_order(&self, wanted: impl Fn(&Medium) -> bool) -> Vec<&Medium> {
        let mut found: Vec<&Medium> = self.list.values().filter(|m| wanted(m)).collect();
        found.sort_by_key(|m| m.order);
        found
    }

    fn tree(
        &self,
        medium: &Medium,
        owner: Uuid,
        location: &dyn Fn(&Medium) -> String,
        depth: u32,
    ) -> HardDisk {
        // A loop of parents in a damaged file must not keep us here.
        let children = self
            .in_order(|m| depth < 300 && m.parent == Some(medium.id) && m.registry == Some(owner))
            .into_iter()
            .map(|m| self.tree(m, owner, location, depth + 1))
            .collect();
        HardDisk {
            uuid: medium.id,
            location: location(medium),
            format: medium.format.clone(),
            kind: medium.disk_type,
            auto_reset: medium.auto_reset,
            description: medium.description.clone(),
            properties: medium.properties.clone(),
            children,
        }
    }

    pub fn get(&self, id: Uuid) -> api::Result<&Medium> {
        self.list.get(&id).ok_or_else(|| unknown(id))
    }

    pub fn get_mut(&mut self, id: Uuid) -> api::Result<&mut Medium> {
        self.list.get_mut(&id).ok_or_else(|| unknown(id))
    }

    pub fn insert(&mut self, mut medium: Medium) {
        self.last += 1;
        medium.order = self.last;
        self.list.insert(medium.id, medium);
    }

    pub fn remove(&mut self, id: Uuid) -> Option<Medium> {
        self.list.remove(&id)
    }

    pub fn by_location(&self, location: &Path, kind: DeviceType) -> Option<&Medium> {
        self.list
            .values()
            .find(|m| m.kind == kind && m.location == location)
    }

    /// Media of one kind; differencing images come with their bases only when asked for.
    pub fn of_kind(&self, kind: DeviceType) -> impl Iterator<Item = &Medium> {
        self.list.values().filter(move |m| m.kind == kind)
    }

    pub fn children(&self, id: Uuid) -> impl Iterator<Item = &Medium> {
        self.list.values().filter(move |m| m.parent == Some(id))
    }

    /// The medium and what it is stacked on, topmost first.
    pub fn chain(&self, id: Uuid) -> Vec<Uuid> {
        let mut chain = vec![id];
        while let Some(parent) = self
            .list
            .get(&chain[chain.len() - 1])
            .and_then(|m| m.parent)
        {
            if chain.contains(&parent) {
                break;
            }
            chain.push(parent);
        }
        chain
    }

    pub fn all(&self) -> impl Iterator<Item = &Medium> {
        self.list.values()
    }

    /// A folder was renamed, and what is in it with it.
    pub fn moved(&mut self, from: &Path, to: &Path) {
        for medium in self.list.values_mut() {
            if let Ok(rest) = medium.location.strip_prefix(from) {
                medium.location = to.join(rest);
            }
        }
    }

    /// Forgets the media of a machine's registry, except those still in `keep`.
    pub fn forget_owner(&mut self, owner: Uuid, keep: &BTreeSet<Uuid>) -> Vec<Uuid> {
        let gone: Vec<Uuid> = self
            .list
            .values()
            .filter(|m| m.registry == Some(owner) && !keep.contains(&m.id))
            .map(|m| m.id)
            .collect();
        for id in &gone {
            self.list.remove(id);
        }
        gone
    }
}

fn unknown(id: Uuid) -> Error {
    not_found(format!("Could not find an open medium with UUID {{{id}}}"))
}

/// The images that hardware refers to.
pub fn attached(hardware: &Hardware) -> impl Iterator<Item = Uuid> + '_ {
    hardware
        .storage
        .iter()
        .flat_map(|c| &c.devices)
        .filter_map(|d| match d.medium {
            AttachedMedium::Image(id) => Some(id),
            _ => None,
        })
}

/// The snapshots of a machine, parents first.
pub fn snapshots(machine: &Machine) -> Vec<&Snapshot> {
    let mut all: Vec<&Snapshot> = machine.snapshot.as_deref().into_iter().collect();
    let mut at = 0;
    while let Some(snapshot) = all.get(at).copied() {
        all.extend(&snapshot.children);
        at += 1;
    }
    all
}

/// How a machine uses a medium.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    pub machine: Uuid,
    /// In the present state, saved or not.
    pub current: bool,
    pub snapshots: Vec<Uuid>,
}

/// The machines that use a medium itself (not a child of it).
pub fn uses(state: &State, id: Uuid) -> Vec<Use> {
    state
        .machines
        .iter()
        .filter_map(|e| use_of(e, id))
        .collect()
}

fn use_of(entry: &Entry, id: Uuid) -> Option<Use> {
    let settings = entry.settings().ok()?;
    let has = |h: &Hardware| attached(h).any(|a| a == id);
    let current =
        has(&settings.hardware) || entry.pending.as_ref().is_some_and(|p| has(&p.hardware));
    let snapshots: Vec<Uuid> = snapshots(settings)
        .into_iter()
        .filter(|s| has(&s.hardware))
        .map(|s| s.uuid)
        .collect();
    (current || !snapshots.is_empty()).then_some(Use {
        machine: entry.id,
        current,
        snapshots,
    })
}

/// The state a client sees: a running machine holds its media.
pub fn visible_state(state: &State, medium: &Medium) -> MediumState {
    if medium.state != MediumState::Created {
        return medium.state;
    }
    for entry in state.machines.iter().filter(|e| is_running(e.state)) {
        let Ok(settings) = entry.settings() else {
            continue;
        };
        let hardware = entry
            .pending
            .as_ref()
            .map_or(&settings.hardware, |p| &p.hardware);
        for top in attached(hardware) {
            if top == medium.id {
                let reads = medium.kind == DeviceType::DVD
                    || medium.disk_type == HardDiskType::Readonly
                    || medium.disk_type == HardDiskType::Immutable;
                return if reads {
                    MediumState::LockedRead
                } else {
                    MediumState::LockedWrite
                };
            }
            if state.media.chain(top).contains(&medium.id) {
                return MediumState::LockedRead;
            }
        }
    }
    MediumState::Created
}

/// Refuses unless nobody uses the medium's contents.
pub fn must_be_free(state: &State, medium: &Medium) -> api::Result<()> {
    match visible_state(state, medium) {
        MediumState::LockedRead | MediumState::LockedWrite => Err(Error::new(
            ResultCode::VBOX_E_INVALID_OBJECT_STATE,
            format!(
                "Medium '{}' is locked for reading or writing by another task",
                medium.location.display()
            ),
        )),
        MediumState::Creating | MediumState::Deleting => Err(Error::new(
            ResultCode::VBOX_E_INVALID_OBJECT_STATE,
            format!(
                "Medium '{}' is being created or deleted",
                medium.location.display()
            ),
        )),
        _ => Ok(()),
    }
}
