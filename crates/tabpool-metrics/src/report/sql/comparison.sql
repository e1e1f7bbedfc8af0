-- Like with like: the same model in the same bucket, on service time.
, contenders AS (
    SELECT model, bucket_batch, bucket_sequence, browser, browser_version, adapter, api, "precision",
        count(*) AS ok, quantile_cont(service_us, 0.5) / 1e3 AS service_p50_ms
    FROM chosen WHERE outcome = 'ok' GROUP BY ALL
)
SELECT model, bucket_batch, bucket_sequence, browser, browser_version, adapter, api, "precision", ok, service_p50_ms,
    CASE WHEN min(service_p50_ms) OVER bucket > 0 THEN service_p50_ms / min(service_p50_ms) OVER bucket END
FROM contenders
WINDOW bucket AS (PARTITION BY model, bucket_batch, bucket_sequence)
QUALIFY count(*) OVER bucket > 1
ORDER BY model, bucket_batch, bucket_sequence, service_p50_ms, browser, browser_version, adapter, api, "precision"
LIMIT 1001
