//! `IVirtualSystemDescription`: what one machine of an appliance is made of, item by item. A client
//! may change the values before the machine is imported or written.

use crate::conv::invalid;
use crate::state::lock;
use VirtualSystemDescriptionType as T;
use api::types::*;
use api::{Call, server};
use std::sync::Mutex;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `Ignore` once a client has switched it off.
    pub kind: T,
    /// ID of the disk, instance ID of the controller.
    pub reference: String,
    /// What the package says.
    pub ovf: String,
    /// What the machine gets.
    pub value: String,
    /// What it would have got without the client.
    pub suggested: String,
    /// `controller=5;channel=0`, `slot=0;type=NAT`.
    pub extra: String,
    pub suggested_extra: String,
}

impl Entry {
    pub fn new(kind: T, reference: &str, ovf: &str, value: &str, extra: &str) -> Self {
        Self {
            kind,
            reference: reference.to_owned(),
            ovf: ovf.to_owned(),
            value: value.to_owned(),
            suggested: value.to_owned(),
            extra: extra.to_owned(),
            suggested_extra: extra.to_owned(),
        }
    }

    /// A value of `extra`, which has the form `name=value;name=value`.
    pub fn option(&self, name: &str) -> Option<&str> {
        let pairs = self.extra.split(';').filter_map(|p| p.split_once('='));
        let mut found = pairs.filter(|(n, _)| n.trim().eq_ignore_ascii_case(name));
        found.next().map(|(_, v)| v.trim())
    }
}

/// The value of the last item of a kind.
pub fn last(entries: &[Entry], kind: T) -> Option<&Entry> {
    entries.iter().rev().find(|e| e.kind == kind)
}

/// The object.
#[derive(Debug, Default)]
pub struct Description(Mutex<Vec<Entry>>);

type Columns = (Vec<T>, Vec<String>, Vec<String>, Vec<String>, Vec<String>);

impl Description {
    pub fn new(entries: Vec<Entry>) -> Self {
        Self(Mutex::new(entries))
    }

    pub fn entries(&self) -> Vec<Entry> {
        lock(&self.0).clone()
    }

    fn columns(&self, wanted: impl Fn(&Entry) -> bool) -> Columns {
        let mut columns = Columns::default();
        for e in lock(&self.0).iter().filter(|e| wanted(e)) {
            columns.0.push(e.kind);
            columns.1.push(e.reference.clone());
            columns.2.push(e.ovf.clone());
            columns.3.push(e.value.clone());
            columns.4.push(e.extra.clone());
        }
        columns
    }
}

impl server::IVirtualSystemDescription for Description {
    fn count(&self, _cx: &Call) -> api::Result<u32> {
        Ok(u32::try_from(lock(&self.0).len()).unwrap_or(u32::MAX))
    }
    fn get_description(&self, _cx: &Call) -> api::Result<Columns> {
        Ok(self.columns(|_| true))
    }
    fn get_description_by_type(&self, _cx: &Call, kind: T) -> api::Result<Columns> {
        Ok(self.columns(|e| e.kind == kind))
    }
    fn remove_description_by_type(&self, _cx: &Call, kind: T) -> api::Result<()> {
        lock(&self.0).retain(|e| e.kind != kind);
        Ok(())
    }
    fn get_values_by_type(
        &self,
        _cx: &Call,
        kind: T,
        which: VirtualSystemDescriptionValueType,
    ) -> api::Result<Vec<String>> {
        use VirtualSystemDescriptionValueType as V;
        let all = self.columns(|e| e.kind == kind);
        Ok(match which {
            V::Reference => all.1,
            V::Original => all.2,
            V::Auto => all.3,
            V::ExtraConfig => all.4,
        })
    }
    fn set_final_values(
        &self,
        _cx: &Call,
        enabled: Vec<bool>,
        values: Vec<String>,
        extras: Vec<String>,
    ) -> api::Result<()> {
        let mut entries = lock(&self.0);
        let count = entries.len();
        if enabled.len() != count || values.len() != count || extras.len() != count {
            return Err(invalid(format!(
                "There must be {count} values of each sort"
            )));
        }
        let new = enabled.into_iter().zip(values).zip(extras);
        for (entry, ((enabled, value), extra)) in entries.iter_mut().zip(new) {
            if !enabled {
                entry.kind = T::Ignore;
            }
            entry.value = value;
            entry.extra = extra;
        }
        Ok(())
    }
    fn add_description(
        &self,
        _cx: &Call,
        kind: T,
        value: String,
        extra: String,
    ) -> api::Result<()> {
        const MOST: usize = 10_000;
        let mut entries = lock(&self.0);
        if entries.len() >= MOST {
            return Err(invalid("There are too many items"));
        }
        entries.push(Entry::new(kind, "", "", &value, &extra));
        Ok(())
    }
}
api::object!(Description: IVirtualSystemDescription);
