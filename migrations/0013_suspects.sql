ALTER TABLE holdfast.runs ADD COLUMN isolated_until timestamptz;
COMMENT ON COLUMN holdfast.runs.isolated_until IS 'a process of its own is being started for it; until then by nobody else';
