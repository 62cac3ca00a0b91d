-- The catalogue as a history of its changes. A product that was deleted has a row that says so:
-- what it was is null there.
CREATE TABLE products (
    lsn bigint NOT NULL CHECK (lsn >= 0),
    sku text COLLATE "C" NOT NULL CHECK (char_length(sku) BETWEEN 1 AND 40),
    category text COLLATE "C",
    price numeric(12, 2) CHECK (price >= 0),
    price_cents bigint GENERATED ALWAYS AS ((price * 100)::bigint) STORED,
    deleted boolean NOT NULL DEFAULT FALSE,
    changed_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (deleted OR (category IS NOT NULL AND price IS NOT NULL))
);

CREATE INDEX products_by_sku ON products (sku, changed_at);
CREATE INDEX products_by_changed_at ON products (changed_at);
CREATE INDEX products_by_ingested_at ON products (ingested_at);

-- The categories that there are, with the department that each belongs to: seeds/categories.json.
CREATE TABLE categories (
    category text COLLATE "C" NOT NULL,
    department text COLLATE "C" NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (category, ingested_at)
);

-- Imports of products spell a category as that table does, and say how many they do not know.
INSERT INTO reference_columns VALUES ('products', 'category', 'categories', 'category');
