-- name: save_all
-- Everything that a group of saves holds. A row is let through by the fence of its token; whoever waits for one of these
-- rows waits alone, elsewhere. Nothing of it is there yet: what comes a second time (after a lost answer, say) fails here
-- and goes alone, too; looking for it first would cost a twentieth of what is written. Written for one plan (`quiet.sql`).
WITH fence AS (
    SELECT claim.token, r.run_id, r.thread_id
    FROM unnest(%(run_ids)s, %(tokens)s) AS claim (run_id, token)
    CROSS JOIN LATERAL (SELECT * FROM holdfast.runs WHERE run_id = claim.run_id OFFSET 0 FOR SHARE SKIP LOCKED) AS r
    WHERE r.fencing_token = claim.token AND r.status = 'running'
), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT new.thread, new.ns, new.channel, new.version, new.type, new.blob
    FROM unnest(%(blob_token)s, %(blob_thread)s, %(blob_ns)s, %(blob_channel)s, %(blob_version)s, %(blob_type)s,
                %(blob_blob)s)
        AS new (token, thread, ns, channel, version, type, blob)
    JOIN fence USING (token)
), elements AS (
    INSERT INTO holdfast.elements (thread_id, digest, level, bytes)
    SELECT new.thread, new.digest, new.level, new.bytes
    FROM unnest(%(element_token)s, %(element_thread)s, %(element_digest)s, %(element_level)s, %(element_bytes)s)
        AS new (token, thread, digest, level, bytes)
    JOIN fence USING (token)
    ON CONFLICT DO NOTHING
), saved AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT new.thread, new.ns, new.checkpoint_id, new.parent_id, new.checkpoint, new.metadata
    FROM unnest(%(checkpoint_token)s, %(checkpoint_thread)s, %(checkpoint_ns)s, %(checkpoint_checkpoint_id)s,
                %(checkpoint_parent_id)s, %(checkpoint_checkpoint)s, %(checkpoint_metadata)s)
        AS new (token, thread, ns, checkpoint_id, parent_id, checkpoint, metadata)
    JOIN fence USING (token)
), writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT new.thread, new.ns, new.checkpoint_id, new.task_id, new.task_path, new.idx, new.channel, new.type, new.blob
    FROM unnest(%(write_token)s, %(write_thread)s, %(write_ns)s, %(write_checkpoint_id)s, %(write_task_id)s,
                %(write_task_path)s, %(write_idx)s, %(write_channel)s, %(write_type)s, %(write_blob)s)
        AS new (token, thread, ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    JOIN fence USING (token)
), blocks AS (
    INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
    SELECT fence.thread_id, new.first_seq, new.last_seq, fence.run_id, new.first_in_run, new.frames, holdfast.now()
    FROM unnest(%(block_token)s, %(block_first_seq)s, %(block_last_seq)s, %(block_first_in_run)s, %(block_frames)s)
        AS new (token, first_seq, last_seq, first_in_run, frames)
    JOIN fence USING (token)
)
SELECT token FROM fence
