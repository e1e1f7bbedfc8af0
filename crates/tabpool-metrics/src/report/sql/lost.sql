SELECT coalesce(sum(queue_full), 0)::BIGINT, coalesce(sum(write_failed), 0)::BIGINT
FROM lost_events
WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
  AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
  AND ($3::BIGINT IS NULL OR run = $3::BIGINT)
