//! VBoxSVC: owns all machines, media and settings, and answers the Main API for them.
//!
//! `state` holds what is known, under one lock; every other module is one kind of API object. An
//! object is a thin handle (service, UUID, part) made anew for each call by `space`, so nothing
//! has to be kept in step. `forward` leads to VM processes.

mod appliance;
mod conv;
mod cpuprofile;
mod forward;
mod host;
mod machine;
mod media;
mod medium;
mod mediumformat;
mod netservice;
mod network;
mod ostypes;
mod parts;
mod ports;
mod service;
mod session;
mod snapshot;
mod space;
mod state;
mod storagecontroller;
mod store;
mod system;
mod usbfilter;
mod view;
mod virtualbox;

pub use service::{Options, run};
pub use virtualbox::{REVISION, VERSION};
