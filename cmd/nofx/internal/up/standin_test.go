package up

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/nofx-run/nofx/cmd/nofx/internal/pglocal"
	"github.com/nofx-run/nofx/sdk/wire"
)

// The tests of this package are about processes: their order, their death and
// their traces. Postgres is real; nofx-api and nofxd are this test's binary
// under those names, which keep the promises that `nofx up` relies on. With
// the real ones it is tested in test/e2e.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "nofx-api":
		os.Exit(standInAPI(os.Args[1:]))
	case "nofxd":
		os.Exit(standInDaemon(os.Args[1:]))
	}
	switch {
	case len(os.Args) > 1 && os.Args[1] == pglocal.EnterCommand:
		fmt.Fprintln(os.Stderr, pglocal.Enter(os.Args[2:]))
		os.Exit(3)
	case len(os.Args) > 3 && os.Args[1] == "run-up":
		os.Exit(runUp(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// note appends a line to the file "order" in the data folder.
func note(dir, line string) {
	f, err := os.OpenFile(filepath.Join(dir, "order"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}

func standInAPI(args []string) int {
	dir := filepath.Dir(os.Getenv("NOFX_BLOB_DIR"))
	switch args[0] {
	case "migrate":
		note(dir, "migrate")
		return 0
	case "keys":
		if args[1] == "new" {
			note(dir, "keyset")
			if err := os.WriteFile(args[2], []byte("{}"), 0o600); err != nil {
				panic(err)
			}
			return 0
		}
		role := args[len(args)-1]
		note(dir, "key "+role)
		fmt.Printf("nofx_%c_key\n", role[0])
		return 0
	}
	if _, err := os.Stat(filepath.Join(dir, "broken-api")); err == nil {
		fmt.Fprintln(os.Stderr, "cannot serve: it is broken")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", os.Getenv("NOFX_LISTEN"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(wire.Health{Status: "ok", Live: true, Ready: true})
	})
	mux.HandleFunc("GET /api/workers", func(w http.ResponseWriter, _ *http.Request) {
		list := wire.WorkerList{}
		if who, err := os.ReadFile(filepath.Join(dir, "worker", "alive")); err == nil {
			name, incarnation, _ := strings.Cut(string(who), " ")
			list.Workers = []wire.WorkerInfo{{Name: name, Incarnation: incarnation, Status: "live", Drivers: []wire.DriverInfo{{Name: "local", Healthy: true}}}}
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.ServeTLS(listener, os.Getenv("NOFX_TLS_CERT_FILE"), os.Getenv("NOFX_TLS_KEY_FILE")) }()
	fmt.Printf(`{"level":"INFO","msg":"listening","addr":"https://%s"}`+"\n", listener.Addr())
	<-ctx.Done()
	note(dir, "api ends")
	_ = server.Close()
	return 0
}

func standInDaemon(args []string) int {
	body, err := os.ReadFile(args[len(args)-1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var cfg daemonConfig
	if err := yaml.Unmarshal(body, &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir := filepath.Dir(cfg.DataDir)
	if args[0] == "purge" {
		note(dir, "purge")
		return 0
	}
	if _, err := os.Stat(filepath.Join(dir, "broken-daemon")); err == nil {
		fmt.Fprintln(os.Stderr, "cannot work: it is broken")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT)
	defer stop()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	alive := filepath.Join(cfg.DataDir, "alive")
	if err := os.WriteFile(alive, fmt.Appendf(nil, "%s %d", cfg.Name, os.Getpid()), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-ctx.Done()
	_ = os.Remove(alive)
	note(dir, "daemon ends")
	return 0
}
