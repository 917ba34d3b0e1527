//! Searches for volunteers under way on this node: who asked, who offered, who was told.

use std::collections::BTreeSet;

use quorate_protocols::approval::Subject;
use quorate_protocols::capacity::Requirement;
use quorate_protocols::directory::JobAnnouncement;
use quorate_protocols::directory::limits::{SEARCH_REPEAT, SEARCHES_MAX, VOLUNTEERS_MAX};
use quorate_protocols::engine::NodeRole;
use quorate_protocols::ids::{Millis, PeerId};
use tokio::sync::mpsc;

use super::pace::Pace;

#[derive(Debug, Default)]
pub(super) struct Searches {
    /// Oldest first.
    open: Vec<Search>,
}

#[derive(Debug)]
struct Search {
    announcement: JobAnnouncement,
    volunteers: mpsc::Sender<PeerId>,
    told: BTreeSet<PeerId>,
    /// When to announce next; `None` when it has been said often enough.
    announce_at: Option<Millis>,
    repeats_left: u8,
}

impl Searches {
    pub fn start(
        &mut self,
        now: Millis,
        subject: Subject,
        role: NodeRole,
        requirement: Requirement,
    ) -> mpsc::Receiver<PeerId> {
        self.open.retain(|search| !search.volunteers.is_closed());
        if self.open.len() >= SEARCHES_MAX {
            // Dropping the sender tells the oldest searcher that nobody more will come.
            self.open.remove(0);
        }
        let (volunteers, receiver) = mpsc::channel(VOLUNTEERS_MAX);
        self.open.push(Search {
            announcement: JobAnnouncement { subject, role, requirement },
            volunteers,
            told: BTreeSet::new(),
            announce_at: Some(now),
            repeats_left: 1,
        });
        receiver
    }

    /// Tells every search for this subject of the volunteer, each once. Whoever offers for what nobody seeks is not
    /// remembered, so a flood of offers costs nothing.
    pub fn offered(&mut self, peer: PeerId, subject: Subject) {
        self.open.retain(|search| !search.volunteers.is_closed());
        for search in self.open.iter_mut().filter(|search| search.announcement.subject == subject) {
            if search.told.len() < VOLUNTEERS_MAX && search.told.insert(peer) {
                // A full channel belongs to a searcher that already has more volunteers than it can ask.
                let _ = search.volunteers.try_send(peer);
            }
        }
    }

    /// Announcements due now, within the pace; the others stay due.
    pub fn due(&mut self, now: Millis, pace: &mut Pace) -> Vec<JobAnnouncement> {
        self.open.retain(|search| !search.volunteers.is_closed());
        let mut due = Vec::new();
        for search in &mut self.open {
            if search.announce_at.is_some_and(|at| at <= now) && pace.allows(now, &search.announcement) {
                due.push(search.announcement.clone());
                search.announce_at = (search.repeats_left > 0).then(|| now.plus(SEARCH_REPEAT));
                search.repeats_left = search.repeats_left.saturating_sub(1);
            }
        }
        due
    }

    pub fn wake_at(&self) -> Option<Millis> {
        self.open.iter().filter_map(|search| search.announce_at).min()
    }
}
