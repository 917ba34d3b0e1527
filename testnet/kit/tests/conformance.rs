//! The doubles keep the contracts of the seams that they stand for.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::PeerId;
use quorate_seams::{Inbound, Net};
use quorate_testkit::conformance::Machine;
use quorate_testkit::conformance::net::Nodes;
use quorate_testkit::{MemoryDisk, Network, VirtualClock};
use quorate_testnet::rng::Rng;

mod memory_disk {
    mod records {
        quorate_testkit::kv_suite!(quorate_testkit::MemoryDisk::default());
    }
    mod files {
        quorate_testkit::files_suite!(quorate_testkit::MemoryDisk::default());
    }
    mod log {
        quorate_testkit::log_suite!(quorate_testkit::MemoryDisk::default());
    }
}

/// The disk of the simulator: of what was not synced, a part is there after a crash.
struct TornDisk(MemoryDisk, Rng);

impl TornDisk {
    fn new() -> Self {
        Self(MemoryDisk::default(), Rng::new(1, "crashes"))
    }
}

impl Machine for TornDisk {
    fn open(&mut self) -> quorate_seams::Disk {
        self.0.mount()
    }
    fn lose_power(&mut self) {
        self.0.crash(&mut self.1);
    }
}

mod torn_disk {
    mod records {
        quorate_testkit::kv_suite!(crate::TornDisk::new());
    }
    mod files {
        quorate_testkit::files_suite!(crate::TornDisk::new());
    }
    mod log {
        quorate_testkit::log_suite!(crate::TornDisk::new());
    }
}

struct MemoryNodes {
    network: Network,
    started: u8,
}

impl MemoryNodes {
    fn new() -> Self {
        Self { network: Network::new(1), started: 0 }
    }
}

impl Nodes for MemoryNodes {
    fn start(&mut self) -> BoxFuture<'_, (Arc<dyn Net>, Inbound)> {
        self.started += 1;
        let (net, inbound) =
            self.network.attach(self.started.into(), PeerId([self.started; 32]), Arc::new(VirtualClock::right()));
        async move { (Arc::new(net) as Arc<dyn Net>, inbound) }.boxed()
    }
    fn end(&mut self, peer: PeerId) {
        self.network.detach(peer);
    }
}

mod memory_net {
    quorate_testkit::net_suite!(
        #[tokio::test(start_paused = true)]
        crate::MemoryNodes::new()
    );
}
