// Package suite has the cases of the conformance suite of drivers, and a runner
// for them outside `go test`. It does not import package testing, so that a
// command can carry it; a test uses package drivertest, which has the same
// cases as subtests.
//
// A case that needs a capability which the driver does not declare checks that
// the driver then refuses with unsupported, and is skipped.
package suite
