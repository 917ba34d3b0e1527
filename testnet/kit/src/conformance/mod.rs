//! The contracts of the seams, as tests that every implementation must pass: the real ones in the crate of the node,
//! the doubles in this one. Whoever replaces the record store, the piece files or the network has a suite to pass.
//!
//! A suite is a macro that makes one test of each property, so that a failure has the property's name:
//!
//! ```
//! use quorate_testkit::MemoryDisk;
//! # fn main() {}
//! quorate_testkit::kv_suite!(MemoryDisk::default());
//! quorate_testkit::files_suite!(MemoryDisk::default());
//! quorate_testkit::log_suite!(MemoryDisk::default());
//! ```

pub mod files;
pub mod kv;
pub mod log;
pub mod net;

use quorate_seams::Disk;

use crate::MemoryDisk;

/// A disk that a suite can take the power from.
pub trait Machine {
    /// Opens the disk. It is open once at a time.
    fn open(&mut self) -> Disk;
    /// What holds the disk open dies where it is, and the machine loses power: the next [`Self::open`] finds what was
    /// synced, and perhaps more.
    fn lose_power(&mut self);
}

impl Machine for MemoryDisk {
    fn open(&mut self) -> Disk {
        self.mount()
    }
    fn lose_power(&mut self) {
        self.lose_unsynced();
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! properties {
    ($machine:expr, $suite:ident: $($name:ident,)+) => { $(
        #[test]
        fn $name() {
            $crate::conformance::$suite::$name(&mut $machine);
        }
    )+ };
}
