SELECT count(*), max(queue_length), max(in_flight), max(workers_idle + workers_busy + workers_draining),
    max(host_rss_bytes), max(browsers_memory_bytes)
FROM pool_samples
WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
  AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
  AND ($3::BIGINT IS NULL OR run = $3::BIGINT)
