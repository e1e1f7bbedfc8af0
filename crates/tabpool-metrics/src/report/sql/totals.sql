SELECT count(*), count(*) FILTER (outcome = 'ok'), count(*) FILTER (attempts > 1), count(DISTINCT run),
    min(start_us), max(end_us)
FROM chosen
