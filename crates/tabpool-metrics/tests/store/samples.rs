//! Events to record, with every field set so that a swapped column shows.

use std::sync::Arc;
use std::time::Duration;

use tabpool_metrics::{Adapter, Api, Bucket, Inference, ModelIdentity, Outcome, Precision, Timestamp, WorkerIdentity};

pub(crate) fn worker(browser: &str) -> Arc<WorkerIdentity> {
    Arc::new(WorkerIdentity {
        worker: "w1".into(),
        session: "s1".into(),
        browser: browser.into(),
        browser_version: "156.0.1".into(),
        os: "Linux".into(),
        adapter: Adapter {
            vendor: "google".into(),
            architecture: "swiftshader".into(),
            description: "a device".into(),
        },
    })
}

pub(crate) fn model(name: &str) -> Arc<ModelIdentity> {
    Arc::new(ModelIdentity { name: name.into(), cid: "bafymodel".into() })
}

pub(crate) fn inference(request: u64) -> Inference {
    Inference {
        at: Timestamp::now(),
        request,
        model: model("minilm"),
        worker: worker("chromium"),
        bucket: Bucket { batch: 8, sequence: 128 },
        batch_used: 7,
        tokens: 100,
        api: Api::WebGpu,
        precision: Precision::F32,
        queue_wait: Duration::from_micros(11),
        transfer: Duration::from_micros(22),
        compute: Duration::from_micros(33),
        readback: Duration::from_micros(44),
        total: Duration::from_micros(110),
        bytes_in: 1001,
        bytes_out: 1002,
        attempts: 2,
        outcome: Outcome::Ok,
    }
}
