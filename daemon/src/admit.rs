//! `admit`: signs the admission of a peer with the authority's key, or puts one into the data folder of its peer.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use quorate_cli::{AdmitArgs, Common, Failure, Text, default_node_dir, print, print_json, shell_path};
use quorate_node::identity::{self, IdentityError};
use quorate_node::seams::Clock;
use quorate_node::seams::clock::SystemClock;
use quorate_node::seams::entropy::OsEntropy;
use quorate_protocols::admission::{Admission, Trust};
use quorate_protocols::ids::{Millis, PeerId};

/// The longest time for which a peer is admitted. Ten years: as long as for ever, but for a slip of the keys.
pub const LASTS_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
const LASTS_MIN: Duration = Duration::from_secs(60);

pub fn public_key(key: &SigningKey) -> PeerId {
    PeerId(key.verifying_key().to_bytes())
}

pub fn run(common: &Common, args: &AdmitArgs) -> Result<(), Failure> {
    let dir = common.dir.clone().unwrap_or_else(default_node_dir);
    let failed = |error: IdentityError| Failure::of(&error);
    let now = SystemClock::new().wall();
    match (args.peer, &args.install) {
        (Some(peer), _) => {
            if !(LASTS_MIN..=LASTS_MAX).contains(&args.lasts) {
                return Err(Failure::usage("--for takes a minute to ten years, such as 365d"));
            }
            let key = identity::load_authority(&dir).map_err(failed)?;
            let admission = Admission::sign(&key, peer, now.plus(args.lasts));
            if common.json {
                return print_json(&serde_json::json!({ "peer": peer, "admission": admission.to_string() }));
            }
            let next = format!("On its machine:  quorate admit --install {admission}");
            print(Text::lines([next]).below("It holds from the next start of that node. The line is no secret."))
        }
        (None, Some(admission)) => {
            let own = identity::load(&dir, &OsEntropy).map_err(failed)?.peer();
            check(admission, own, now)?;
            identity::write_admission(&dir, admission).map_err(failed)?;
            let told = format!("{own} is admitted. Start its node again: quorate node --dir {}", shell_path(&dir));
            print(Text::lines([told]))
        }
        (None, None) => Err(Failure::usage("name a peer to admit, or give a line with --install")),
    }
}

/// Whether the admission is good for this peer, whatever authorities its node's configuration names.
fn check(admission: &Admission, peer: PeerId, now: Millis) -> Result<(), Failure> {
    let trust = Trust { authorities: [admission.authority].into(), ..Trust::default() };
    match trust.check(peer, Some(admission), now) {
        Ok(_) => Ok(()),
        Err(distrust) => Err(Failure::failed(format!("the line is of no use for the node of this folder: {distrust}"))
            .hint(format!("where the authority's key is, run `quorate admit {peer}` and copy the whole line"))),
    }
}
