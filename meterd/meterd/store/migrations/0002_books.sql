-- The books: what was invoiced, closed and is to be told to accounting programs. Amounts are
-- whole minor units of the agency's currency.

-- What a closing rests on, so that it can be computed again. Until it is committed, whatever
-- names it was only staged and is worth nothing.
CREATE TABLE closings (
    id INTEGER PRIMARY KEY,
    period INTEGER NOT NULL,
    begun_at_ms INTEGER NOT NULL,
    committed_at_ms INTEGER,
    config_version INTEGER NOT NULL,
    end_row INTEGER NOT NULL,        -- ledger rows below it are in
    last_reprice INTEGER NOT NULL,
    last_accepted INTEGER NOT NULL,
    last_document INTEGER NOT NULL   -- the newest one before it
) STRICT;

-- Every client whose period a closing closed, billed or not.
CREATE TABLE closed_clients (
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    closing INTEGER NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL,
    PRIMARY KEY (client, period)
) STRICT, WITHOUT ROWID;

-- Documents in the order of their chain: each hash covers the canonical text and the hash
-- before it. A void is a document, too: nothing is ever changed or taken away.
CREATE TABLE documents (
    id INTEGER PRIMARY KEY,
    client INTEGER NOT NULL,
    period INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('invoice', 'credit_note', 'void')),
    number TEXT NOT NULL,            -- of a void: the number that it voids
    closing INTEGER,                 -- NULL: made by itself
    canonical TEXT NOT NULL,
    previous_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    total INTEGER NOT NULL,
    issued_at_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX documents_number ON documents (number, kind = 'void');
CREATE INDEX documents_of_client ON documents (client, period);

-- The lines of invoices and credit notes, to be added up: what a period was charged, which
-- credits are used up, what was carried.
CREATE TABLE document_lines (
    client INTEGER NOT NULL,
    document INTEGER NOT NULL,
    position INTEGER NOT NULL,
    period INTEGER NOT NULL,         -- an adjustment's own, else the document's
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    amount INTEGER NOT NULL,
    PRIMARY KEY (client, document, position)
) STRICT, WITHOUT ROWID;

-- Documents as they were drawn the first time.
CREATE TABLE document_files (
    document INTEGER NOT NULL,
    format TEXT NOT NULL,
    content BLOB NOT NULL,
    made_at_ms INTEGER NOT NULL,
    PRIMARY KEY (document, format)
) STRICT;

-- The last number given out in each series of documents.
CREATE TABLE document_series (
    series TEXT PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What accounting programs have to be told; a worker looks a document up there by its key
-- before it makes anything.
CREATE TABLE outbox (
    document INTEGER NOT NULL,
    target TEXT NOT NULL,
    step TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    request_hash TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'refused')),
    remote_id TEXT NOT NULL,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (document, target, step)
) STRICT, WITHOUT ROWID;

-- Late rows that were accepted, in order: those accepted after a closing were not in it.
CREATE TABLE accepted (
    id INTEGER PRIMARY KEY,
    row INTEGER NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER late_row_accepted AFTER DELETE ON uncounted WHEN old.why = 'late' BEGIN
    INSERT INTO accepted (row) VALUES (old.row);
END;

-- Counts whatever changes an amount beside new ledger rows: a closing computed before such a
-- change is not committed after it.
CREATE TABLE books (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    changes INTEGER NOT NULL
) STRICT;
INSERT INTO books VALUES (1, 0);
CREATE TRIGGER accepted_changes AFTER INSERT ON accepted BEGIN
    UPDATE books SET changes = changes + 1;
END;
CREATE TRIGGER repriced_changes AFTER INSERT ON repriced BEGIN
    UPDATE books SET changes = changes + 1;
END;
CREATE TRIGGER granted_changes AFTER INSERT ON grants BEGIN
    UPDATE books SET changes = changes + 1;
END;
CREATE TRIGGER config_changes AFTER INSERT ON config_versions BEGIN
    UPDATE books SET changes = changes + 1;
END;
CREATE TRIGGER names_change AFTER UPDATE ON clients BEGIN
    UPDATE books SET changes = changes + 1;
END;
