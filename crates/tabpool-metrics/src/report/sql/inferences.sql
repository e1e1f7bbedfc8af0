-- What every question about inferences starts from. An adapter is one text; a request's service time is its total less
-- the wait in the queue, so that load on the pool does not look like slowness of a browser.
WITH chosen AS (
    SELECT *,
        trim(adapter_vendor || ' ' || adapter_architecture
            || CASE WHEN adapter_description = '' THEN '' ELSE ' (' || adapter_description || ')' END) AS adapter,
        total_us - queue_wait_us AS service_us,
        epoch_us(happened_at) AS end_us,
        epoch_us(happened_at) - total_us AS start_us
    FROM inferences
    WHERE ($1::TIMESTAMP IS NULL OR happened_at >= $1::TIMESTAMP)
      AND ($2::TIMESTAMP IS NULL OR happened_at < $2::TIMESTAMP)
      AND ($3::VARCHAR IS NULL OR browser = $3::VARCHAR)
      AND ($4::BIGINT IS NULL OR run = $4::BIGINT)
      AND ($5::VARCHAR IS NULL OR model = $5::VARCHAR)
      AND ($6::VARCHAR IS NULL OR api = $6::VARCHAR)
)
