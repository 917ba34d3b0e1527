//! Control of jobs by a client: it looks at the job, and commands it as it stands.
//!
//! A control and a fire carry what their sender has seen, and the quorum refuses them when more has happened since. So
//! a copy that the network delivers late changes nothing, whatever it was answered. Here is the other side: who was
//! refused for that looks again.

use std::time::Duration;

use quorate_protocols::ids::{JobId, LogIndex, Nonce};
use quorate_protocols::quorum::request::{Query, QueryAnswer};
use quorate_protocols::quorum::{Command, CommandReply, Control, Rejection, TriggerCommand};
use tokio::time::Instant;

use super::client::mixed_up;
use super::{ClientError, QuorumClient};

/// How often a job is looked at for one command, when it changes each time before the command arrives.
const LOOKS_MAX: usize = 4;

impl QuorumClient {
    /// Has the job do something else, as this node. Retries until the deadline as [`QuorumClient::propose`] does.
    pub async fn control(&self, job: JobId, control: Control, deadline: Duration) -> Result<(), ClientError> {
        self.command_seen(job, deadline, |seen| Command::control(job, seen, control.clone())).await.map(drop)
    }

    /// Has the trigger fire now, once for each nonce.
    pub async fn fire(
        &self,
        job: JobId,
        nonce: Nonce,
        respect_overlap: bool,
        deadline: Duration,
    ) -> Result<CommandReply, ClientError> {
        let fire = |seen| Command::Trigger(TriggerCommand::Fire { job, seen, nonce, respect_overlap });
        self.command_seen(job, deadline, fire).await
    }

    async fn command_seen(
        &self,
        job: JobId,
        deadline: Duration,
        command: impl Fn(LogIndex) -> Command + Send,
    ) -> Result<CommandReply, ClientError> {
        let end = Instant::now() + deadline;
        let left = || end.saturating_duration_since(Instant::now());
        let mut looks = 0;
        loop {
            let seen = match self.query(job.quorum, Query::Job { job }, false, left()).await? {
                QueryAnswer::Job(record) => record.seen(),
                QueryAnswer::Unknown => return Err(Rejection::UnknownJob { job }.into()),
                _ => return Err(mixed_up(job.quorum)),
            };
            looks += 1;
            match self.propose(job.quorum, command(seen), left()).await {
                // No try of it was applied, and none can be any more: the client says when it does not know that.
                Err(ClientError::Rejected(Rejection::Superseded { .. })) if looks < LOOKS_MAX => (),
                answer => return answer.map(|(reply, _)| reply),
            }
        }
    }
}
