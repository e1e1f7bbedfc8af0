, daily AS (
    SELECT model, browser, api, "precision", strftime(happened_at, '%Y-%m-%d') AS day, count(*) AS requests,
        count(*) FILTER (outcome = 'ok') AS ok,
        quantile_cont(total_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS p50_ms,
        quantile_cont(total_us, 0.95) FILTER (outcome = 'ok') / 1e3 AS p95_ms
    FROM chosen GROUP BY ALL
    -- The newest days are the ones to keep where there are too many.
    ORDER BY day DESC, model, browser, api, "precision" LIMIT 1001
)
SELECT model, browser, api, "precision", day, requests, ok, p50_ms, p95_ms FROM daily
ORDER BY model, browser, api, "precision", day
