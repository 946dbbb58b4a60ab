package suite

import "context"

// T is what a case reports to. *testing.T is one; Run has its own. Fatal,
// Fatalf, Skip and Skipf end the calling goroutine, which must be the case's;
// the others may be called from any.
type T interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Skipf(format string, args ...any)
	Logf(format string, args ...any)
	// Cleanup calls f when the case has ended; the last one given comes first.
	Cleanup(f func())
	// TempDir is a new folder that goes with the case.
	TempDir() string
	// Context ends just before the cleanups begin.
	Context() context.Context
}
