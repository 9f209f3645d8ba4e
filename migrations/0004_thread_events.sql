-- The log of a thread, beside those of its runs: blocks without a run (a state update, the end of a run that left no
-- log), and which runs ended with a block. The keys follow last_seq, so that whoever goes on after a number starts there.

ALTER TABLE holdfast.threads ADD COLUMN ended_runs uuid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN holdfast.threads.ended_runs IS 'ended without having run; told in the log with the next run that ends';

ALTER TABLE holdfast.event_blocks ALTER COLUMN run_id DROP NOT NULL;
ALTER TABLE holdfast.event_blocks ADD COLUMN ended_runs uuid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN holdfast.event_blocks.run_id IS 'NULL: said about the thread, in no run''s stream';
COMMENT ON COLUMN holdfast.event_blocks.ended_runs IS 'runs that ended here; each has a number after those of the frames';
ALTER TABLE holdfast.event_blocks DROP CONSTRAINT event_blocks_pkey;
ALTER TABLE holdfast.event_blocks ADD PRIMARY KEY (thread_id, last_seq);
DROP INDEX holdfast.event_blocks_by_run;
CREATE INDEX event_blocks_by_run ON holdfast.event_blocks (run_id, last_seq);
