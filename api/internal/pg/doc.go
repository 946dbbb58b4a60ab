// Package pg is all that the API does with Postgres.
//
// Two pools for two database roles, neither of which owns a table or bypasses
// row level security: Tenant runs a transaction of nofx_api inside one tenant,
// System one of nofx_system across tenants. Inside, the statements are
// package pgdb's, which sqlc generates from queries/*.sql; nobody else imports
// the Postgres library.
//
// A transaction waits for the database as seldom as it can: its begin, its
// commit and the statements without a result go along with those that have one.
// So the error of such a statement comes with a later one, or with the commit.
//
// Errors leave as *step.Error. A database that is away is unavailable with a
// hint when to try again. Transactions that Postgres gave up because of a
// deadlock or a serialization failure are run again here, so a transaction's
// function may run more than once and must not keep anything of an earlier go.
//
// Locks are taken in one order everywhere, so that transactions do not meet:
// runs by id, then attempts by id, then steps, then tallies by lane and driver.
// A claim takes steps and breakers before runs, but never waits for any.
package pg
