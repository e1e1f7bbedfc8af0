SELECT model_cid, browser, api, "precision", bucket_batch, bucket_sequence,
       CAST(median(compute_us + readback_us) AS BIGINT)
FROM (
    SELECT * FROM inferences
    WHERE outcome = 'ok'
    QUALIFY row_number() OVER (
        PARTITION BY model_cid, browser, api, "precision", bucket_batch, bucket_sequence
        ORDER BY happened_at DESC, run DESC) <= ?
)
GROUP BY ALL
HAVING count(*) >= ?
ORDER BY max(happened_at) DESC, model_cid, browser, api, "precision", bucket_batch, bucket_sequence
LIMIT ?
