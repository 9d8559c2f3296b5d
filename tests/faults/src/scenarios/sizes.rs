//! Requests that become a thousand times larger from one moment to the next.

use anyhow::ensure;
use stores::entries::READ_BYTES_MAX;

use crate::scene::{Moment, Scene};
use crate::traffic::LARGE_BYTES;

/// Small requests that wait before the large ones.
const SMALL: u64 = 400;
/// Large requests that follow them, for each [`crate::scene::Size`].
const LARGE: [u64; 3] = [12, 24, 60];
/// What a reply has beside the text of one large span.
const BESIDE_BYTES: usize = 256 << 10;

pub(super) async fn shift(scene: &mut Scene<'_>) -> anyhow::Result<()> {
    scene.ways.iter().for_each(|ways| ways.clickhouse.gate.shut());
    scene.more(SMALL).await?;
    scene.traffic.dials.large(scene.size.of(LARGE));
    scene.until("the large requests are sent", async || Ok(scene.traffic.dials.large_left() == 0)).await?;
    scene.more(40).await?;
    // Whatever was read before is read anew, and with it all that is behind it.
    for number in 0..scene.workers() {
        scene.worker(number).kill().await?;
        scene.ways[number].clickhouse.gate.reopen();
        scene.start_worker(number).await?;
    }
    scene.recovers(Moment::now()).await?;
    let largest = scene.ways.iter().map(|ways| ways.redis.largest_read()).max().unwrap_or_default();
    ensure!(largest > LARGE_BYTES, "no large request was read: {largest} bytes at most");
    let bound = READ_BYTES_MAX + LARGE_BYTES + BESIDE_BYTES;
    ensure!(largest <= bound, "a reply of {largest} bytes, of which {bound} are allowed");
    scene.notes.push(format!("the largest reply to a read had {largest} bytes of at most {bound}"));
    Ok(())
}
