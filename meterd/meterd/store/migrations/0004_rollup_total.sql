-- Each client's period in one row, all rates together and priced, so that a month by client is
-- read in a millisecond or two: made anew from `rollup_month` in each transaction that adds to it.
CREATE TABLE rollup_total (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    failed_requests INTEGER NOT NULL,
    refused_requests INTEGER NOT NULL,
    cache_write_tokens INTEGER NOT NULL,
    cache_write_long_tokens INTEGER NOT NULL,
    audio_input_tokens INTEGER NOT NULL,
    audio_output_tokens INTEGER NOT NULL,
    estimated_tokens INTEGER NOT NULL,
    unpriced_requests INTEGER NOT NULL,
    unpriced_tokens INTEGER NOT NULL,
    cost INTEGER,                    -- × 10^-12 US dollars; NULL: 64 bits or 12 decimals don't say it
    tool_calls TEXT,                 -- a line each: rate, and its calls as JSON; NULL: none
    PRIMARY KEY (client, period)
) STRICT, WITHOUT ROWID;

-- The halves of a number are added apart: a sum beyond 64 bits would be an error.
INSERT INTO rollup_total
SELECT client, period, sum(requests), sum(input_tokens), sum(cache_read_tokens),
    sum(output_tokens), sum(reasoning_tokens), sum(failed_requests), sum(refused_requests),
    sum(cache_write_tokens), sum(cache_write_long_tokens), sum(audio_input_tokens),
    sum(audio_output_tokens), sum(estimated_tokens), sum(iif(rate, 0, requests)),
    sum(iif(rate, 0, input_tokens + output_tokens)),
    iif(
        count(iif(typeof(units) = 'integer', 1, NULL)) = count(*)
        AND abs(sum(units >> 32)) < 1073741824,
        sum(units >> 32) * 4294967296 + sum(units & 4294967295),
        NULL
    ),
    group_concat(iif(tool_calls IS NULL OR rate = 0, NULL, rate || ' ' || tool_calls), char(10))
FROM (
    SELECT r.*, r.requests * f.requests + r.input_tokens * f.input_tokens
        + r.cache_read_tokens * f.cache_read_tokens + r.output_tokens * f.output_tokens
        + r.reasoning_tokens * f.reasoning_tokens + r.cache_write_tokens * f.cache_write_tokens
        + r.cache_write_long_tokens * f.cache_write_long_tokens
        + r.audio_input_tokens * f.audio_input_tokens
        + r.audio_output_tokens * f.audio_output_tokens AS units
    FROM rollup_month r LEFT JOIN rate_factors f ON f.rate = r.rate
)
GROUP BY client, period;

-- Polls of background responses leave a row each, late records hardly ever one.
CREATE INDEX uncounted_late ON uncounted (client) WHERE why = 'late';
