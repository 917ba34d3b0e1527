//! Redaction: a quorum's answers without the leases that do not concern their reader.
//!
//! The members keep the ids of all leases that they counted on. Of others, a holder and a worker read those that they
//! granted themselves, and the uploader of a live run those of its columns, under which it sends their pieces. For
//! everybody else the same record stands there with an id that names no lease: `LeaseId::default()`. An id that was
//! learned all the same is no credential, for whoever grants a lease knows whom it serves; it is told to nobody because
//! nobody else has a use for it.
//!
//! Every type that is answered is gone through by name, so that one that gets a lease later is found by the compiler.

use crate::approval::Grant;
use crate::ids::{LeaseId, PeerId};
use crate::job::record::{JobRecord, Run};
use crate::job::store::{ColumnRecord, StoreRun};
use crate::quorum::object::ObjectRecord;
use crate::quorum::request::{JobAnswer, QueryAnswer};
use crate::quorum::watch::{WatchAnswer, Watched};

impl JobAnswer {
    /// Takes out the leases that do not concern `reader`, a peer that is no member of the quorum.
    pub fn redact_leases(&mut self, reader: PeerId) {
        match self {
            Self::Answer(answer) => redact_answer(answer, reader),
            Self::Watched(WatchAnswer::Update { met, refused: _ }) => {
                for (_, watched) in met {
                    if let Watched::Met(met) = watched {
                        redact_job(&mut met.record, reader);
                    }
                }
            }
            // Columns are told in reply to the commands of the run's uploader alone: to attach makes one.
            Self::Reply(_) => (),
            Self::Membership(_)
            | Self::Certificate(_)
            | Self::NotPrimary { .. }
            | Self::Moved { .. }
            | Self::NotMember
            | Self::Paused { .. }
            | Self::Busy
            | Self::Unknown { .. }
            | Self::Forbidden { .. }
            | Self::Malformed { .. }
            | Self::Acknowledged
            | Self::DeliveryAck(_)
            | Self::ConditionProbed(_)
            | Self::Watched(WatchAnswer::Reopen) => (),
        }
    }
}

fn redact_answer(answer: &mut QueryAnswer, reader: PeerId) {
    match answer {
        QueryAnswer::Job(record) => redact_job(record, reader),
        QueryAnswer::Jobs(records) => records.iter_mut().for_each(|record| redact_job(record, reader)),
        QueryAnswer::Object(view) => redact_object(&mut view.record, reader),
        QueryAnswer::Objects(views) => views.iter_mut().for_each(|view| redact_object(&mut view.record, reader)),
        QueryAnswer::Workers(workers) => workers.iter_mut().for_each(|worker| redact_grant(&mut worker.grant, reader)),
        QueryAnswer::Quorum(_)
        | QueryAnswer::History(_)
        | QueryAnswer::Unknown
        | QueryAnswer::Why(_)
        | QueryAnswer::Tasks(_)
        | QueryAnswer::Outputs(_)
        | QueryAnswer::Fires(_)
        | QueryAnswer::Subscription { .. }
        | QueryAnswer::Uses(_) => (),
    }
}

fn redact_job(record: &mut JobRecord, reader: PeerId) {
    let is_over = record.state.is_final();
    match &mut record.run {
        Run::Store(run) => redact_run(run, is_over, reader),
        Run::Trigger(_) | Run::Batch(_) => (),
        #[cfg(test)]
        Run::Counter(_) => (),
    }
}

fn redact_run(run: &mut StoreRun, is_over: bool, reader: PeerId) {
    let StoreRun {
        uploader,
        columns,
        spares,
        failed,
        releasing,
        upload_attempt: _,
        segments: _,
        exhausted: _,
        manifest: _,
        degraded: _,
        upload_seq: _,
        upload_seen_at: _,
    } = run;
    if is_over || *uploader != reader {
        redact_columns(columns, reader);
    }
    spares.iter_mut().for_each(|grant| redact_grant(grant, reader));
    failed.iter_mut().for_each(|(grant, _)| redact_grant(grant, reader));
    releasing.iter_mut().for_each(|releasing| redact_grant(&mut releasing.grant, reader));
}

fn redact_object(record: &mut ObjectRecord, reader: PeerId) {
    let ObjectRecord {
        columns,
        repairs,
        state: _,
        size: _,
        profile: _,
        claims: _,
        job: _,
        created_at: _,
        owed: _,
        newest: _,
    } = record;
    redact_columns(columns, reader);
    repairs.values_mut().for_each(|repair| redact_grant(&mut repair.grant, reader));
}

fn redact_columns(columns: &mut [ColumnRecord], reader: PeerId) {
    columns.iter_mut().filter_map(|column| column.grant.as_mut()).for_each(|grant| redact_grant(grant, reader));
}

fn redact_grant(grant: &mut Grant, reader: PeerId) {
    if grant.holder.peer != reader {
        grant.lease = LeaseId::default();
    }
}
