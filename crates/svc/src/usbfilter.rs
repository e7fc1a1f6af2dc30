//! `IUSBDeviceFilters`, `IUSBDeviceFilter` and `IHostUSBDeviceFilter`: which USB devices a machine
//! takes, and which of them no machine gets. They are kept and listed; what would use them has no
//! room yet.

use crate::conv::{invalid, not_found};
use crate::fields;
use crate::state::Svc;
use crate::view::{View, gone};
use api::types::*;
use api::{Call, ObjRef, server};
use settings::model as m;
use std::sync::{Arc, Mutex, PoisonError};

/// Most filters of one list.
const MAX_FILTERS: usize = 1000;

pub struct UsbDeviceFilters(pub View);

impl server::IUSBDeviceFilters for UsbDeviceFilters {
    fn device_filters(&self, _cx: &Call) -> api::Result<Vec<ObjRef>> {
        let count = self.0.get(|m| m.hardware.usb.filters.len())?;
        let path = |at| self.0.path(&format!("USBDeviceFilter/{at}"));
        Ok((0..count).map(path).collect())
    }
    fn create_device_filter(&self, cx: &Call, name: String) -> api::Result<ObjRef> {
        Ok(cx.export(Arc::new(UsbDeviceFilter::loose(name))))
    }
    fn insert_device_filter(&self, cx: &Call, position: u32, filter: ObjRef) -> api::Result<()> {
        let new = taken(cx, &filter)?;
        self.0
            .set(|m| insert(&mut m.hardware.usb.filters, position, new))
    }
    fn remove_device_filter(&self, cx: &Call, position: u32) -> api::Result<ObjRef> {
        let mut removed = m::UsbFilter::default();
        self.0.set(|m| {
            removed = remove(&mut m.hardware.usb.filters, position)?;
            Ok(())
        })?;
        let filter = UsbDeviceFilter(Place::Loose(Mutex::new(removed)));
        Ok(cx.export(Arc::new(filter)))
    }
}
api::object!(UsbDeviceFilters: IUSBDeviceFilters);

fn insert(list: &mut Vec<m::UsbFilter>, position: u32, new: m::UsbFilter) -> api::Result<()> {
    if list.len() >= MAX_FILTERS {
        return Err(invalid("There are too many USB device filters"));
    }
    // Behind the last one is the end.
    let at = usize::try_from(position).map_or(list.len(), |p| p.min(list.len()));
    list.insert(at, new);
    Ok(())
}

fn remove(list: &mut Vec<m::UsbFilter>, position: u32) -> api::Result<m::UsbFilter> {
    let at = usize::try_from(position).ok().filter(|p| *p < list.len());
    at.map(|at| list.remove(at)).ok_or_else(|| {
        let count = list.len();
        invalid(format!(
            "Invalid USB device filter position {position}: there are {count}"
        ))
    })
}

/// A copy of a filter that its client made and has not put into a list.
fn taken(cx: &Call, filter: &ObjRef) -> api::Result<m::UsbFilter> {
    let object = cx.local(filter);
    match object.as_ref().and_then(|o| o.as_any().downcast_ref()) {
        Some(UsbDeviceFilter(Place::Loose(filter))) => Ok(filter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()),
        _ => Err(invalid("The argument is not a new USB device filter")),
    }
}

pub struct UsbDeviceFilter(Place);

/// Where a filter is.
enum Place {
    Machine(View, usize),
    Host(Arc<Svc>, usize),
    /// In no list.
    Loose(Mutex<m::UsbFilter>),
}

impl UsbDeviceFilter {
    pub fn of_machine(view: View, index: usize) -> Self {
        Self(Place::Machine(view, index))
    }

    pub fn of_host(svc: Arc<Svc>, index: usize) -> Self {
        Self(Place::Host(svc, index))
    }

    pub fn loose(name: String) -> Self {
        let filter = m::UsbFilter {
            name,
            ..m::UsbFilter::default()
        };
        Self(Place::Loose(Mutex::new(filter)))
    }

    pub fn all_of_host(svc: &Svc) -> Vec<ObjRef> {
        let count = svc.with(|s| s.global.settings().usb_filters.len());
        let path = |at| ObjRef::new(format!("/VirtualBox/Host/USBDeviceFilter/{at}"));
        (0..count).map(path).collect()
    }

    pub fn insert_into_host(
        cx: &Call,
        svc: &Svc,
        position: u32,
        filter: &ObjRef,
    ) -> api::Result<()> {
        let new = taken(cx, filter)?;
        svc.with(|s| {
            s.global
                .change(|g| insert(&mut g.usb_filters, position, new))
        })
    }

    pub fn remove_from_host(svc: &Svc, position: u32) -> api::Result<()> {
        svc.with(|s| {
            s.global
                .change(|g| remove(&mut g.usb_filters, position).map(drop))
        })
    }

    fn get<R>(&self, f: impl FnOnce(&m::UsbFilter) -> R) -> api::Result<R> {
        let lost = || gone("The USB device filter");
        match &self.0 {
            Place::Machine(view, at) => view
                .get(|m| m.hardware.usb.filters.get(*at).map(f))?
                .ok_or_else(lost),
            Place::Host(svc, at) => svc
                .with(|s| s.global.settings().usb_filters.get(*at).map(f))
                .ok_or_else(lost),
            Place::Loose(filter) => Ok(f(&filter.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    fn set(&self, f: impl FnOnce(&mut m::UsbFilter) -> api::Result<()>) -> api::Result<()> {
        let lost = || gone("The USB device filter");
        match &self.0 {
            Place::Machine(view, at) => {
                view.set(|m| f(m.hardware.usb.filters.get_mut(*at).ok_or_else(lost)?))
            }
            Place::Host(svc, at) => svc.with(|s| {
                s.global
                    .change(|g| f(g.usb_filters.get_mut(*at).ok_or_else(lost)?))
            }),
            Place::Loose(filter) => f(&mut filter.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// A number of so many hex digits, or an expression of such (`int:...`), or nothing.
    fn set_hex(
        &self,
        value: String,
        field: fn(&mut m::UsbFilter) -> &mut String,
    ) -> api::Result<()> {
        let digits = value.len() <= 4 && value.bytes().all(|b| b.is_ascii_hexdigit());
        if !digits && !value.starts_with("int:") {
            return Err(invalid(format!("Invalid USB filter value '{value}'")));
        }
        self.set(|f| {
            *field(f) = value;
            Ok(())
        })
    }
}

impl server::IUSBDeviceFilter for UsbDeviceFilter {
    fields! {
        name / set_name: String = name;
        active / set_active: bool = active;
        vendor_id: String = vendor_id;
        product_id: String = product_id;
        revision: String = revision;
        manufacturer / set_manufacturer: String = manufacturer;
        product / set_product: String = product;
        serial_number / set_serial_number: String = serial_number;
        port / set_port: String = port;
        remote / set_remote: String = remote;
        masked_interfaces / set_masked_interfaces: u32 = masked_interfaces;
    }
    fn set_vendor_id(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_hex(value, |f| &mut f.vendor_id)
    }
    fn set_product_id(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_hex(value, |f| &mut f.product_id)
    }
    fn set_revision(&self, _cx: &Call, value: String) -> api::Result<()> {
        self.set_hex(value, |f| &mut f.revision)
    }
}

impl server::IHostUSBDeviceFilter for UsbDeviceFilter {
    fn action(&self, _cx: &Call) -> api::Result<USBDeviceFilterAction> {
        if matches!(self.0, Place::Machine(..)) {
            return Err(not_found("A machine's USB device filter has no action"));
        }
        self.get(|f| crate::conv::FromModel::from_model(&f.action))
    }
    fn set_action(&self, _cx: &Call, value: USBDeviceFilterAction) -> api::Result<()> {
        if matches!(self.0, Place::Machine(..)) {
            return Err(not_found("A machine's USB device filter has no action"));
        }
        self.set(|f| {
            f.action = crate::conv::ToModel::to_model(value)?;
            Ok(())
        })
    }
}
api::object!(UsbDeviceFilter: IHostUSBDeviceFilter, IUSBDeviceFilter);
