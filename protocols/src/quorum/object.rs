//! One object as its steward remembers it: beside the manifest, who holds what.

use serde::{Deserialize, Serialize};

use crate::ids::{JobId, Millis, PeerId};
use crate::job::store::ColumnRecord;
use crate::object::layout::Profile;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    Live,
    /// Removed: its columns are being released.
    Removing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    pub state: ObjectState,
    pub size: u64,
    pub profile: Profile,
    pub name: Option<String>,
    pub owner: PeerId,
    /// The run that stored it; slots of its columns carry this id for as long as the object lives.
    pub job: JobId,
    pub created_at: Millis,
    /// `stored` is empty here: a sealed column is whole.
    pub columns: Vec<ColumnRecord>,
    /// Columns owed a repair, with the reason.
    pub owed: Vec<(u8, String)>,
}
