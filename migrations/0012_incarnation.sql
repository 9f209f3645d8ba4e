-- Emptied by every crash of Postgres, because it is not logged: whoever finds it empty gives the database a new name.
CREATE UNLOGGED TABLE holdfast.incarnation (
    name uuid NOT NULL DEFAULT gen_random_uuid(),
    single boolean PRIMARY KEY DEFAULT true CHECK (single)
);
