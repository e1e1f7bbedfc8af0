SELECT model, browser, browser_version, api, "precision", count(*), count(*) FILTER (outcome = 'ok'),
    least(sum(bytes_fetched), 9223372036854775807)::BIGINT, least(sum(bytes_cached), 9223372036854775807)::BIGINT,
    sum(blocks_fetched)::BIGINT, sum(blocks_cached)::BIGINT,
    quantile_cont(fetch_us, 0.5) FILTER (outcome = 'ok') / 1e3,
    quantile_cont(compile_us, 0.5) FILTER (outcome = 'ok') / 1e3,
    quantile_cont(upload_us, 0.5) FILTER (outcome = 'ok') / 1e3,
    quantile_cont(total_us, 0.5) FILTER (outcome = 'ok') / 1e3
FROM model_loads
WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
  AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
  AND ($3::VARCHAR IS NULL OR browser = $3::VARCHAR)
  AND ($4::BIGINT IS NULL OR run = $4::BIGINT)
  AND ($5::VARCHAR IS NULL OR model = $5::VARCHAR)
  AND ($6::VARCHAR IS NULL OR api = $6::VARCHAR)
GROUP BY model, browser, browser_version, api, "precision"
ORDER BY model, browser, browser_version, api, "precision"
LIMIT 1001
