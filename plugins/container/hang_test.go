package container

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
)

// hanging is an engine with gVisor's runtime that does not answer calls of a
// path with that end, and says so on asked, until it is let go; then it refuses
// them.
func hanging(t *testing.T, suffix string) (host string, asked <-chan struct{}, letGo func()) {
	t.Helper()
	heard, open := make(chan struct{}), make(chan struct{})
	first, letGo := sync.OnceFunc(func() { close(heard) }), sync.OnceFunc(func() { close(open) })
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, suffix) {
			first()
			select {
			case <-open:
				says(http.StatusInternalServerError, "not any more")(w)
			case <-r.Context().Done():
			}
			return
		}
		var answer any = map[string]any{}
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/info"):
			answer = map[string]any{"ServerVersion": "28.0.0", "CgroupDriver": "cgroupfs", "Runtimes": map[string]any{"runsc": map[string]any{}}}
		case strings.HasSuffix(path, "/containers/json"):
			answer = []any{}
		case strings.Contains(path, "/images/"):
			answer = map[string]any{"Id": "sha256:" + strings.Repeat("0", 64)}
		case strings.HasSuffix(path, "/events"):
			<-r.Context().Done()
			return
		case r.Method == http.MethodDelete:
			says(http.StatusNotFound, "no such container")(w)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(func() {
		letGo()
		s.Close()
	})
	return "unix://" + socket, heard, letGo
}

// A host gives a plugin 30 s to start and to take its configuration, and kills
// it after that. An engine that hangs is none of the configuration's faults: it
// is taken in much less, what is not known yet is not declared, and the driver
// says that it is not healthy.
func TestConfigureAtAnEngineThatHangs(t *testing.T) {
	t.Parallel()
	for suffix, says := range map[string]string{"/info": "info", "/containers/create": "is being tried"} {
		t.Run(suffix[1:], func(t *testing.T) {
			t.Parallel()
			host, asked, letGo := hanging(t, suffix)
			d := newDriver()
			t.Cleanup(d.Close)
			t.Cleanup(letGo) // before Close, which waits for the call
			began := time.Now()
			if err := d.Configure(t.Context(), config(t, withGVisor, func(c *Config) { c.Host = host })); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > configureTime+3*time.Second || configureTime > 20*time.Second {
				t.Errorf("it took %v to configure it", took)
			}
			select {
			case <-asked:
			default:
				t.Error("the engine was not asked")
			}
			desc, err := d.Describe(t.Context())
			if err != nil || desc.Capabilities.Has(driver.CapIsolationGVisor) || !strings.Contains(strings.Join(desc.Warnings, "; "), says) {
				t.Errorf("%v, %v: a level that nobody knows of is declared, or nothing said: %q", err, desc.Capabilities, desc.Warnings)
			}
			if h := healthNow(t, d); h.Healthy || !strings.Contains(h.Message, says) {
				t.Errorf("%+v, want it to say %q", h, says)
			}
			// Nor does the next configuration wait for what the last one began.
			began = time.Now()
			if err := d.Configure(t.Context(), config(t)); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > configureTime {
				t.Errorf("it took %v to configure it for an engine that is well", took)
			}
			if h := healthNow(t, d); !h.Healthy {
				t.Errorf("%+v", h)
			}
		})
	}
}

// The try goes on beside the health stream, and what it finds is what is said.
func TestTryOfAnEngineThatHung(t *testing.T) {
	t.Parallel()
	host, asked, letGo := hanging(t, "/containers/create")
	d := newDriver()
	t.Cleanup(d.Close)
	t.Cleanup(letGo)
	d.patience = time.Millisecond
	if err := d.Configure(t.Context(), config(t, withGVisor, func(c *Config) { c.Host = host })); err != nil {
		t.Fatal(err)
	}
	<-asked
	if h := healthNow(t, d); h.Healthy {
		t.Errorf("healthy, while nobody knows whether gVisor works: %+v", h)
	}
	letGo()
	for limit := time.Now().Add(30 * time.Second); !healthNow(t, d).Healthy; {
		if time.Now().After(limit) {
			t.Fatal("it does not become healthy")
		}
	}
	desc, err := d.Describe(t.Context())
	if all := strings.Join(desc.Warnings, "; "); err != nil || desc.Capabilities.Has(driver.CapIsolationGVisor) || !strings.Contains(all, "not any more") {
		t.Errorf("%v, %q, want what the engine said", err, all)
	}
}
