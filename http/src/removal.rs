//! `DELETE /v1/objects/{object}`: whose claims are given up, and the words for what stands against it.
//!
//! Nothing is removed that was not asked for by name: this node's claim when it has one, the one that is named when it
//! has several, and those of others only when they are named or everybody's are. Whether this node may do so is decided
//! by the object's quorum.

use quorate_api::schema;
use quorate_protocols::ids::{ObjectId, PeerId, QuorumId};
use quorate_protocols::quorum::{Claim, ClaimSelector, Claims};
use serde::Deserialize;

use quorate_node::quorums::ClientError;
use quorate_protocols::text::chain;

use super::error::ApiError;

/// Names told in one message.
const NAMES_TOLD_MAX: usize = 8;

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Removal {
    /// The claim under this name; empty is the one without a name.
    pub name: Option<String>,
    /// All names of the owner.
    #[serde(default)]
    pub all: bool,
    /// Whose claims; this node's otherwise. Those of others are for operators.
    #[param(value_type = Option<schema::PeerId>)]
    pub owner: Option<PeerId>,
    /// Everybody's claims. For operators, if there are others.
    #[serde(default)]
    pub everyone: bool,
    /// Remove the object even though live jobs need it.
    #[serde(default)]
    pub force: bool,
}

impl Removal {
    /// The claims that this means, among those that there are.
    pub fn select(&self, object: ObjectId, here: PeerId, claims: &Claims) -> Result<ClaimSelector, ApiError> {
        if self.everyone {
            return match (&self.name, self.all, self.owner) {
                (None, false, None) => Ok(ClaimSelector::All),
                _ => Err(ApiError::bad_request("everyone means all names of all owners: name neither with it")),
            };
        }
        if self.all && self.name.is_some() {
            return Err(ApiError::bad_request("give either one name or all"));
        }
        let owner = self.owner.unwrap_or(here);
        let own: Vec<&Claim> = claims.of(owner).collect();
        let whom = if owner == here { "this node".to_owned() } else { owner.to_string() };
        let Some(first) = own.first() else {
            let message = format!("{whom} has no claim on {object}: {}", keepers(claims));
            return Err(match owner == here {
                true => ApiError::new(quorate_api::ErrorCode::Forbidden, message)
                    .hint("an owner removes its own claims through its own node; an operator removes those of others with --owner PEER or --everyone"),
                false => ApiError::not_found(message),
            });
        };
        if self.all {
            return Ok(ClaimSelector::OwnedBy(owner));
        }
        let name = match &self.name {
            Some(name) => Some(name).filter(|name| !name.is_empty()).cloned(),
            None if own.len() == 1 => first.name.clone(),
            None => {
                let message = format!("{whom} keeps {object} under {} names: {}", own.len(), names(&own));
                return Err(ApiError::new(quorate_api::ErrorCode::Conflict, message)
                    .hint("remove one with --name NAME, or all of them with --all"));
            }
        };
        match own.iter().any(|claim| claim.name == name) {
            true => Ok(ClaimSelector::Named { owner, name }),
            false => {
                let wanted = quoted(name.as_deref());
                Err(ApiError::not_found(format!("{whom} does not keep {object} as {wanted}, but as {}", names(&own))))
            }
        }
    }
}

/// That nobody knows whether a job of a quorum needs the object.
pub fn uncertain(object: ObjectId, quorum: QuorumId, error: &ClientError) -> ApiError {
    let text = format!("quorum {quorum} does not say whether its jobs need {object}: {}", chain(error));
    ApiError::new(quorate_api::ErrorCode::Unavailable, text)
        .hint("try again in a moment; --force removes the object without asking who needs it")
}

fn quoted(name: Option<&str>) -> String {
    name.map_or_else(|| "a claim without a name".to_owned(), |name| format!("{name:?}"))
}

fn names(claims: &[&Claim]) -> String {
    let mut told: Vec<_> = claims.iter().take(NAMES_TOLD_MAX).map(|claim| quoted(claim.name.as_deref())).collect();
    if let Some(more) = claims.len().checked_sub(NAMES_TOLD_MAX).filter(|more| *more > 0) {
        told.push(format!("{more} more"));
    }
    told.join(", ")
}

fn keepers(claims: &Claims) -> String {
    let told: Vec<_> = claims
        .iter()
        .take(NAMES_TOLD_MAX)
        .map(|claim| format!("{} keeps it as {}", claim.owner, quoted(claim.name.as_deref())))
        .collect();
    let more = claims.iter().count().saturating_sub(told.len());
    format!(
        "{}{}",
        told.join(", "),
        if more > 0 { format!(", and there are {more} more claims") } else { String::new() }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::ErrorCode;
    use quorate_protocols::ids::{JobId, LogIndex, ManifestHash, Millis};

    const OBJECT: ObjectId = ObjectId { quorum: QuorumId([1; 16]), manifest: ManifestHash([2; 32]) };

    fn peer(number: u8) -> PeerId {
        PeerId([number; 32])
    }

    fn claims(of: &[(u8, Option<&str>)]) -> Claims {
        let job = JobId { quorum: QuorumId([1; 16]), local: [3; 16] };
        let claim = |(owner, name): &(u8, Option<&str>)| Claim {
            owner: peer(*owner),
            name: name.map(str::to_owned),
            job,
            at: Millis(5),
            since: LogIndex(1),
        };
        of.iter().map(claim).collect::<Vec<_>>().into()
    }

    /// Goal: a removal takes what was asked for, or says what to ask for.
    #[test]
    fn a_removal_takes_what_was_asked_for_and_no_more() {
        let two = claims(&[(1, Some("a.txt")), (1, Some("b.txt")), (2, Some("a.txt")), (3, None)]);
        let select = |removal: &Removal, here| removal.select(OBJECT, peer(here), &two).map_err(|error| error.body);
        let plain = Removal::default();
        let named = |name: &str| Removal { name: Some(name.to_owned()), ..Removal::default() };
        let only =
            |owner, name: Option<&str>| Ok(ClaimSelector::Named { owner: peer(owner), name: name.map(str::to_owned) });
        assert_eq!(select(&plain, 2), only(2, Some("a.txt")));
        assert_eq!(select(&plain, 3), only(3, None));
        assert_eq!(select(&named("b.txt"), 1), only(1, Some("b.txt")));
        assert_eq!(select(&named(""), 3), only(3, None));
        assert_eq!(select(&Removal { all: true, ..plain.clone() }, 1), Ok(ClaimSelector::OwnedBy(peer(1))));
        assert_eq!(select(&Removal { owner: Some(peer(2)), ..plain.clone() }, 1), only(2, Some("a.txt")));
        assert_eq!(select(&Removal { everyone: true, ..plain.clone() }, 9), Ok(ClaimSelector::All));

        let several = select(&plain, 1).unwrap_err();
        assert_eq!(several.error, ErrorCode::Conflict);
        assert!(several.message.ends_with("under 2 names: \"a.txt\", \"b.txt\""), "{several:?}");
        assert!(several.hint.unwrap().contains("--name NAME"));
        let stranger = select(&plain, 9).unwrap_err();
        assert_eq!(stranger.error, ErrorCode::Forbidden);
        assert!(stranger.message.contains(&format!("{} keeps it as \"a.txt\"", peer(2))), "{stranger:?}");
        let other = select(&named("c.txt"), 1).unwrap_err();
        assert_eq!(other.error, ErrorCode::NotFound);
        assert!(other.message.contains("as \"c.txt\", but as \"a.txt\", \"b.txt\""), "{other:?}");
        let both = select(&Removal { everyone: true, all: true, ..plain.clone() }, 1).unwrap_err();
        assert_eq!(both.error, ErrorCode::BadRequest);
        assert_eq!(select(&Removal { all: true, ..named("a") }, 1).unwrap_err().error, ErrorCode::BadRequest);
    }
}
