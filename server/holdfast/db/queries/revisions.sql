-- name: record
INSERT INTO holdfast.graph_revisions (graph_id, revision, nodes, channels, first_seen)
VALUES (%(graph_id)s, %(revision)s, %(nodes)s, %(channels)s, holdfast.now())
ON CONFLICT DO NOTHING

-- name: find
SELECT nodes, channels
FROM holdfast.graph_revisions
WHERE graph_id = %(graph_id)s AND revision = %(revision)s
