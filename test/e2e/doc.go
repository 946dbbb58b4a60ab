// Package e2e tests the whole system as its users have it: the built
// binaries, started by `nofx up`, driven through the CLI and the API. The
// scenarios are in the tests; package harness boots the system for them and
// for other suites.
package e2e
