-- AlertTick looks at all rules; see the migration.
-- name: AlertTick :one
SELECT nofx.alert_tick();

-- EndRuleless ends the episodes that no rule has any more: it was removed, or
-- made to look at something else. Whoever was told of one, or may be yet, is
-- told that it is over.
-- name: EndRuleless :exec
WITH gone AS (
  UPDATE nofx.alert a SET resolved_at = now()
  WHERE a.resolved_at IS NULL AND NOT EXISTS (SELECT 1 FROM nofx.alert_rule r WHERE r.tenant_id = a.tenant_id AND r.alert_id = a.id)
  RETURNING a.id
)
INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, alert_id, kind)
SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), d.tenant_id, d.receiver, d.alert_id, 'resolved'
FROM gone g JOIN nofx.alert_delivery d ON d.alert_id = g.id AND d.kind = 'fired' AND (d.done_at IS NOT NULL OR d.next_at IS NOT NULL);

-- TakeDeliveries takes messages that are due, one for each receiver that is told
-- nothing else at the moment, and notes a try of each: whoever takes one has
-- until its next try to send it, and the receiver for as long. Of receivers that
-- did not take the last one no more than @failing are taken, after the others.
-- That an episode is over is told after its beginning.
-- name: TakeDeliveries :many
WITH due AS (
  SELECT DISTINCT ON (x.tenant_id, x.receiver) x.tenant_id, x.receiver, x.id, x.next_at, a.failing
  FROM nofx.alert_delivery x
  JOIN nofx.alert_receiver a ON a.tenant_id = x.tenant_id AND a.name = x.receiver
  WHERE x.next_at <= now() AND a.disabled_at IS NULL AND coalesce(a.busy_until, '-infinity') <= now()
    AND (x.kind <> 'resolved' OR NOT EXISTS (SELECT 1 FROM nofx.alert_delivery f
                                             WHERE f.alert_id = x.alert_id AND f.receiver = x.receiver AND f.kind = 'fired' AND f.next_at IS NOT NULL))
  ORDER BY x.tenant_id, x.receiver, x.next_at, x.id
), turn AS (
  SELECT d.*, row_number() OVER (PARTITION BY d.failing ORDER BY d.next_at, d.id) AS nth FROM due d
), free AS (
  SELECT t.id FROM turn t
  JOIN nofx.alert_receiver a ON a.tenant_id = t.tenant_id AND a.name = t.receiver
  WHERE (NOT t.failing OR t.nth <= @failing::int) AND coalesce(a.busy_until, '-infinity') <= now()
  ORDER BY t.failing, t.next_at, t.id
  LIMIT @most FOR NO KEY UPDATE OF a SKIP LOCKED
), taken AS ( -- unless it was taken and done meanwhile
  UPDATE nofx.alert_delivery d
  SET tries = d.tries + 1, next_at = now() + make_interval(secs => @lease_seconds::float8)
  FROM free f
  WHERE d.id = f.id AND d.next_at <= now()
  RETURNING d.id, d.tenant_id, d.receiver, d.alert_id, d.kind, d.created_at, d.tries
)
UPDATE nofx.alert_receiver a SET busy_until = now() + make_interval(secs => @lease_seconds::float8)
FROM taken t
WHERE a.tenant_id = t.tenant_id AND a.name = t.receiver
RETURNING t.id, t.tenant_id, t.receiver, t.alert_id, t.kind, t.created_at, t.tries, a.kind AS receiver_kind, a.url, a.secret, a.sealed, a.failing, a.busy_until;

-- FreeReceiver notes that a receiver was told what it was taken for, and whether
-- it took that; unless that lasted so long that somebody else has it.
-- name: FreeReceiver :exec
UPDATE nofx.alert_receiver SET busy_until = NULL, failing = @failing
WHERE tenant_id = @tenant_id AND name = @name AND busy_until = @busy_until;

-- name: GetAlert :one
SELECT id, rule, metric, above, value, peak, opened_at, resolved_at FROM nofx.alert WHERE id = @id;

-- name: DeliveryDone :exec
UPDATE nofx.alert_delivery SET done_at = now(), next_at = NULL, said = '' WHERE id = @id;

-- DeliveryFailed notes what came of a try, unless there was another after it;
-- with a wait below zero it was the last one.
-- name: DeliveryFailed :exec
UPDATE nofx.alert_delivery
SET said = @said, next_at = CASE WHEN @wait_seconds::float8 >= 0 THEN now() + make_interval(secs => @wait_seconds::float8) END
WHERE id = @id AND tries = @tries AND done_at IS NULL;

-- ReceiverGone notes that a receiver does not want any more.
-- name: ReceiverGone :exec
UPDATE nofx.alert_receiver SET disabled_at = now() WHERE tenant_id = @tenant_id AND name = @name;

-- name: DropReceiverDeliveries :exec
UPDATE nofx.alert_delivery SET next_at = NULL, said = 'the receiver is gone' WHERE tenant_id = @tenant_id AND receiver = @receiver AND next_at IS NOT NULL;

-- DropGoneDeliveries gives up what receivers would be told that have said that
-- they are gone.
-- name: DropGoneDeliveries :exec
UPDATE nofx.alert_delivery d SET next_at = NULL, said = 'the receiver is gone'
FROM nofx.alert_receiver a
WHERE a.tenant_id = d.tenant_id AND a.name = d.receiver AND a.disabled_at IS NOT NULL AND d.next_at IS NOT NULL;

-- DropAlerts forgets what is old. Of an episode that is open it stays known who
-- was told, for whom to tell that it is over.
-- name: DropAlerts :exec
WITH old AS (
  DELETE FROM nofx.alert_delivery d
  WHERE d.created_at < now() - make_interval(secs => @keep_seconds::float8)
    AND NOT EXISTS (SELECT 1 FROM nofx.alert o WHERE o.id = d.alert_id AND o.resolved_at IS NULL)
)
DELETE FROM nofx.alert WHERE resolved_at < now() - make_interval(secs => @keep_seconds::float8);

-- NoteAuditTrouble notes that a row of the audit log was refused.
-- name: NoteAuditTrouble :exec
SELECT nofx.note_audit_trouble(@tenant_id::text, 'refused', @said::text);

-- DropAuditTrouble forgets what is old.
-- name: DropAuditTrouble :exec
DELETE FROM nofx.audit_trouble WHERE at < now() - make_interval(secs => @keep_seconds::float8);

-- name: ListAlertRules :many
SELECT name, metric, above, below, for_seconds, silenced_until, value, seen_at, since, alert_id FROM nofx.alert_rule
WHERE tenant_id = @tenant_id ORDER BY name;

-- name: ListAlerts :many
SELECT id, rule, metric, above, value, peak, opened_at, resolved_at FROM nofx.alert
WHERE tenant_id = @tenant_id ORDER BY opened_at DESC, id DESC LIMIT @most;

-- name: ListReceivers :many
SELECT r.name, r.kind, r.place, r.disabled_at,
       coalesce((SELECT d.kind || ' ' || CASE WHEN d.done_at IS NOT NULL THEN 'taken' WHEN d.next_at IS NULL THEN 'given up' ELSE 'on its way' END
                        || CASE WHEN d.said = '' THEN '' ELSE ': ' || d.said END
                 FROM nofx.alert_delivery d WHERE d.tenant_id = r.tenant_id AND d.receiver = r.name ORDER BY d.created_at DESC LIMIT 1), '')::text AS last
FROM nofx.alert_receiver r WHERE r.tenant_id = @tenant_id ORDER BY r.name;

-- name: SilenceRule :execrows
UPDATE nofx.alert_rule SET silenced_until = CASE WHEN @minutes::int > 0 THEN now() + make_interval(mins => @minutes::int) END
WHERE tenant_id = @tenant_id AND name = @name;

-- InsertTest has a message sent that says that the way works.
-- name: InsertTest :execrows
INSERT INTO nofx.alert_delivery (id, tenant_id, receiver, kind)
SELECT @id, r.tenant_id, r.name, 'test' FROM nofx.alert_receiver r WHERE r.tenant_id = @tenant_id AND r.name = @receiver AND r.disabled_at IS NULL;

-- GoneReceiver tells whether a receiver has said that it is gone.
-- name: GoneReceiver :one
SELECT EXISTS (SELECT 1 FROM nofx.alert_receiver r WHERE r.tenant_id = @tenant_id AND r.name = @receiver AND r.disabled_at IS NOT NULL);

-- name: HasReceivers :one
SELECT EXISTS (SELECT 1 FROM nofx.alert_receiver WHERE tenant_id = @tenant_id);

-- name: SetReceiver :exec
INSERT INTO nofx.alert_receiver AS r (tenant_id, name, kind, url, sealed, place)
VALUES (@tenant_id, @name, @kind, '', @sealed, @place)
ON CONFLICT ON CONSTRAINT alert_receiver_pk DO UPDATE
SET kind = excluded.kind, url = '', secret = '', sealed = excluded.sealed, place = excluded.place, disabled_at = NULL, failing = false;

-- name: DropReceiver :execrows
DELETE FROM nofx.alert_receiver WHERE tenant_id = @tenant_id AND name = @name;

-- name: SetRule :exec
INSERT INTO nofx.alert_rule AS r (tenant_id, name, metric, above, below, for_seconds)
VALUES (@tenant_id, @name, @metric, @above, @below, @for_seconds)
ON CONFLICT ON CONSTRAINT alert_rule_pk DO UPDATE
SET metric = excluded.metric, above = excluded.above, below = excluded.below, for_seconds = excluded.for_seconds, since = NULL,
    alert_id = CASE WHEN r.metric = excluded.metric THEN r.alert_id END;

-- AddRule is SetRule for one that may be there already, which stays.
-- name: AddRule :exec
INSERT INTO nofx.alert_rule (tenant_id, name, metric, above, below, for_seconds)
VALUES (@tenant_id, @name, @metric, @above, @below, @for_seconds)
ON CONFLICT ON CONSTRAINT alert_rule_pk DO NOTHING;

-- name: DropRule :execrows
DELETE FROM nofx.alert_rule WHERE tenant_id = @tenant_id AND name = @name;
