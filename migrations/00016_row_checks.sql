-- What must hold of a row is one function a table that is written at rate, not
-- a CHECK for each rule: Postgres reads and plans the text of every CHECK anew
-- in each statement that writes a row, which cost more than all else that such
-- a statement did. A function is read once a session. The rules are the same.
--
-- A new rule for one of these tables goes into its function.
-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION nofx.run_holds(status text, steps_left integer, retries integer, retry_budget integer, ended_at timestamptz, hold text,
                               concurrency_key text, concurrency_most integer) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN status IN ('queued', 'running', 'blocked', 'succeeded', 'failed', 'cancelled')
    AND (ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))
    AND steps_left >= 0 AND (steps_left > 0 OR ended_at IS NOT NULL)
    AND retries >= 0 AND retry_budget >= 0
    AND hold IN ('', 'time', 'turn') AND (concurrency_key = '') = (concurrency_most = 0);
END
$$;

CREATE FUNCTION nofx.step_holds(status text, deps_left integer, reads text, workspace text, network text, on_output text, on_open text,
                                drivers text[], lanes text[], ended_at timestamptz, concurrency_key text, concurrency_most integer) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN status IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled')
    AND (ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'timed_out', 'cancelled'))
    AND deps_left >= 0 AND (deps_left = 0 OR status IN ('waiting', 'cancelled', 'failed'))
    AND reads IN ('shell', 'stdout-json') AND workspace IN ('run', 'step') AND network IN ('none', 'allow', 'open')
    AND on_output IN ('truncate', 'kill') AND on_open IN ('wait', 'fail', 'fallback')
    AND cardinality(lanes) = cardinality(drivers)
    AND (concurrency_key = '') = (concurrency_most = 0);
END
$$;

CREATE FUNCTION nofx.attempt_holds(status text, ended_at timestamptz, verdict json) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  RETURN status IN ('running', 'ended', 'lost', 'released')
    AND (ended_at IS NOT NULL) = (status <> 'running')
    AND (verdict IS NOT NULL) = (status IN ('ended', 'lost'));
END
$$;
-- +goose StatementEnd

ALTER TABLE nofx.run
  DROP CONSTRAINT run_status, DROP CONSTRAINT run_ended, DROP CONSTRAINT run_steps_left, DROP CONSTRAINT run_retries,
  DROP CONSTRAINT run_hold, DROP CONSTRAINT run_concurrency,
  ADD CONSTRAINT run_holds CHECK (nofx.run_holds(status, steps_left, retries, retry_budget, ended_at, hold, concurrency_key, concurrency_most));
ALTER TABLE nofx.step
  DROP CONSTRAINT step_status, DROP CONSTRAINT step_ended, DROP CONSTRAINT step_deps_left, DROP CONSTRAINT step_reads, DROP CONSTRAINT step_workspace,
  DROP CONSTRAINT step_on_output, DROP CONSTRAINT step_network, DROP CONSTRAINT step_on_open, DROP CONSTRAINT step_lanes,
  DROP CONSTRAINT step_concurrency,
  ADD CONSTRAINT step_holds CHECK (nofx.step_holds(status, deps_left, reads, workspace, network, on_output, on_open, drivers, lanes, ended_at, concurrency_key, concurrency_most));
ALTER TABLE nofx.attempt
  DROP CONSTRAINT attempt_status, DROP CONSTRAINT attempt_ended, DROP CONSTRAINT attempt_verdict,
  ADD CONSTRAINT attempt_holds CHECK (nofx.attempt_holds(status, ended_at, verdict));

-- +goose Down
ALTER TABLE nofx.attempt
  DROP CONSTRAINT attempt_holds,
  ADD CONSTRAINT attempt_status CHECK (status IN ('running', 'ended', 'lost', 'released')),
  ADD CONSTRAINT attempt_ended CHECK ((ended_at IS NOT NULL) = (status <> 'running')),
  ADD CONSTRAINT attempt_verdict CHECK ((verdict IS NOT NULL) = (status IN ('ended', 'lost')));
ALTER TABLE nofx.step
  DROP CONSTRAINT step_holds,
  ADD CONSTRAINT step_status CHECK (status IN ('waiting', 'queued', 'running', 'succeeded', 'failed', 'timed_out', 'cancelled')),
  ADD CONSTRAINT step_ended CHECK ((ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'timed_out', 'cancelled'))),
  ADD CONSTRAINT step_deps_left CHECK (deps_left >= 0 AND (deps_left = 0 OR status IN ('waiting', 'cancelled', 'failed'))),
  ADD CONSTRAINT step_reads CHECK (reads IN ('shell', 'stdout-json')),
  ADD CONSTRAINT step_workspace CHECK (workspace IN ('run', 'step')),
  ADD CONSTRAINT step_on_output CHECK (on_output IN ('truncate', 'kill')),
  ADD CONSTRAINT step_network CHECK (network IN ('none', 'allow', 'open')),
  ADD CONSTRAINT step_on_open CHECK (on_open IN ('wait', 'fail', 'fallback')),
  ADD CONSTRAINT step_lanes CHECK (cardinality(lanes) = cardinality(drivers)),
  ADD CONSTRAINT step_concurrency CHECK ((concurrency_key = '') = (concurrency_most = 0));
ALTER TABLE nofx.run
  DROP CONSTRAINT run_holds,
  ADD CONSTRAINT run_status CHECK (status IN ('queued', 'running', 'blocked', 'succeeded', 'failed', 'cancelled')),
  ADD CONSTRAINT run_ended CHECK ((ended_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))),
  ADD CONSTRAINT run_steps_left CHECK (steps_left >= 0 AND (steps_left > 0 OR ended_at IS NOT NULL)),
  ADD CONSTRAINT run_retries CHECK (retries >= 0 AND retry_budget >= 0),
  ADD CONSTRAINT run_hold CHECK (hold IN ('', 'time', 'turn')),
  ADD CONSTRAINT run_concurrency CHECK ((concurrency_key = '') = (concurrency_most = 0));
DROP FUNCTION nofx.attempt_holds(text, timestamptz, json), nofx.step_holds(text, integer, text, text, text, text, text, text[], text[], timestamptz, text, integer), nofx.run_holds(text, integer, integer, integer, timestamptz, text, text, integer);
