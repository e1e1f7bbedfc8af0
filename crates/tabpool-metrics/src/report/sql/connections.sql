SELECT browser, browser_version,
    count(*) FILTER (event = 'launched'), count(*) FILTER (event = 'joined'), count(*) FILTER (event = 'resumed'),
    count(*) FILTER (event = 'lost'), count(*) FILTER (event = 'restarting'), count(*) FILTER (event = 'set_aside'),
    count(*) FILTER (event = 'closed'), count(*) FILTER (event = 'rejected'),
    quantile_cont(start_up_us, 0.5) / 1e3, quantile_cont(start_up_us, 0.95) / 1e3
FROM connections
WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
  AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
  AND ($3::VARCHAR IS NULL OR browser = $3::VARCHAR)
  AND ($4::BIGINT IS NULL OR run = $4::BIGINT)
GROUP BY browser, browser_version
ORDER BY browser, browser_version
LIMIT 1001
