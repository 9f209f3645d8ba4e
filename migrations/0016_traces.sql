ALTER TABLE holdfast.runs ADD COLUMN trace_id uuid;
COMMENT ON COLUMN holdfast.runs.trace_id IS 'the trace that it is part of; NULL: its own, whose id is run_id';
