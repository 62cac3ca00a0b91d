-- What is the product, and what does it cost, as far as was known? The latest change says so;
-- one that deletes the product ends what was known.
SELECT
    s.sku,
    s.as_of,
    coalesce(p.category, 'unknown') AS category,
    coalesce(p.price_cents, -1::bigint) AS price_cents
FROM spine AS s
LEFT JOIN LATERAL (
    SELECT
        CASE WHEN NOT k.deleted THEN k.category END AS category,
        CASE WHEN NOT k.deleted THEN k.price_cents END AS price_cents
    FROM products AS k
    WHERE
        k.sku = s.sku
        AND k.changed_at <= s.as_of
        AND k.ingested_at <= s.as_of
    ORDER BY k.changed_at DESC, k.lsn DESC
    LIMIT 1
) AS p ON TRUE
