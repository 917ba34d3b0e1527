//! Objects over an in-memory cluster: what a put and a get promise while holders refuse, stall, lie and die.

mod cluster;
mod holding;
mod reading;
mod storing;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use quorate_protocols::ids::ObjectId;
use quorate_protocols::object::ByteRange;
use quorate_protocols::object::limits::SEGMENT_BYTES;
use tokio::sync::watch;

use self::cluster::{Cluster, Manner, content, peer};
use super::{GetError, Objects, PutError, PutOutcome, PutProgress, PutRequest};

/// A body in chunks of the size that HTTP brings.
fn body(content: &Bytes) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
    let content = content.clone();
    let chunks = content.len().div_ceil(CHUNK);
    futures::stream::iter(0..chunks)
        .map(move |i| Ok(content.slice(i * CHUNK..((i + 1) * CHUNK).min(content.len()))))
        .boxed()
}

const CHUNK: usize = 1024 * 1024;

async fn put(cluster: &Cluster, node: &Objects, request: PutRequest, content: &Bytes) -> Result<PutOutcome, PutError> {
    cluster.tasks.scope(node.put(request, body(content), watch::Sender::new(PutProgress::default()))).await
}

async fn get(
    cluster: &Cluster,
    node: &Objects,
    object: ObjectId,
    range: Option<(u64, Option<u64>)>,
) -> Result<Bytes, GetError> {
    let range = range.map(|(start, length)| ByteRange::From { start, length });
    get_part(cluster, node, object, range).await
}

async fn get_part(
    cluster: &Cluster,
    node: &Objects,
    object: ObjectId,
    range: Option<ByteRange>,
) -> Result<Bytes, GetError> {
    let reading = async {
        let mut stream = node.get(object, range).await?;
        let mut bytes = Vec::new();
        while let Some(part) = stream.bytes.next().await {
            bytes.extend_from_slice(&part?);
        }
        assert_eq!(bytes.len() as u64, stream.length);
        Ok(bytes.into())
    };
    cluster.tasks.scope(reading).await
}
