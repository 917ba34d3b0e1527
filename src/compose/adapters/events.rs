//! Quorums as the emitter reaches them: through the node's client.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_protocols::ids::{PeerId, QuorumId};
use quorate_protocols::quorum::Rejection;
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::trigger::event::Dispatch;

use crate::events::{DeliveryOutcome, EventDelivery};
use crate::quorums::ports::{Knowledge, LocalQuorums};
use crate::quorums::{ClientError, QuorumClient};

/// One question or dispatch: a failover fits in it, over slow links and on slow disks too. What does not is said again.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct NodeEventDelivery {
    pub this: PeerId,
    pub client: QuorumClient,
    pub quorums: Arc<dyn LocalQuorums>,
    pub knowledge: Arc<dyn Knowledge>,
}

impl EventDelivery for NodeEventDelivery {
    fn quorums(&self) -> Vec<QuorumId> {
        let announced = self.knowledge.quorums().into_iter().map(|advert| advert.quorum);
        announced.chain(self.quorums.all().iter().map(|quorum| quorum.id())).collect()
    }

    fn listening(&self, quorum: QuorumId) -> BoxFuture<'static, Option<(Option<u64>, Vec<String>)>> {
        let (client, emitter) = (self.client.clone(), self.this);
        async move {
            match client.query(quorum, Query::Listening { emitter }, false, PATIENCE).await {
                Ok(QueryAnswer::Listening { known, names }) => Some((known, names)),
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(?quorum, %error, "the quorum does not say which events it wants");
                    None
                }
            }
        }
        .boxed()
    }

    fn dispatch(&self, quorum: QuorumId, dispatch: Dispatch) -> BoxFuture<'static, DeliveryOutcome> {
        let client = self.client.clone();
        async move {
            match client.dispatch(quorum, dispatch, PATIENCE).await {
                Ok(heard) => DeliveryOutcome::DeliveryAck(heard),
                Err(ClientError::Rejected(Rejection::EventGap { known, .. })) => DeliveryOutcome::Gap { known },
                Err(ClientError::Rejected(Rejection::Full { .. } | Rejection::TooLarge { .. })) => {
                    DeliveryOutcome::Full
                }
                Err(error) => {
                    tracing::debug!(?quorum, %error, "events could not be delivered");
                    DeliveryOutcome::Failed
                }
            }
        }
        .boxed()
    }
}
