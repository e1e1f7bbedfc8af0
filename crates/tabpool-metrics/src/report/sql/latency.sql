-- The active window of a group is the time during which at least one of its requests was under way, pauses of up to a
-- second included: a pool that idled over lunch is not slow. Requests are sorted by start; one that starts more than a
-- second after all earlier ones have ended opens a new stretch, and the stretches' lengths are added up.
, marked AS (
    SELECT *, start_us > 1000000 + max(end_us) OVER (
        PARTITION BY model, browser, browser_version, adapter, api, "precision"
        ORDER BY start_us, end_us ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS opens
    FROM chosen
), numbered AS (
    SELECT *, count(*) FILTER (opens) OVER (
        PARTITION BY model, browser, browser_version, adapter, api, "precision"
        ORDER BY start_us, end_us ROWS UNBOUNDED PRECEDING) AS stretch
    FROM marked
), stretches AS (
    SELECT model, browser, browser_version, adapter, api, "precision", stretch, max(end_us) - min(start_us) AS length_us
    FROM numbered GROUP BY ALL
), active AS (
    SELECT model, browser, browser_version, adapter, api, "precision", sum(length_us) / 1e6 AS active_s
    FROM stretches GROUP BY ALL
), grouped AS (
    SELECT model, browser, browser_version, adapter, api, "precision",
        count(*) AS requests,
        count(*) FILTER (outcome = 'ok') AS ok,
        count(*) FILTER (attempts > 1) AS retried,
        quantile_cont(total_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS p50_ms,
        quantile_cont(total_us, 0.95) FILTER (outcome = 'ok') / 1e3 AS p95_ms,
        quantile_cont(total_us, 0.99) FILTER (outcome = 'ok') / 1e3 AS p99_ms,
        quantile_cont(compute_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS compute_p50_ms,
        quantile_cont(compute_us, 0.95) FILTER (outcome = 'ok') / 1e3 AS compute_p95_ms,
        quantile_cont(compute_us, 0.99) FILTER (outcome = 'ok') / 1e3 AS compute_p99_ms,
        quantile_cont(queue_wait_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS queue_p50_ms,
        quantile_cont(queue_wait_us, 0.95) FILTER (outcome = 'ok') / 1e3 AS queue_p95_ms,
        quantile_cont(transfer_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS transfer_p50_ms,
        quantile_cont(readback_us, 0.50) FILTER (outcome = 'ok') / 1e3 AS readback_p50_ms,
        avg(batch_used) FILTER (outcome = 'ok') AS batch_mean,
        coalesce(sum(tokens) FILTER (outcome = 'ok'), 0) AS tokens
    FROM chosen GROUP BY ALL
)
SELECT model, browser, browser_version, adapter, api, "precision", requests, ok, retried,
    p50_ms, p95_ms, p99_ms, compute_p50_ms, compute_p95_ms, compute_p99_ms, queue_p50_ms, queue_p95_ms,
    transfer_p50_ms, readback_p50_ms, batch_mean, active_s,
    CASE WHEN active_s > 0 THEN ok / active_s END, CASE WHEN active_s > 0 THEN tokens / active_s END
FROM grouped JOIN active USING (model, browser, browser_version, adapter, api, "precision")
ORDER BY model, p50_ms NULLS LAST, browser, browser_version, adapter, api, "precision"
LIMIT 1001
