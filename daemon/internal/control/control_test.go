package control

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/nofx-run/nofx/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSweep(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // what a killed daemon leaves
		t.Fatal(err)
	}
	s := &Server{Socket: socket, Sweep: func(_ context.Context, dry bool) wire.SweepReport {
		return wire.SweepReport{DryRun: dry, Items: []wire.SweepItem{{Kind: "cgroup", Name: "a", Removed: !dry}}}
	}}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		for {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			if err == nil || ctx.Err() != nil {
				return c, err
			}
		}
	}}}
	for method, dry := range map[string]bool{http.MethodGet: true, http.MethodPost: false} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://nofxd/sweep", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got wire.SweepReport
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
		if err != nil || got.DryRun != dry || len(got.Items) != 1 || got.Items[0].Removed == dry {
			t.Errorf("%s: %+v, %v", method, got, err)
		}
	}
	if st, err := os.Stat(socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
