// Package testpg gives tests a real Postgres: one private server a test
// process, on a unix socket, as an unprivileged user, gone with the process;
// and one database a test, copied from a template that was migrated once.
//
// A package that uses it has
//
//	var server *testpg.Server
//
//	func TestMain(m *testing.M) { testpg.Main(m, migrate, &server) }
//
// and calls server.Database(t) in its tests. A machine without Postgres makes
// the tests fail, not skip.
package testpg
