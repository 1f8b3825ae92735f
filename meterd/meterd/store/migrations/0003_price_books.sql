-- Editions of the price book: the first holds from the beginning, each other from the moment
-- at which somebody put it in force. `data` is pricing.edition's packed form.
CREATE TABLE price_books (
    id INTEGER PRIMARY KEY,
    version TEXT NOT NULL,
    from_ms INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
