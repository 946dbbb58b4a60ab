package testpg

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Database is one test's own database.
type Database struct {
	Admin  string // URL as the owner, a superuser
	API    string // as nofx_api
	System string // as nofx_system
}

// Database makes a fresh copy of the migrated template and removes it when
// the test ends.
func (s *Server) Database(t testing.TB) Database {
	t.Helper()
	name := fmt.Sprintf("test_%d", s.last.Add(1)) // the first one's, test_1, can be a setting
	if err := s.exec(t.Context(), "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("testpg: %v", err)
	}
	t.Cleanup(func() {
		if err := s.exec(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("testpg: %v", err)
		}
	})
	return Database{Admin: s.url(name, "postgres"), API: s.url(name, "nofx_api"), System: s.url(name, "nofx_system")}
}

// Main runs a package's tests around a server, which it puts into *server,
// and fails when they leave goroutines behind.
func Main(m *testing.M, migrate func(ctx context.Context, ownerURL string) error, server **Server) {
	s, err := Start(context.Background(), migrate)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	*server = s
	code := m.Run()
	if err := s.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
