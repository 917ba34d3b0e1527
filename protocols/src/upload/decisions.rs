//! The planner's decisions, worked out anew after every input: who has stalled, what is let go, loaded, sent,
//! rebuilt, sealed and recorded, and whether the whole can be committed.

use super::*;

impl UploadPlan {
    pub(super) fn plan(&mut self, now: Millis, effects: &mut Vec<Effect>) -> Result<(), PlanFault> {
        self.find_stalls(now, effects);
        self.check_recoverable()?;
        self.let_go(now, effects);
        self.load(effects);
        for column in 0..self.columns.len() {
            self.send(now, PieceIndex(column as u8), effects);
            self.rebuild(now, PieceIndex(column as u8), effects);
            self.seal(now, PieceIndex(column as u8), effects);
        }
        self.note_held_up();
        self.record(effects);
        self.commit(now, effects);
        Ok(())
    }

    pub(super) fn find_stalls(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for index in 0..self.columns.len() {
            let column = &self.columns[index];
            if column.serving().is_none() {
                continue;
            }
            let sending = column.sending_since().filter(|since| now.since(*since) >= STALL && self.witness(*since));
            let asking = column.asking_since().filter(|since| now.since(*since) >= DEADLINE);
            if let Some(since) = sending.or(asking) {
                let attempt = column.attempt;
                let reason = format!("nothing stored for {:.1} s", now.since(since).as_secs_f64());
                self.fail(PieceIndex(index as u8), attempt, reason, effects);
            }
        }
    }

    /// Whether any column has made progress after `since`: then this node and its network are not to blame.
    pub(super) fn witness(&self, since: Millis) -> bool {
        self.columns.iter().filter_map(|column| column.progress_at).any(|at| at > since)
    }

    /// Columns on which the segment's piece is.
    pub(super) fn holding(&self, segment: SegmentIndex) -> usize {
        self.columns.iter().filter(|column| column.stored.contains(&segment)).count()
    }

    /// Columns with a holder that lacks the segment.
    pub(super) fn laggards(&self, segment: SegmentIndex) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(move |column| column.serving().is_some() && !column.stored.contains(&segment))
    }

    /// Whether the column must rebuild something that has left memory.
    pub(super) fn behind(&self, column: &Column) -> bool {
        let known = self.segments.iter().enumerate().skip(column.floor as usize);
        let mut gone = known.filter(|(_, segment)| !segment.in_memory);
        gone.any(|(index, _)| !column.stored.contains(&SegmentIndex(index as u32)))
    }

    /// Columns that may yet store the segment by what was asked of them before.
    pub(super) fn on_its_way(&self, segment: SegmentIndex) -> usize {
        self.columns.iter().filter(|column| column.serving().is_some() && column.awaits(segment)).count()
    }

    /// A segment that left memory must be left on enough columns for the others to be rebuilt from them.
    pub(super) fn check_recoverable(&mut self) -> Result<(), PlanFault> {
        if !std::mem::take(&mut self.pieces_lost) {
            return Ok(());
        }
        let needed = self.profile.data as usize;
        for (index, segment) in self.segments.iter().enumerate() {
            let index = SegmentIndex(index as u32);
            let left = self.holding(index);
            if segment.in_memory || left >= needed {
                continue;
            }
            if left + self.on_its_way(index) < needed {
                return Err(PlanFault::Lost { segment: index, left, needed });
            }
            // It hangs on answers that are still owed: each of them comes, or fails by its deadline.
            self.pieces_lost = true;
        }
        Ok(())
    }

    pub(super) fn resident(&self) -> impl Iterator<Item = SegmentIndex> + '_ {
        let resident = self.segments.iter().enumerate().filter(|(_, segment)| segment.in_memory);
        resident.map(|(index, _)| SegmentIndex(index as u32))
    }

    pub(super) fn let_go(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        let passed = now.since(self.seen_at);
        self.lag = if self.held_up { self.lag + passed } else { self.lag.saturating_sub(passed) };
        self.seen_at = self.seen_at.max(now);
        let held_up = self.held_up && self.lag >= LAG_MAX;
        let oldest = self.resident().next();
        for segment in self.resident().collect::<Vec<_>>() {
            let complete = self.laggards(segment).next().is_none();
            let laggards_may_rebuild = held_up && oldest == Some(segment);
            let not_waited_for =
                self.is_full() && (laggards_may_rebuild || self.laggards(segment).all(|column| self.behind(column)));
            if self.holding(segment) >= self.profile.columns_min() && (complete || not_waited_for) {
                self.segments[segment.0 as usize].in_memory = false;
                effects.push(Effect::DropSegment { segment });
                if laggards_may_rebuild {
                    self.lag = Duration::ZERO;
                }
            }
        }
    }

    /// Whether the next segment waits for memory.
    pub(super) fn is_full(&self) -> bool {
        self.end.is_none() && self.resident().count() >= SEGMENTS_IN_MEMORY_MAX
    }

    pub(super) fn load(&mut self, effects: &mut Vec<Effect>) {
        if self.end.is_none() && !self.loading && self.resident().count() < SEGMENTS_IN_MEMORY_MAX {
            self.loading = true;
            effects.push(Effect::Load { segment: SegmentIndex(self.segments.len() as u32) });
        }
    }

    pub(super) fn send(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let resident: Vec<_> = self.resident().collect();
        let column = &mut self.columns[index.0 as usize];
        let Some(grant) = column.serving() else { return };
        for segment in resident {
            if column.in_flight.len() >= WINDOW_PIECES {
                break;
            }
            if !column.stored.contains(&segment) && !column.in_flight.contains_key(&segment) {
                column.in_flight.insert(segment, now);
                let (attempt, hash) = (column.attempt, self.segments[segment.0 as usize].hashes[index.0 as usize]);
                effects.push(Effect::Send { column: index, attempt, grant, segment, hash });
            }
        }
    }

    pub(super) fn rebuild(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let column = &self.columns[index.0 as usize];
        let Some(grant) = column.serving().filter(|_| column.rebuilding.is_none()) else { return };
        let known = self.segments.iter().enumerate().skip(column.floor as usize);
        let gone = known.filter(|(_, segment)| !segment.in_memory);
        let wanted = gone.map(|(segment, known)| (SegmentIndex(segment as u32), known));
        // A piece that is still on its way is not rebuilt beside it.
        let wanted = wanted
            .filter(|(segment, _)| !column.stored.contains(segment) && !column.in_flight.contains_key(segment))
            .take(REBUILD_SEGMENTS_MAX);
        let parts: Vec<RebuildPart> = wanted
            .map(|(segment, known)| RebuildPart {
                segment,
                hash: known.hashes[index.0 as usize],
                piece_bytes: known.piece_bytes,
                sources: self.sources(index, segment),
            })
            .filter(|part| part.sources.len() >= self.profile.data as usize)
            .collect();
        if parts.is_empty() {
            return;
        }
        let attempt = column.attempt;
        let segments = parts.iter().map(|part| part.segment).collect();
        let column = &mut self.columns[index.0 as usize];
        column.rebuilding = Some(segments);
        column.rebuilding_since.get_or_insert(now);
        effects.push(Effect::Rebuild { column: index, attempt, grant, parts });
    }

    /// Where the other pieces of a segment are.
    pub(super) fn sources(&self, except: PieceIndex, segment: SegmentIndex) -> Vec<(PieceIndex, PieceHash, PeerId)> {
        let others = self.columns.iter().enumerate().filter(|(index, _)| *index != except.0 as usize);
        let holding = others.filter(|(_, column)| column.stored.contains(&segment));
        holding
            .filter_map(|(index, column)| {
                let hash = self.segments[segment.0 as usize].hashes[index];
                Some((PieceIndex(index as u8), hash, column.serving()?.holder.peer))
            })
            .collect()
    }

    /// Asks the other columns that count as having these segments whether they do.
    pub(super) fn check_sources(
        &mut self,
        now: Millis,
        except: PieceIndex,
        wanted: &BTreeSet<SegmentIndex>,
        effects: &mut Vec<Effect>,
    ) {
        let known = &self.segments;
        for (index, column) in (0..).map(PieceIndex).zip(&mut self.columns) {
            let Some(grant) = column.serving().filter(|_| index != except && column.checking.is_none()) else {
                continue;
            };
            if column.stored.is_disjoint(wanted) {
                continue;
            }
            // What an earlier life of the put stored is compared once its segment is cut again.
            let hash_of = |segment: &SegmentIndex| Some(known.get(segment.0 as usize)?.hashes[index.0 as usize]);
            let pieces = column.stored.iter().filter_map(|segment| Some((*segment, hash_of(segment)?))).collect();
            column.checking = Some(now);
            effects.push(Effect::Check { column: index, attempt: column.attempt, grant, pieces });
        }
    }

    pub(super) fn seal(&mut self, now: Millis, index: PieceIndex, effects: &mut Vec<Effect>) {
        let column = &mut self.columns[index.0 as usize];
        let (Some(end), Some(grant)) = (self.end, column.serving()) else { return };
        if column.floor >= end && !column.sealed && column.sealing.is_none() {
            column.sealing = Some(now);
            let pieces = self.segments.iter().map(|segment| segment.hashes[index.0 as usize]).collect();
            effects.push(Effect::Seal { column: index, attempt: column.attempt, grant, pieces });
        }
    }

    /// Notes whether memory is full only because of laggards: the others have nothing left to send.
    pub(super) fn note_held_up(&mut self) {
        let resident: Vec<_> = self.resident().collect();
        let done = |column: &&Column| resident.iter().all(|segment| column.stored.contains(segment));
        let idle = self.columns.iter().filter(|column| column.serving().is_some()).filter(done).count();
        // Enough columns are done that the rest could rebuild: the put is held up by a minority.
        self.held_up = self.is_full() && idle >= self.profile.columns_min();
    }

    pub(super) fn record(&mut self, effects: &mut Vec<Effect>) {
        if self.recording {
            return;
        }
        // A piece that was found on a holder before its segment was cut again waits for the segment's hashes.
        let later = self.unrecorded.split_off(&SegmentIndex(self.segments.len() as u32));
        let mut recordable = std::mem::replace(&mut self.unrecorded, later);
        if recordable.is_empty() {
            return;
        }
        // One command stays far below its limit: the oldest segments first, the rest with the next.
        if let Some(cut) = recordable.keys().nth(RECORD_SEGMENTS_MAX).copied() {
            let mut rest = recordable.split_off(&cut);
            self.unrecorded.append(&mut rest);
        }
        self.recording = true;
        let progress = recordable.into_iter().map(|(segment, stored)| SegmentProgress {
            segment,
            pieces: self.segments[segment.0 as usize].hashes.clone(),
            stored: stored.into_iter().collect(),
        });
        effects.push(Effect::RecordProgress(progress.collect()));
    }

    pub(super) fn sealed(&self) -> Vec<(PieceIndex, Attempt)> {
        let sealed = self.columns.iter().enumerate().filter(|(_, column)| column.sealed && column.serving().is_some());
        sealed.map(|(index, column)| (PieceIndex(index as u8), column.attempt)).collect()
    }

    /// Whether enough columns are sealed for a degraded commit.
    pub(super) fn may_commit(&self) -> bool {
        self.end.is_some() && self.sealed().len() >= self.profile.columns_min()
    }

    /// Whether a column that is not sealed may yet be: it has a holder, its failure is being reported, or the quorum
    /// looks for a holder.
    pub(super) fn may_improve(&self) -> bool {
        self.columns.iter().any(|column| !column.sealed && (column.grant.is_some() || !self.exhausted))
    }

    /// Last progress of any column: whoever waits for the missing ones waits from here.
    pub(super) fn last_progress(&self) -> Millis {
        self.columns.iter().map(Column::last_progress).max().unwrap_or_default()
    }

    pub(super) fn commit(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        if !self.may_commit() {
            return;
        }
        let sealed = self.sealed();
        let degraded = sealed.len() < self.columns.len();
        if !degraded || !self.may_improve() || now.since(self.last_progress()) >= DEGRADED_AFTER {
            self.ended = true;
            effects.push(Effect::Commit { sealed, degraded });
        }
    }
}
