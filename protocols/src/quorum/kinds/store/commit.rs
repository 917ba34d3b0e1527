//! The commit of a store run: manifest and receipts are checked, and its columns become an object.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::upload::end;
use super::{COMMIT, of, run_mut};
use crate::ids::{ManifestHash, PieceHash, PieceIndex, SegmentIndex};
use crate::job::record::RunState;
use crate::job::spec::StoreSpec;
use crate::job::store::{ColumnRecord, ColumnState, StoreRun};
use crate::object::limits::MANIFEST_BYTES_MAX;
use crate::object::manifest::Manifest;
use crate::piece::message::{Receipt, Slot};
use crate::quorum::event::Event;
use crate::quorum::kinds::context::RunCx;
use crate::quorum::objects::commit::{Commit, check_receipt};
use crate::quorum::reply::{Applied, invalid};
use crate::quorum::reply::{CommandReply, Rejection};
use crate::text::counted;

pub(super) fn commit(cx: &mut RunCx<'_>, encoded: &Bytes, receipts: &[Receipt], degraded: bool) -> Applied {
    let job = cx.job();
    let hash = ManifestHash(*blake3::hash(encoded).as_bytes());
    if cx.record()?.state == RunState::Succeeded {
        // A repeat, unless it names something else.
        return match of(cx)?.1.manifest == Some(hash) {
            true => Ok(CommandReply::Committed { manifest: hash }),
            false => Err(cx.record()?.refuses(COMMIT)),
        };
    }
    let (spec, run) = of(cx)?;
    let manifest = check_manifest(spec, run, encoded)?;
    let sealed = check_receipts(cx, run, &manifest, receipts)?;
    let columns = run.columns.len();
    let min = spec.profile.columns_min();
    if sealed.len() < min {
        return Err(invalid(format!("{} of {columns} columns have a receipt and {min} are needed", sealed.len())));
    }
    if sealed.len() < columns && !degraded {
        let missing: Vec<_> = (0..columns as u8).filter(|column| !sealed.contains_key(&PieceIndex(*column))).collect();
        return Err(invalid(format!("columns {missing:?} have no receipt: only a degraded commit may owe them")));
    }
    // What was taken in while it came is never refused now: the run gives its own hashes up for those of the object.
    let hashes = PieceHash::LEN * manifest.pieces.len();
    let known = PieceHash::LEN * run.segments.iter().map(Vec::len).sum::<usize>();
    let owed = columns - sealed.len();
    let is_sealed = |index: usize| sealed.contains_key(&PieceIndex(index as u8));
    let sealed_columns = run.columns.iter().enumerate().map(|(index, column)| match is_sealed(index) {
        true => ColumnRecord { state: ColumnState::Sealed, stored: Vec::new(), ..*column },
        false => ColumnRecord { grant: None, state: ColumnState::Open, stored: Vec::new(), ..*column },
    });
    let (columns, name) = (sealed_columns.collect(), spec.name.clone().filter(|name| !name.is_empty()));
    cx.objects().check_hash_room(hashes.saturating_sub(known))?;
    // Nothing is refused once this has passed.
    let adopted = cx.objects().commit(Commit { hash, manifest: &manifest, encoded, columns, name })?.adopted;
    let what = match (adopted, owed) {
        (false, _) => "the same content was stored here before: its columns are used".to_owned(),
        (true, 0) => format!("stored as {hash}"),
        (true, owed) => format!("stored as {hash}; {} still to be stored by a repair", counted(owed, "column")),
    };
    let degraded = adopted && owed > 0;
    let run = run_mut(cx)?;
    run.manifest = Some(hash);
    run.degraded = degraded;
    if adopted {
        // Columns that went into the object leave the run; what is left is released.
        for (_, column) in run.columns.iter_mut().enumerate().filter(|(index, _)| is_sealed(*index)) {
            column.grant = None;
        }
    }
    end(cx, COMMIT, RunState::Succeeded, None, &what);
    cx.emit(Event::ObjectStored { manifest: hash, job, degraded });
    Ok(CommandReply::Committed { manifest: hash })
}

fn check_manifest(spec: &StoreSpec, run: &StoreRun, encoded: &Bytes) -> Result<Manifest, Rejection> {
    if encoded.len() > MANIFEST_BYTES_MAX {
        let (what, bytes) = ("manifest".to_owned(), encoded.len());
        return Err(Rejection::TooLarge { what, bytes, limit: MANIFEST_BYTES_MAX });
    }
    let manifest = Manifest::decode(encoded).map_err(|error| invalid(format!("manifest: {error}")))?;
    if manifest.profile != spec.profile {
        return Err(invalid(format!("manifest has profile {}, the run {}", manifest.profile, spec.profile)));
    }
    if let Some(size) = spec.size.filter(|size| *size != manifest.size) {
        return Err(invalid(format!("the object has {} bytes, the run announced {size}", manifest.size)));
    }
    // One object has one manifest: other bytes that decode to the same would be another name for it.
    if manifest.encode() != encoded[..] {
        return Err(invalid("manifest is not in its canonical form"));
    }
    let columns = spec.profile.columns();
    for (index, known) in run.segments.iter().enumerate().filter(|(_, known)| !known.is_empty()) {
        if manifest.pieces.get(index * columns..(index + 1) * columns) != Some(&known[..]) {
            return Err(Rejection::DifferentContent { segment: SegmentIndex(index as u32) });
        }
    }
    Ok(manifest)
}

/// Each receipt must be the current holder's word for the whole of its column.
fn check_receipts(
    cx: &RunCx<'_>,
    run: &StoreRun,
    manifest: &Manifest,
    receipts: &[Receipt],
) -> Result<BTreeMap<PieceIndex, Receipt>, Rejection> {
    let mut sealed = BTreeMap::new();
    for receipt in receipts {
        let index = receipt.statement.slot.column;
        let column = run.columns.get(index.0 as usize).ok_or_else(|| invalid(format!("no column {index}")))?;
        let grant = column.grant.ok_or_else(|| invalid(format!("column {index} has no holder")))?;
        check_receipt(receipt, Slot { job: cx.job(), column: index, attempt: column.attempt }, grant, manifest)?;
        if sealed.insert(index, *receipt).is_some() {
            return Err(invalid(format!("column {index} has two receipts")));
        }
    }
    Ok(sealed)
}
