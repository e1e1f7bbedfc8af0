SELECT browser, browser_version, os, adapter_vendor, adapter_architecture, adapter_description, api, "class", variant,
       time_ns, won
FROM (
    SELECT * FROM kernel_timings
    QUALIFY rank() OVER (
        PARTITION BY browser, browser_version, os, adapter_vendor, adapter_architecture, adapter_description, api, "class"
        ORDER BY happened_at DESC, run DESC) = 1
    ORDER BY happened_at DESC
    LIMIT ?
)
ORDER BY browser, browser_version, os, adapter_vendor, adapter_architecture, adapter_description, api, "class",
         time_ns NULLS LAST, variant
