-- What visitors did on product pages: a view, or a change of the cart from there.
-- Partitioned by day, so that old days leave by DROP TABLE.
CREATE TABLE page_views (
    view_id text COLLATE "C" NOT NULL,
    visitor_id text COLLATE "C" NOT NULL
    CHECK (visitor_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
    sku text COLLATE "C" NOT NULL CHECK (char_length(sku) BETWEEN 1 AND 40),
    act text COLLATE "C" NOT NULL DEFAULT 'view' CHECK (act IN ('view', 'add', 'remove')),
    viewed_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (viewed_at);

CREATE TABLE page_views_default PARTITION OF page_views DEFAULT;

CREATE INDEX page_views_by_visitor ON page_views (visitor_id, viewed_at);
CREATE INDEX page_views_by_sku ON page_views (sku, viewed_at);
CREATE INDEX page_views_by_pair ON page_views (visitor_id, sku, viewed_at);
CREATE INDEX page_views_by_viewed_at ON page_views (viewed_at);
CREATE INDEX page_views_by_ingested_at ON page_views (ingested_at);

-- One line of an order: a visitor bought a product, or tried to: a line whose payment was declined
-- counts for nothing. Money is decimal where it comes in, and whole cents where it is summed.
CREATE TABLE orders (
    order_id text COLLATE "C" NOT NULL,
    visitor_id text COLLATE "C" NOT NULL
    CHECK (visitor_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
    sku text COLLATE "C" NOT NULL CHECK (char_length(sku) BETWEEN 1 AND 40),
    amount numeric(12, 2) NOT NULL CHECK (amount >= 0),
    quantity smallint NOT NULL DEFAULT 1 CHECK (quantity BETWEEN 1 AND 999),
    status text COLLATE "C" NOT NULL DEFAULT 'paid'
    CHECK (status IN ('paid', 'invoiced', 'declined')),
    amount_cents bigint NOT NULL GENERATED ALWAYS AS ((amount * 100)::bigint) STORED,
    ordered_at timestamptz NOT NULL,
    ingested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX orders_by_visitor ON orders (visitor_id, ordered_at);
CREATE INDEX orders_by_sku ON orders (sku, ordered_at);
CREATE INDEX orders_by_ordered_at ON orders (ordered_at);
CREATE INDEX orders_by_ingested_at ON orders (ingested_at);
