SELECT decision, browser, model, coalesce(api, ''), count(*), arg_max(reason, happened_at)
FROM decisions
WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
  AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
  AND ($3::VARCHAR IS NULL OR browser = $3::VARCHAR)
  AND ($4::BIGINT IS NULL OR run = $4::BIGINT)
GROUP BY decision, browser, model, api
ORDER BY decision, browser, model, api
LIMIT 1001
