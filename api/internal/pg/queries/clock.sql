-- TakeTime lets the statements of this transaction take ten minutes.
-- name: TakeTime :exec
SELECT set_config('statement_timeout', '600000', true);

-- GoBack brings what is to come within @seconds, by which the clock has gone back,
-- forward by them, and what was last seen in what is the future now, back. What is
-- not as far ahead as that was written after the clock went back. The moments that
-- users gave (a run's start, the end of a silence or of a key) are what they are,
-- and so is what was told: events, the log, and the ends of steps and attempts.
-- name: GoBack :exec
WITH by AS (SELECT make_interval(secs => @seconds::float8) AS span, clock_timestamp() AS now
), leases AS (
  UPDATE nofx.attempt a SET lease_until = a.lease_until - by.span, listed_at = a.listed_at - by.span,
         claimed_at = CASE WHEN a.claimed_at > by.now THEN a.claimed_at - by.span ELSE a.claimed_at END,
         started_at = CASE WHEN a.started_at > by.now THEN a.started_at - by.span ELSE a.started_at END
  FROM by WHERE a.status = 'running' AND a.lease_until > by.now + make_interval(secs => @lease_seconds::float8)
), queued AS (
  UPDATE nofx.step s SET due_at = s.due_at - by.span FROM by WHERE s.status = 'queued' AND s.due_at > by.now
), runs AS ( -- how long they took, and how long they are kept, goes by these
  UPDATE nofx.run r
  SET created_at = CASE WHEN r.created_at > by.now THEN r.created_at - by.span ELSE r.created_at END,
      started_at = CASE WHEN r.started_at > by.now THEN r.started_at - by.span ELSE r.started_at END,
      ended_at = CASE WHEN r.ended_at > by.now THEN r.ended_at - by.span ELSE r.ended_at END,
      kept_from = CASE WHEN r.kept_from > by.now THEN r.kept_from - by.span ELSE r.kept_from END
  FROM by
  WHERE r.id IN (SELECT x.id FROM nofx.tenant t CROSS JOIN LATERAL (
      SELECT n.id FROM nofx.run n WHERE n.tenant_id = t.tenant_id AND n.created_at > (SELECT b.now FROM by b)
      UNION ALL
      SELECT e.id FROM nofx.run e WHERE e.tenant_id = t.tenant_id AND e.ended_at IS NOT NULL AND e.removing_at IS NULL
        AND greatest(e.ended_at, e.kept_from) > (SELECT b.now FROM by b)) x)
), workers AS (
  UPDATE nofx.worker w SET last_seen = w.last_seen - by.span,
         registered_at = CASE WHEN w.registered_at > by.now THEN w.registered_at - by.span ELSE w.registered_at END
  FROM by WHERE w.last_seen > by.now
), drivers AS (
  UPDATE nofx.driver_seen d SET healthy_at = d.healthy_at - by.span FROM by WHERE d.healthy_at > by.now
), probes AS (
  UPDATE nofx.handler_health h SET ready_at = h.ready_at - by.span FROM by WHERE h.state <> 'closed' AND h.ready_at > by.now
), rules AS (
  UPDATE nofx.alert_rule r SET since = r.since - by.span FROM by WHERE r.since > by.now
), deliveries AS (
  UPDATE nofx.alert_delivery d SET next_at = d.next_at - by.span FROM by WHERE d.next_at > by.now
), receivers AS (
  UPDATE nofx.alert_receiver r SET busy_until = r.busy_until - by.span FROM by WHERE r.busy_until > by.now
)
UPDATE nofx.lease_clock c SET hold_until = c.hold_until - by.span FROM by WHERE c.hold_until > by.now;
