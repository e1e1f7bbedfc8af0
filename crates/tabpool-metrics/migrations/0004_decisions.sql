-- What the pool decided by itself, and why: that a group of workers grows, that a model is loaded on one more worker, that
-- something is kept away from something.

CREATE TABLE decisions (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    decision VARCHAR NOT NULL,          -- grow, shrink, recycle, load, unload, refuse, suspend, resume, set_aside, distrust
    slot INTEGER,
    worker VARCHAR NOT NULL,            -- empty where it is about none
    session VARCHAR NOT NULL,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    model VARCHAR NOT NULL,             -- empty where it is about none
    api VARCHAR,                        -- webgpu, webnn, cpu; NULL where it is about none
    reason VARCHAR NOT NULL
);
