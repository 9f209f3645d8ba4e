-- name: horizon
-- Asked at the primary: where its log ends, of which cluster, on which timeline. What was acknowledged stands before that
-- end; without synchronous commits also what was not yet flushed.
SELECT CASE WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
            ELSE pg_current_wal_flush_lsn() END::text AS lsn,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer AS timeline,
       (SELECT system_identifier FROM pg_control_system()) AS cluster

-- name: standing
-- Asked at a replica. Roles that may not see the receiver's timeline (pg_read_all_stats) are told that of the last
-- restart point, which comes later, never earlier.
SELECT pg_is_in_recovery()
       AND coalesce((SELECT received_tli FROM pg_stat_wal_receiver),
                    (SELECT timeline_id FROM pg_control_checkpoint())) = %(timeline)s
       AND (SELECT system_identifier FROM pg_control_system()) = %(cluster)s AS follows,
       coalesce(pg_last_wal_replay_lsn() >= %(lsn)s::pg_lsn, false) AS has_all
