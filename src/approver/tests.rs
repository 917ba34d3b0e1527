//! The approver over a disk in memory, asked as a peer would ask it.

use std::sync::atomic::{AtomicBool, Ordering};

use quorate_protocols::admission::Trust;
use quorate_protocols::approval::limits::{
    ASKER_DISK_PERCENT, MEMBER_DISK_BYTES, MEMBER_MEMORY_BYTES, UNUSED_LEASE_MAX,
};
use quorate_protocols::capacity::{Capacity, Unmet};
use quorate_protocols::ids::Nonce;
use quorate_protocols::resources::{Limits, Resource};
use quorate_testkit::{MemoryDisk, Network, seams};

use super::*;
use crate::directory::DirectoryParts;
use crate::seams::Frame;
use crate::testing::metrics::value;
use crate::testing::standings::Believed;
use crate::testing::{Penalties, identity};

struct Joined(AtomicBool);

impl Memberships for Joined {
    fn is_member(&self, _quorum: QuorumId) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    fn count(&self) -> usize {
        0
    }
}

struct Bench {
    approver: Approver,
    directory: Directory,
    resources: Resources,
    member: Arc<Joined>,
    network: Network,
    penalties: Arc<Penalties>,
    seams: Seams,
}

const ASKER: u8 = 7;

/// Votes in no quorum.
const STRANGER: u8 = 9;

/// Sends the pieces of columns.
const UPLOADER: u8 = 6;

/// A disk with this many bytes left.
fn disk_of(free_bytes: u64) -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.set_space(free_bytes, 0);
    disk
}

async fn start(disk: &MemoryDisk) -> Bench {
    start_with(disk, &[NodeRole::Store, NodeRole::Wasm]).await
}

async fn start_with(disk: &MemoryDisk, roles: &[NodeRole]) -> Bench {
    let seams = seams(1, disk.disk());
    let penalties = Arc::new(Penalties::default());
    let network = Network::new(1).observed_by(penalties.clone());
    let (net, inbound) = network.attach(1, identity(1).peer(), seams.clock.clone());
    let net = Arc::new(net);
    let resources = Resources::new(Limits::unlimited());
    let member = Arc::new(Joined(AtomicBool::new(false)));
    let labels = BTreeMap::from([("zone".to_owned(), "attic".to_owned())]);
    let scope = seams.tasks.clone();
    let (approver, directory) = scope
        .scope(async {
            let directory = Directory::start(DirectoryParts {
                standings: Believed::all_but([]),
                seams: seams.clone(),
                identity: identity(1),
                net: net.clone(),
                resources: resources.clone(),
                gossip: inbound.gossip,
                roles: Vec::new(),
                name: String::new(),
                labels: labels.clone(),
                trust: Trust::default(),
                admission: None,
            });
            let parts = ApproverParts {
                seams: seams.clone(),
                identity: identity(1),
                net,
                storage: Storage::start(disk.disk()),
                resources: resources.clone(),
                directory: directory.clone(),
                memberships: member.clone(),
                standings: Believed::all_but([identity(STRANGER).peer()]),
                labels,
                roles: roles.iter().copied().collect(),
                disk_bytes_max: None,
                requests: inbound.approval,
            };
            (Approver::start(parts).await.unwrap(), directory)
        })
        .await;
    Bench { approver, directory, resources, member, network, penalties, seams }
}

fn job() -> JobId {
    JobId { quorum: QuorumId([1; 16]), local: [2; 16] }
}

fn column(writer: Writer) -> Subject {
    Subject::Holder { job: job(), writer }
}

fn request(nonce: u8, disk_bytes: u64) -> ApprovalRequest {
    ApprovalRequest {
        subject: column(Writer::Uploader(identity(UPLOADER).peer())),
        requirement: Capacity::disk(disk_bytes).into(),
        nonce: Nonce([nonce; 16]),
        duration: Duration::from_secs(60),
    }
}

impl Bench {
    async fn ask(&self, request: ApprovalRequest) -> Result<Approval, Refusal> {
        match self.send_message(ASKER, ApprovalMessage::Ask(request)).await {
            ApprovalAnswer::Granted(approval) => Ok(approval),
            ApprovalAnswer::Refused(refusal) => Err(refusal),
            ApprovalAnswer::Acknowledged => panic!("a question is not merely noted"),
        }
    }
    async fn send_message(&self, from: u8, message: ApprovalMessage) -> ApprovalAnswer {
        let approver = self.approver.clone();
        self.seams.tasks.scope(async move { approver.answer(identity(from).peer(), message).await }).await
    }
    fn disk_used(&self) -> u64 {
        self.resources.used(Scope::System).disk_bytes
    }
}

#[tokio::test(start_paused = true)]
async fn a_promise_is_a_reservation_and_a_signature_over_it() {
    let bench = start(&disk_of(1000)).await;
    let approval = bench.ask(request(1, 600)).await.unwrap();
    assert!(approval.is_genuine());
    assert_eq!(approval.statement.asker, identity(ASKER).peer());
    assert_eq!(bench.disk_used(), 600);
    assert_eq!(bench.approver.lease(approval.statement.lease).unwrap().subject, request(1, 600).subject);
    let refused = bench.ask(request(2, 600)).await.unwrap_err();
    assert!(matches!(refused, Refusal::Resources { needed: 600, available: 150, limit: 750, .. }), "{refused:?}");
    let other = bench.send_message(8, ApprovalMessage::Ask(request(2, 600))).await;
    let nothing_left = Refusal::Resources {
        scope: "the node".to_owned(),
        resource: Resource::DiskBytes,
        needed: 600,
        available: 400,
        limit: 1000,
    };
    assert_eq!(other, ApprovalAnswer::Refused(nothing_left));
    assert_eq!(bench.disk_used(), 600);
}

#[tokio::test(start_paused = true)]
async fn the_same_question_gets_the_same_promise_and_reserves_once() {
    let bench = start(&disk_of(1000)).await;
    let first = bench.ask(request(1, 600)).await.unwrap();
    assert_eq!(bench.ask(request(1, 600)).await.unwrap(), first);
    assert_eq!(bench.ask(request(1, 1)).await, Err(Refusal::AlreadyPromised), "not for another requirement");
    assert_eq!(bench.disk_used(), 600);
}

#[tokio::test(start_paused = true)]
async fn leases_end_by_themselves_and_traffic_keeps_them() {
    let bench = start(&disk_of(1000)).await;
    let mut ended = bench.approver.ended();
    let idle = bench.ask(request(1, 100)).await.unwrap().statement.lease;
    let busy = bench.ask(request(2, 200)).await.unwrap().statement.lease;
    tokio::time::sleep(UNUSED_LEASE_MAX / 2).await;
    bench.approver.touch_column_lease(busy);
    assert_eq!(ended.recv().await.unwrap().lease, idle);
    assert_eq!(bench.disk_used(), 200);
    assert!(!bench.approver.is_alive(idle) && bench.approver.is_alive(busy));
}

/// Goal: a lease says who fills its column, for its own run alone, and after a restart as before it; the quorum's word
/// names another.
#[tokio::test(start_paused = true)]
async fn a_column_has_one_writer_whom_only_its_quorum_changes() {
    let disk = disk_of(1000);
    let bench = start(&disk).await;
    let lease = bench.ask(request(1, 100)).await.unwrap().statement.lease;
    let [uploader, other] = [UPLOADER, STRANGER].map(|n| Writer::Uploader(identity(n).peer()));
    let another_run = JobId { local: [9; 16], ..job() };
    assert_eq!(bench.approver.column_writer(lease, job()), Some(uploader));
    assert_eq!(bench.approver.column_writer(lease, another_run), None);
    bench.approver.set_column_writer(lease, another_run, identity(STRANGER).peer());
    assert_eq!(bench.approver.column_writer(lease, job()), Some(uploader));
    bench.approver.set_column_writer(lease, job(), identity(STRANGER).peer());
    assert_eq!(bench.approver.column_writer(lease, job()), Some(other));
    let repair = ApprovalRequest { subject: column(Writer::Quorum), ..request(2, 100) };
    let repair = bench.ask(repair).await.unwrap().statement.lease;
    bench.approver.set_column_writer(repair, job(), identity(STRANGER).peer());
    assert_eq!(bench.approver.column_writer(repair, job()), Some(Writer::Quorum), "a repair has no uploader");
    for used in [lease, repair] {
        bench.approver.touch_column_lease(used);
    }
    // Written behind: the next promise is on disk after it.
    bench.ask(request(3, 1)).await.unwrap();
    bench.seams.tasks.crash();
    let bench = start(&disk).await;
    assert_eq!(bench.approver.column_writer(lease, job()), Some(other));
    assert_eq!(bench.approver.column_writer(repair, job()), Some(Writer::Quorum));
}

/// Goal: a column gets no more disk than its lease reserves, and a stream's lease reserves more while there is room.
#[tokio::test(start_paused = true)]
async fn a_lease_reserves_what_its_column_takes_or_the_column_takes_no_more() {
    let bench = start(&disk_of(1000)).await;
    let known = bench.ask(request(1, 100)).await.unwrap().statement.lease;
    assert!(bench.approver.reserve_column(known, 100) && !bench.approver.reserve_column(known, 101));
    let stream = column(Writer::Streamer(identity(UPLOADER).peer()));
    let stream = bench.ask(ApprovalRequest { subject: stream, ..request(2, 300) }).await.unwrap().statement.lease;
    assert!(bench.approver.reserve_column(stream, 300));
    assert_eq!(bench.disk_used(), 400);
    assert!(bench.approver.reserve_column(stream, 301));
    assert_eq!(bench.disk_used(), 700, "twice as much as before");
    assert!(bench.approver.reserve_column(stream, 900));
    assert_eq!(bench.disk_used(), 1000, "as much as is asked for, where there is no room for twice as much");
    assert!(!bench.approver.reserve_column(stream, 901));
    bench.approver.release_column(stream);
    assert!(!bench.approver.reserve_column(stream, 1), "a lease that has ended");
    assert_eq!(bench.disk_used(), 100);
}

/// Goal: what was used or held before a restart is reserved after it, before anything new is promised; what nobody used
/// is not.
#[tokio::test(start_paused = true)]
async fn promises_and_holds_outlive_the_process() {
    let disk = disk_of(1000);
    let bench = start(&disk).await;
    let lease = bench.ask(request(1, 200)).await.unwrap().statement.lease;
    bench.approver.touch_column_lease(lease);
    let hold = bench.ask(request(2, 500)).await.unwrap().statement.lease;
    bench.approver.settle_column(hold, 450);
    let unused = bench.ask(request(5, 100)).await.unwrap().statement.lease;
    assert_eq!(bench.disk_used(), 750);
    bench.seams.tasks.crash();
    // What is held is written, so the disk has that much less left.
    disk.set_space(550, 0);

    let bench = start(&disk).await;
    assert_eq!(bench.disk_used(), 650);
    assert!(!bench.approver.is_alive(unused));
    assert_eq!(bench.approver.lease(hold).unwrap().expires, None);
    assert!(bench.ask(request(3, 351)).await.is_err());
    bench.ask(request(4, 350)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(!bench.approver.is_alive(lease) && bench.approver.is_alive(hold));
    bench.approver.release_column(hold);
    assert_eq!(bench.disk_used(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_promised_that_cannot_be_written_down() {
    let disk = disk_of(1000);
    let bench = start(&disk).await;
    disk.set_full(true);
    assert!(matches!(bench.ask(request(1, 100)).await, Err(Refusal::Unfit { .. })));
    assert_eq!(bench.disk_used(), 0);
    disk.set_full(false);
    bench.ask(request(1, 100)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_those_concerned_may_renew_or_release() {
    let bench = start(&disk_of(1000)).await;
    let lease = bench.ask(request(1, 100)).await.unwrap().statement.lease;
    let release = ApprovalMessage::Release { lease };
    let refused = bench.send_message(STRANGER, release.clone()).await;
    assert_eq!(refused, ApprovalAnswer::Refused(Refusal::NotAllowed));
    // A voter of the quorum speaks for a primary that is gone.
    let renew = ApprovalMessage::Renew { lease, duration: Duration::from_secs(600) };
    assert_eq!(bench.send_message(8, renew).await, ApprovalAnswer::Acknowledged);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(bench.approver.is_alive(lease));
    assert_eq!(bench.send_message(ASKER, release).await, ApprovalAnswer::Acknowledged);
    assert_eq!(bench.disk_used(), 0);
}

#[tokio::test(start_paused = true)]
async fn unfit_nodes_say_why() {
    let bench = start(&disk_of(1000)).await;
    let mut picky = request(1, 1);
    picky.requirement.labels.insert("zone".into(), "cellar".into());
    assert!(matches!(bench.ask(picky).await, Err(Refusal::Unmet(Unmet::Label { .. }))));
    bench.directory.set_draining(true);
    assert_eq!(bench.ask(request(1, 1)).await, Err(Refusal::Draining));
    bench.directory.set_draining(false);
    bench.ask(request(1, 1)).await.unwrap();
}

/// Goal: a node promises only what its operator lets it take on, also to a peer that did not read its advert.
#[tokio::test(start_paused = true)]
async fn a_node_promises_nothing_outside_its_roles() {
    let quorum = QuorumId([1; 16]);
    let worker = ApprovalRequest {
        subject: Subject::Worker { quorum },
        requirement: Capacity { slots: 1, ..Capacity::default() }.into(),
        ..request(1, 0)
    };
    let member = ApprovalRequest { subject: Subject::Member { quorum }, ..request(2, 1) };
    let disk = disk_of(2 * MEMBER_DISK_BYTES);
    let bench = start_with(&disk, &[NodeRole::Wasm]).await;
    let no_store = Err(Refusal::Unmet(Unmet::Role(NodeRole::Store)));
    assert_eq!(bench.ask(request(3, 1)).await, no_store);
    assert_eq!(bench.ask(member.clone()).await, no_store);
    bench.ask(worker.clone()).await.unwrap();
    let bench = start_with(&disk, &[NodeRole::Store]).await;
    assert!(matches!(bench.ask(worker).await, Err(Refusal::Unfit { .. })));
    bench.ask(member).await.unwrap();
    bench.ask(request(3, 1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_promised_membership_ends_unless_the_quorum_came_to_be() {
    for joined in [false, true] {
        let bench = start(&disk_of(2 * MEMBER_DISK_BYTES)).await;
        let subject = Subject::Member { quorum: QuorumId([4; 16]) };
        let lease = bench.ask(ApprovalRequest { subject, ..request(1, 64) }).await.unwrap().statement.lease;
        let again = bench.ask(ApprovalRequest { subject, ..request(2, 64) }).await;
        assert_eq!(again, Err(Refusal::AlreadyPromised));
        bench.member.0.store(joined, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(bench.approver.is_alive(lease), joined);
        assert_eq!(bench.disk_used(), if joined { MEMBER_DISK_BYTES } else { 0 });
        bench.member.0.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(bench.disk_used(), 0, "a membership that ended holds nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_message_are_penalised_and_not_answered() {
    let bench = start(&disk_of(1000)).await;
    let (asker, _inbound) = bench.network.attach(ASKER.into(), identity(ASKER).peer(), bench.seams.clock.clone());
    let me = identity(1).peer();
    let ask =
        |head: Vec<u8>| asker.request(me, crate::seams::Protocol::Approval, Frame::head(head), Duration::from_secs(1));
    assert!(ask(vec![250, 1, 2, 3]).await.is_err());
    assert_eq!(*bench.penalties.0.lock(), [identity(ASKER).peer()]);
    let message = quorate_protocols::wire::encode(&ApprovalMessage::Ask(request(1, 10)));
    let answer = ask(message).await.unwrap();
    let answer: ApprovalAnswer = quorate_protocols::wire::decode(&answer.head, 4096).unwrap();
    assert!(matches!(answer, ApprovalAnswer::Granted(_)));
}

/// Goal: one lease per quorum to run its tasks, which whoever may manage it changes by asking again; and no more is
/// ever reserved than it says. Method: grow it past what there is, then to what there is, then shrink it.
#[tokio::test(start_paused = true)]
async fn the_lease_of_a_worker_is_one_and_follows_what_is_asked_for() {
    let bench = start(&disk_of(2000)).await;
    let quorum = QuorumId([1; 16]);
    let worker = |nonce: u8, slots: u32, disk_bytes: u64| ApprovalRequest {
        subject: Subject::Worker { quorum },
        requirement: Capacity { slots, disk_bytes, memory_bytes: 0 }.into(),
        ..request(nonce, 0)
    };
    let slots = || bench.resources.used(Scope::Service(Service::Jobs)).slots;
    assert!(matches!(bench.ask(worker(1, 0, 0)).await, Err(Refusal::Unfit { .. })), "a worker without a slot");
    let first = bench.ask(worker(2, 1, 600)).await.unwrap();
    assert!(first.is_genuine() && slots() == 1 && bench.disk_used() == 600);
    assert!(matches!(bench.ask(worker(3, 4, 2001)).await, Err(Refusal::Resources { .. })));
    assert_eq!((slots(), bench.disk_used()), (1, 600), "a refused change changes nothing");
    let grown = bench.ask(worker(4, 4, 1000)).await.unwrap();
    assert_eq!(grown.statement.lease, first.statement.lease);
    assert_eq!((slots(), bench.disk_used()), (4, 1000));
    assert_eq!(bench.ask(worker(4, 4, 1000)).await.unwrap(), grown, "the same question again");
    let stranger = identity(STRANGER).peer();
    let lease = grown.statement.lease;
    let asked = bench.approver.answer(stranger, ApprovalMessage::Ask(worker(5, 1, 1))).await;
    assert!(
        matches!(&asked, ApprovalAnswer::Refused(Refusal::Unfit { reason }) if reason.contains("votes")),
        "{asked:?}"
    );
    let released = bench.approver.answer(stranger, ApprovalMessage::Release { lease }).await;
    assert_eq!(released, ApprovalAnswer::Refused(Refusal::NotAllowed), "it does not speak for the quorum");
    assert_eq!(bench.approver.use_worker_lease(lease, QuorumId([2; 16])), None);
    assert_eq!(bench.approver.use_worker_lease(lease, quorum).unwrap().reserved.slots, 4);
    bench.ask(worker(6, 2, 100)).await.unwrap();
    assert_eq!((slots(), bench.disk_used()), (2, 100));
    assert_eq!(bench.send_message(ASKER, ApprovalMessage::Release { lease }).await, ApprovalAnswer::Acknowledged);
    assert_eq!((slots(), bench.disk_used()), (0, 0));
}

/// Goal: the metrics follow what is granted, held, refused and given back.
#[tokio::test(start_paused = true)]
async fn leases_are_counted() {
    let bench = start(&disk_of(1000)).await;
    let mut registry = Registry::default();
    bench.approver.register_metrics(&mut registry);
    bench.resources.register_metrics(&mut registry);
    let leases = |name: &str| value(&registry, &format!("quorate_leases_{name}"));
    assert_eq!(leases("held"), 0.0);
    let first = bench.ask(request(1, 600)).await.unwrap();
    assert_eq!(bench.ask(request(1, 600)).await.unwrap(), first);
    bench.send_message(8, ApprovalMessage::Ask(request(2, 600))).await;
    assert_eq!((leases("held"), leases("granted_total"), leases("repeated_total")), (1.0, 1.0, 1.0));
    assert_eq!(leases("refused_total"), 1.0);
    let refused = "quorate_resources_refused_total{scope=\"system\",resource=\"disk_bytes\"}";
    assert_eq!(value(&registry, refused), 1.0);
    bench.send_message(ASKER, ApprovalMessage::Release { lease: first.statement.lease }).await;
    assert_eq!((leases("held"), leases("released_total")), (0.0, 1.0));
    bench.ask(request(3, 600)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((leases("held"), leases("expired_total")), (0.0, 1.0));
}

/// Goal: one question takes a share of a node, whatever it asks for. Method: a peer that votes in quorums asks for all
/// that there is, as each subject; so does the node itself.
#[tokio::test(start_paused = true)]
async fn no_question_takes_more_of_a_node_than_a_share() {
    let all = 1 << 40;
    let bench = start(&disk_of(all)).await;
    let quorum = QuorumId([1; 16]);
    let everything = |subject, nonce| ApprovalRequest {
        subject,
        requirement: Capacity { disk_bytes: all, memory_bytes: u64::MAX, slots: 0 }.into(),
        ..request(nonce, 0)
    };
    let used = || bench.resources.used(Scope::System);
    bench.ask(everything(Subject::Founding { nonce: Nonce([1; 16]) }, 1)).await.unwrap();
    bench.ask(everything(Subject::Member { quorum }, 2)).await.unwrap();
    assert_eq!((used().disk_bytes, used().memory_bytes), (2 * MEMBER_DISK_BYTES, 2 * MEMBER_MEMORY_BYTES));
    let column = everything(column(Writer::Quorum), 3);
    assert!(matches!(bench.ask(column).await, Err(Refusal::Unfit { reason }) if reason.contains("disk")));
    let share = all / 100 * ASKER_DISK_PERCENT;
    let worker = |disk_bytes, nonce| ApprovalRequest {
        subject: Subject::Worker { quorum },
        requirement: Capacity { disk_bytes, memory_bytes: 0, slots: 1 }.into(),
        ..request(nonce, 0)
    };
    for refused in [request(4, share), worker(share, 5)] {
        let refused = bench.ask(refused).await.unwrap_err();
        assert!(matches!(refused, Refusal::Resources { limit, .. } if limit == share), "{refused:?}");
    }
    bench.ask(request(6, share - 2 * MEMBER_DISK_BYTES)).await.unwrap();
    let own = bench.approver.answer(identity(1).peer(), ApprovalMessage::Ask(request(7, all / 5))).await;
    assert!(matches!(own, ApprovalAnswer::Granted(_)));
}

/// Goal: a founder fills a share of the quorums that a node may be a member of, however long it goes on.
#[tokio::test(start_paused = true)]
async fn one_founder_has_a_node_in_so_many_quorums_and_no_more() {
    let bench = start(&disk_of(1 << 50)).await;
    let founding = |number: usize| {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let subject = Subject::Founding { nonce: Nonce(nonce) };
        ApprovalMessage::Ask(ApprovalRequest { subject, nonce: Nonce(nonce), ..request(0, 1) })
    };
    for number in 0..QUORUMS_PER_ASKER_MAX {
        let answer = bench.send_message(STRANGER, founding(number)).await;
        let ApprovalAnswer::Granted(approval) = answer else { panic!("{answer:?}") };
        // Founded, so that it lasts.
        let (lease, quorum) = (approval.statement.lease, QuorumId(approval.statement.nonce.0));
        assert!(bench.approver.bind_founding_lease(lease, approval.statement.nonce, quorum));
    }
    let more = bench.send_message(STRANGER, founding(QUORUMS_PER_ASKER_MAX)).await;
    assert!(
        matches!(&more, ApprovalAnswer::Refused(Refusal::Unfit { reason }) if reason.ends_with("use those")),
        "{more:?}"
    );
    let other = bench.send_message(ASKER, founding(QUORUMS_PER_ASKER_MAX)).await;
    assert!(matches!(other, ApprovalAnswer::Granted(_)));
}

/// Goal: a promise ends soon unless it is used, whatever keeps asking for it; the first use gives it its time.
#[tokio::test(start_paused = true)]
async fn a_promise_that_is_not_used_ends_soon_however_often_it_is_asked_for() {
    let bench = start(&disk_of(1000)).await;
    let quorum = QuorumId([1; 16]);
    let long = Duration::from_secs(600);
    let unused = bench.ask(ApprovalRequest { duration: long, ..request(1, 100) }).await.unwrap().statement.lease;
    let worker = ApprovalRequest {
        subject: Subject::Worker { quorum },
        requirement: Capacity { slots: 1, ..Capacity::default() }.into(),
        duration: long,
        ..request(2, 0)
    };
    let worked = bench.ask(worker).await.unwrap().statement.lease;
    tokio::time::sleep(UNUSED_LEASE_MAX / 2).await;
    assert_eq!(bench.ask(ApprovalRequest { duration: long, ..request(1, 100) }).await.unwrap().statement.lease, unused);
    assert!(bench.approver.use_worker_lease(worked, quorum).is_some());
    tokio::time::sleep(UNUSED_LEASE_MAX).await;
    assert!(!bench.approver.is_alive(unused) && bench.approver.is_alive(worked));
    tokio::time::sleep(long).await;
    assert!(!bench.approver.is_alive(worked));
}

/// Goal: nobody keeps a founding that does not begin.
#[tokio::test(start_paused = true)]
async fn a_founding_is_not_renewed() {
    let bench = start(&disk_of(2 * MEMBER_DISK_BYTES)).await;
    let nonce = Nonce([3; 16]);
    let founding = ApprovalRequest { subject: Subject::Founding { nonce }, nonce, ..request(3, 1) };
    let lease = bench.ask(founding).await.unwrap().statement.lease;
    let renew = ApprovalMessage::Renew { lease, duration: Duration::from_secs(3600) };
    assert_eq!(bench.send_message(ASKER, renew).await, ApprovalAnswer::Refused(Refusal::NotAllowed));
    tokio::time::sleep(UNUSED_LEASE_MAX + Duration::from_secs(1)).await;
    assert!(!bench.approver.is_alive(lease));
}
