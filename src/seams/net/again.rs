//! Repeated requests: a question whose loss, or whose peer standing still, must not stall its asker.
//!
//! [`request_again`] asks a peer and, when the answer takes longer than such answers do, asks again beside the question
//! that is open. The first answer wins. It is for messages that may be carried out twice: an assignment, a seal, a
//! question for what a holder has. It neither goes on to another peer nor tries for longer than its deadline: both are
//! its caller's to decide.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use quorate_protocols::ids::PeerId;
use quorate_protocols::liveness::patience::repeat_patience;
use tokio::time::{Instant, sleep_until};

use super::{Frame, Net, NetError, Protocol};

/// Tries of one question, the first included. Each is given twice the time of the one before, so that a peer that is
/// slow is not asked ever more often.
pub const REQUEST_TRIES_MAX: usize = 3;

/// Asks `peer` until the first answer, in at most [`REQUEST_TRIES_MAX`] tries, for at most `deadline`.
///
/// A try that fails ends the call when no other is open: what failed is for the caller to judge. So does the absence of
/// the peer, once the first try has been waited for: that is a [`NetError::Timeout`], whatever is left of the deadline.
pub async fn request_again(
    net: &dyn Net,
    peer: PeerId,
    protocol: Protocol,
    frame: Frame,
    deadline: Duration,
) -> Result<Frame, NetError> {
    let began = Instant::now();
    let mut patience = repeat_patience(net.round_trip(peer).unwrap_or_default());
    let mut open = FuturesUnordered::from_iter([net.request(peer, protocol, frame.clone(), deadline)]);
    let mut tries = 1;
    let mut review_at = began + patience;
    loop {
        tokio::select! {
            biased;
            Some(answer) = open.next() => {
                if answer.is_ok() || open.is_empty() {
                    return answer;
                }
            }
            () = sleep_until(review_at) => {
                let took = began.elapsed();
                if net.is_absent(peer) {
                    return Err(NetError::Timeout { peer, after: took });
                }
                if tries < REQUEST_TRIES_MAX && took < deadline {
                    open.push(net.request(peer, protocol, frame.clone(), deadline - took));
                    tries += 1;
                    patience *= 2;
                }
                review_at = Instant::now() + patience;
            }
        }
    }
}
