-- Times are TIMESTAMP in UTC, durations BIGINT microseconds (_us), sizes BIGINT bytes. A run is one opening of the store
-- for writing: every row names its run, so that runs can be compared and a run's rows removed together.

CREATE TABLE runs (
    run BIGINT NOT NULL,
    started_at TIMESTAMP NOT NULL,
    ended_at TIMESTAMP,                 -- NULL: still running, or killed
    program VARCHAR NOT NULL,
    pid BIGINT NOT NULL
);

CREATE TABLE inferences (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,              -- when the answer was complete
    request UBIGINT NOT NULL,
    model VARCHAR NOT NULL,
    model_cid VARCHAR NOT NULL,
    bucket_batch INTEGER NOT NULL,
    bucket_sequence INTEGER NOT NULL,
    batch_used INTEGER NOT NULL,
    tokens BIGINT NOT NULL,
    worker VARCHAR NOT NULL,
    session VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    os VARCHAR NOT NULL,
    adapter_vendor VARCHAR NOT NULL,
    adapter_architecture VARCHAR NOT NULL,
    adapter_description VARCHAR NOT NULL,
    api VARCHAR NOT NULL,               -- webgpu, webnn, cpu
    "precision" VARCHAR NOT NULL,       -- f32, f16
    queue_wait_us BIGINT NOT NULL,
    transfer_us BIGINT NOT NULL,
    compute_us BIGINT NOT NULL,
    readback_us BIGINT NOT NULL,
    total_us BIGINT NOT NULL,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    outcome VARCHAR NOT NULL,           -- ok, error, timed_out, cancelled
    error_code VARCHAR,
    message VARCHAR
);

CREATE TABLE connections (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    worker VARCHAR NOT NULL,
    session VARCHAR NOT NULL,
    slot INTEGER,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    os VARCHAR NOT NULL,
    adapter_vendor VARCHAR NOT NULL,
    adapter_architecture VARCHAR NOT NULL,
    adapter_description VARCHAR NOT NULL,
    profile VARCHAR NOT NULL,
    event VARCHAR NOT NULL,             -- launched, joined, resumed, lost, restarting, set_aside, closed, rejected
    reason VARCHAR NOT NULL,
    pid BIGINT,
    start_up_us BIGINT
);

CREATE TABLE model_loads (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    model VARCHAR NOT NULL,
    model_cid VARCHAR NOT NULL,
    worker VARCHAR NOT NULL,
    session VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    os VARCHAR NOT NULL,
    adapter_vendor VARCHAR NOT NULL,
    adapter_architecture VARCHAR NOT NULL,
    adapter_description VARCHAR NOT NULL,
    api VARCHAR NOT NULL,
    bytes_fetched BIGINT NOT NULL,
    bytes_cached BIGINT NOT NULL,
    blocks_fetched BIGINT NOT NULL,
    blocks_cached BIGINT NOT NULL,
    fetch_us BIGINT NOT NULL,
    compile_us BIGINT NOT NULL,
    upload_us BIGINT NOT NULL,
    total_us BIGINT NOT NULL,
    outcome VARCHAR NOT NULL,
    error_code VARCHAR,
    message VARCHAR
);

CREATE TABLE pool_samples (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    workers_starting INTEGER NOT NULL,
    workers_idle INTEGER NOT NULL,
    workers_busy INTEGER NOT NULL,
    workers_draining INTEGER NOT NULL,
    workers_set_aside INTEGER NOT NULL,
    queue_length BIGINT NOT NULL,
    in_flight BIGINT NOT NULL,
    accepted_total BIGINT NOT NULL,
    finished_total BIGINT NOT NULL,
    failed_total BIGINT NOT NULL,
    host_rss_bytes BIGINT NOT NULL,
    browsers_memory_bytes BIGINT NOT NULL
);

-- Events that were recorded and are not in the tables above: the queue was full, or writing failed for good.
CREATE TABLE lost_events (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    queue_full BIGINT NOT NULL,
    write_failed BIGINT NOT NULL
);
