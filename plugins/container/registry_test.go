package container

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// A step names the image, and so the registry. That this one is away, or has nothing
// that can be run, says nothing of the driver: no breaker may count it, which bars all
// tenants.
func TestRegistriesThatFail(t *testing.T) {
	t.Parallel()
	d := configured(t, func(c *Config) { c.Pull = PullMissing })
	answers := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return strings.TrimPrefix(s.URL, "http://") + "/team/box:1"
	}
	spoilt := func(what string, spoil func(*registry)) string {
		r := newRegistry(t, t.Name()+what)
		spoil(r)
		return r.name("team/box") + ":1"
	}
	for name, image := range map[string]string{
		"away":      "127.0.0.1:1/team/box:1",
		"broken":    answers(http.StatusInternalServerError, "no"),
		"busy":      answers(http.StatusServiceUnavailable, "no"),
		"private":   answers(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED"}]}`),
		"forbidden": answers(http.StatusForbidden, `{"errors":[{"code":"DENIED"}]}`),
		"empty":     answers(http.StatusNotFound, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`),
		"nonsense":  spoilt("nonsense", func(r *registry) { r.manifest = []byte("nonsense") }),
		"no layer":  spoilt("no layer", func(r *registry) { r.blobs = nil }),
		"layer of another": spoilt("another", func(r *registry) {
			for d, b := range r.blobs {
				r.blobs[d] = append(bytes.Clone(b), 'x')
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := d.Create(t.Context(), newSpec(t, on(image)))
			if kind := step.KindOf(err); err == nil || kind == step.KindInternal || kind == step.KindUnavailable {
				t.Errorf("%q: %v", kind, err)
			}
		})
	}
}
