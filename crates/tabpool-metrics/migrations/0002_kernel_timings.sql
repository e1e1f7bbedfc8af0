-- What tuning measured: one row for each variant of a kernel that was timed for a class of shapes on an adapter. The rows
-- of one class that share `happened_at` are one tuning, of which one row won; the newest tuning is the one in force.

CREATE TABLE kernel_timings (
    run BIGINT NOT NULL,
    happened_at TIMESTAMP NOT NULL,
    browser VARCHAR NOT NULL,
    browser_version VARCHAR NOT NULL,
    os VARCHAR NOT NULL,
    adapter_vendor VARCHAR NOT NULL,
    adapter_architecture VARCHAR NOT NULL,
    adapter_description VARCHAR NOT NULL,
    api VARCHAR NOT NULL,
    "class" VARCHAR NOT NULL,           -- kernel and shapes, as in `gemm m128 n384 k384`
    variant VARCHAR NOT NULL,
    time_ns BIGINT,                     -- of one launch; NULL: it did not compile, or gave wrong numbers there
    won BOOLEAN NOT NULL
);
