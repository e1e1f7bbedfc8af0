-- The rule, per model, browser, adapter, API, precision and bucket: take the newest two runs with at least 20 answers each
-- and compare service times. A change counts when the medians differ by a fifth or more and the middle halves
-- (first to third quartile) do not overlap.
, per_run AS (
    SELECT run, model, browser, adapter, api, "precision", bucket_batch, bucket_sequence,
        arg_max(browser_version, end_us) AS version, count(*) AS ok,
        quantile_cont(service_us, 0.25) / 1e3 AS q1, quantile_cont(service_us, 0.50) / 1e3 AS median,
        quantile_cont(service_us, 0.75) / 1e3 AS q3
    FROM chosen WHERE outcome = 'ok'
    GROUP BY run, model, browser, adapter, api, "precision", bucket_batch, bucket_sequence HAVING count(*) >= 20
), aged AS (
    SELECT *, row_number() OVER (
        PARTITION BY model, browser, adapter, api, "precision", bucket_batch, bucket_sequence ORDER BY run DESC) AS age
    FROM per_run
)
SELECT new.model, new.browser, new.adapter, new.api, new."precision", new.bucket_batch, new.bucket_sequence,
    old.run, new.run, old.version, new.version, old.ok, new.ok, old.median, new.median,
    CASE WHEN new.median >= 1.2 * old.median AND new.q1 > old.q3 THEN 'slower'
         WHEN old.median >= 1.2 * new.median AND new.q3 < old.q1 THEN 'faster'
         ELSE 'unchanged' END AS verdict
FROM aged AS new
JOIN aged AS old USING (model, browser, adapter, api, "precision", bucket_batch, bucket_sequence)
WHERE new.age = 1 AND old.age = 2
ORDER BY verdict = 'unchanged', verdict DESC, new.median / nullif(old.median, 0) DESC,
    new.model, new.browser, new.adapter, new.api, new."precision", new.bucket_batch, new.bucket_sequence
LIMIT 1001
