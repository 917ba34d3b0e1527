//! A counter in a quorum of three members whose primary is killed, again and again.
//!
//! Each member has a log of bytes, as on its disk, and a state that it builds from them. An entry is committed once a
//! majority has it, and applied then. A killed primary loses what only it had appended; the member with the longest
//! log leads next, and knows nothing but its state. A member that comes back builds its state anew, and gets the
//! entries that it lacks, or a snapshot where the others' logs begin later.

use super::*;
use crate::wire;

const MEMBERS: usize = 3;

struct Replica {
    /// What its log follows on: an empty state, or a snapshot.
    base: QuorumState,
    /// Entries before this one are in `base`.
    first: usize,
    log: Vec<Vec<u8>>,
    state: QuorumState,
    applied: usize,
    is_up: bool,
}

impl Replica {
    fn new() -> Self {
        let base = QuorumState::at_level(QUORUM, LEVEL_TRIGGERS);
        Self { state: base.clone(), base, first: 0, log: Vec::new(), applied: 0, is_up: true }
    }

    fn end(&self) -> usize {
        self.first + self.log.len()
    }

    /// Applies what is committed; the answer to the newest of it.
    fn apply_to(&mut self, committed: usize) -> Option<Result<CommandReply, Rejection>> {
        let mut newest = None;
        while self.applied < committed {
            let batch: Batch = wire::decode(&self.log[self.applied - self.first], usize::MAX).unwrap();
            self.applied += 1;
            let (reply, _) = self.state.apply(LogIndex(self.applied as u64), &batch);
            newest = reply.replies.into_iter().next();
            self.state.check_invariants().unwrap();
        }
        newest
    }

    fn install(&mut self, snapshot: &QuorumState, at: usize) {
        let chunks = snapshot.encode_snapshot();
        self.base = QuorumState::decode_snapshot(chunks.iter().map(|(_, chunk)| chunk)).unwrap();
        (self.state, self.first, self.applied) = (self.base.clone(), at, at);
        self.log.clear();
    }
}

struct Quorum {
    members: Vec<Replica>,
    primary: usize,
    committed: usize,
    now: u64,
    /// When this primary wrote last; `None` before its first entry.
    wrote_at: Option<u64>,
    led: BTreeSet<usize>,
    snapshots_installed: usize,
}

impl Quorum {
    fn new() -> Self {
        let members = (0..MEMBERS).map(|_| Replica::new()).collect();
        let (now, led) = (1_000 * SECOND, BTreeSet::from([0]));
        Self { members, primary: 0, committed: 0, now, wrote_at: None, led, snapshots_installed: 0 }
    }

    fn state(&self) -> &QuorumState {
        &self.members[self.primary].state
    }

    fn up(&self) -> Vec<usize> {
        (0..MEMBERS).filter(|member| self.members[*member].is_up).collect()
    }

    fn append(&mut self, members: &[usize], command: Command) {
        let since = self.wrote_at.replace(self.now).map(|at| Duration::from_millis(self.now - at));
        let commands = vec![(OWNER, command)];
        let batch = Batch { now: Millis(self.now), since, passed: since.unwrap_or_default(), commands };
        let entry = wire::encode(&batch);
        members.iter().for_each(|member| self.members[*member].log.push(entry.clone()));
    }

    fn propose(&mut self, command: Command) -> Result<CommandReply, Rejection> {
        let up = self.up();
        assert!(2 * up.len() > MEMBERS, "no majority is up");
        self.append(&up, command);
        self.committed = self.members[self.primary].end();
        let committed = self.committed;
        let replies: Vec<_> = up.iter().map(|member| self.members[*member].apply_to(committed)).collect();
        self.check_agreement();
        assert!(replies.iter().all(|reply| *reply == replies[0]), "{replies:?}");
        replies.into_iter().next().flatten().expect("an entry was applied")
    }

    /// The primary appends this and dies before anybody hears of it. The member that leads next.
    fn kill_primary(&mut self, unheard: Command) -> usize {
        let killed = self.primary;
        self.append(&[killed], unheard);
        self.members[killed].is_up = false;
        let longest = self.up().into_iter().map(|member| self.members[member].end()).max().expect("a majority is up");
        // Of several with the longest log the next in a circle, so that each has its turn.
        let candidates =
            (1..MEMBERS).map(|step| (killed + step) % MEMBERS).filter(|member| self.members[*member].is_up);
        let mut candidates = candidates.filter(|member| self.members[*member].end() == longest);
        self.primary = candidates.next().expect("one of them has it");
        self.wrote_at = None;
        self.led.insert(self.primary);
        killed
    }

    fn restart(&mut self, member: usize) {
        let (committed, source) = (self.committed, self.primary);
        let (first, log) = (self.members[source].first, self.members[source].log.clone());
        let snapshot = self.members[source].base.clone();
        let replica = &mut self.members[member];
        replica.is_up = true;
        // What no majority had is dropped: others may stand in its place by now.
        replica.log.truncate(replica.applied - replica.first);
        if replica.end() < first {
            replica.install(&snapshot, first);
            self.snapshots_installed += 1;
        }
        replica.log.extend_from_slice(&log[replica.end() - first..]);
        (replica.state, replica.applied) = (replica.base.clone(), replica.first);
        replica.apply_to(committed);
        self.check_agreement();
    }

    /// Members take a snapshot of what they have applied, and forget their logs.
    fn compact(&mut self) {
        for member in self.up() {
            let replica = &mut self.members[member];
            let (state, at) = (replica.state.clone(), replica.applied);
            replica.install(&state, at);
        }
    }

    fn check_agreement(&self) {
        let up = self.up();
        for member in &up {
            assert_eq!(self.members[*member].state, self.members[up[0]].state, "members {} and {member} differ", up[0]);
        }
    }

    /// What a primary does by its duties alone: it waits for the earliest timer, and says that it has.
    fn wait(&mut self) -> Millis {
        let wake = self.state().duties().into_iter().find_map(|duty| match duty {
            Duty::Wake { due, after } => Some((due, after)),
            _ => None,
        });
        let (due, after) = wake.expect("a timer");
        self.now += after.as_millis() as u64;
        self.propose(Command::Quorum(QuorumCommand::Elapsed { until: due })).unwrap();
        due
    }

    fn tick(&mut self) {
        self.wait();
    }

    fn submit(&mut self, spec: JobSpec) {
        self.propose(Command::submit(&owner_key(), job(1), spec)).unwrap();
    }

    fn control(&mut self, control: Control) {
        let seen = self.state().jobs[&job(1)].seen();
        self.propose(Command::control(job(1), seen, control)).unwrap();
    }

    fn bump(&mut self) {
        self.propose(bump_by(1)).unwrap();
    }

    /// The job as it is shown, why it is where it is, and what the primary owes it.
    fn says(&self) -> (QueryAnswer, QueryAnswer, Vec<Duty>) {
        let ask = |query| self.state().answer(&query).expect("an answer");
        (ask(Query::Job { job: job(1) }), ask(Query::Why { job: job(1) }), self.state().duties())
    }
}

fn bump_by(by: u32) -> Command {
    Command::Kind(job(1), KindCommand::Counter(CounterCommand::Bump { by }))
}

/// Goal: a new primary goes on exactly where the old one was killed, after every command that a run can be given.
/// Method: the primary is killed after each, with an entry that nobody else has; the next says what the old one said.
#[test]
fn a_run_goes_on_under_the_next_primary_after_every_command() {
    let mut quorum = Quorum::new();
    type Step = (&'static str, fn(&mut Quorum));
    let steps: [Step; 7] = [
        ("submit", |quorum| quorum.submit(JobSpec::Once(counter(9)))),
        ("tick", Quorum::tick),
        ("bump", Quorum::bump),
        ("pause", |quorum| quorum.control(Control::Pause)),
        ("resume", |quorum| quorum.control(Control::Resume)),
        ("a tick under another primary", Quorum::tick),
        ("cancel", |quorum| quorum.control(Control::Cancel)),
    ];
    for (name, step) in steps {
        step(&mut quorum);
        let before = quorum.says();
        let killed = quorum.kill_primary(bump_by(4));
        assert_eq!(quorum.says(), before, "after {name}");
        quorum.restart(killed);
        assert_eq!(quorum.says(), before, "after {name}");
    }
    let record = &quorum.state().jobs[&job(1)];
    assert_eq!((record.state, record.counter().unwrap().1.ticked), (Cancelled, 3));
    assert_eq!(quorum.led.len(), MEMBERS, "every member led once");
}

/// Goal: a member that was away while the others' logs were cut leads as well as any other. Method: it comes back by a
/// snapshot and brings the run to its end.
#[test]
fn a_member_that_came_back_by_a_snapshot_brings_a_run_to_its_end() {
    let mut quorum = Quorum::new();
    quorum.submit(JobSpec::Once(counter(4)));
    let away = quorum.kill_primary(bump_by(4));
    quorum.wait();
    quorum.compact();
    quorum.bump();
    quorum.restart(away);
    assert_eq!(quorum.snapshots_installed, 1);
    while quorum.primary != away {
        let killed = quorum.kill_primary(bump_by(4));
        quorum.restart(killed);
    }
    quorum.wait();
    quorum.wait();
    let record = &quorum.state().jobs[&job(1)];
    assert_eq!((record.state, record.counter().unwrap().1.ticked), (Succeeded, 4));
}

/// Goal: a primary that died before it was heard of its timer leaves the same timer to the next, and one tick comes of
/// both.
#[test]
fn a_timer_that_two_primaries_serve_ticks_once() {
    let mut quorum = Quorum::new();
    quorum.submit(JobSpec::Once(counter(4)));
    let due = quorum.wait();
    let killed = quorum.kill_primary(Command::Quorum(QuorumCommand::Noop));
    quorum.restart(killed);
    quorum.propose(Command::Quorum(QuorumCommand::Elapsed { until: due })).unwrap();
    assert_eq!(quorum.state().jobs[&job(1)].counter().unwrap().1.ticked, 1);
}

/// Goal: one instant makes one run, whoever leads. Method: the primary is killed right after a fire; the next one works
/// out the same instants from its own state and proposes them again.
#[test]
fn a_fire_that_two_primaries_propose_makes_one_run_which_ends_under_the_second() {
    let mut quorum = Quorum::new();
    let when = When::Every { period: Duration::from_secs(60), bounds: Bounds::NONE };
    let trigger = TriggerSpec { overlap: Overlap::Forbid, ..TriggerSpec::new(when) };
    let spec = JobSpec::Triggered(Box::new(TriggeredSpec::new(trigger, counter(2))));
    quorum.submit(spec);
    let spans = |quorum: &Quorum| Planner::default().spans(quorum.state(), Millis(quorum.now), Millis(quorum.now), 100);
    let fired = |quorum: &Quorum| quorum.state().trigger(job(1)).map(|(_, run)| run.live.clone()).unwrap();
    let mut due = Vec::new();
    while fired(&quorum).is_empty() {
        quorum.now += 61 * SECOND;
        due = spans(&quorum);
        quorum.propose(Command::Trigger(TriggerCommand::Due { spans: due.clone() })).unwrap();
    }
    let runs = fired(&quorum);
    assert_eq!(runs.len(), 1);
    let killed = quorum.kill_primary(Command::Quorum(QuorumCommand::Noop));
    quorum.restart(killed);
    // Those of the killed primary, and its own.
    let own = spans(&quorum);
    for spans in [due, own] {
        quorum.propose(Command::Trigger(TriggerCommand::Due { spans })).unwrap();
    }
    assert_eq!(fired(&quorum), runs);
    let run = runs.into_iter().next().unwrap();
    while !quorum.state().jobs[&run].state.is_final() {
        quorum.wait();
    }
    assert_eq!(quorum.state().jobs[&run].state, Succeeded);
    assert!(fired(&quorum).is_empty(), "the trigger knows that its run has ended");
}
