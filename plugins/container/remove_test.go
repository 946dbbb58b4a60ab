package container

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nofx-run/nofx/sdk/step"
)

// removing is an engine that gives its answers to a removal in turn, the last
// one for good.
func removing(t *testing.T, answers ...func(http.ResponseWriter)) (*engine, func() int) {
	t.Helper()
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if r.Method != http.MethodDelete {
			return // a ping
		}
		answers[min(asked, len(answers)-1)](w)
		asked++
	}))
	t.Cleanup(s.Close)
	e, err := openEngine("tcp://" + strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	return e, func() int { return asked }
}

func says(status int, message string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if message != "" {
			_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
		}
	}
}

// Engine 20.10 finds a container running, goes to kill it, finds that it has
// ended meanwhile, and gives that out as an error of its own.
func TestRemovalOfWhatEndsMeanwhile(t *testing.T) {
	ended := says(http.StatusInternalServerError, "Could not kill running container 1c66, cannot remove - Container 1c66 is not running")
	for name, c := range map[string]struct {
		answers []func(http.ResponseWriter)
		gone    bool
		kind    step.Kind
		asked   int
	}{
		"at once":         {[]func(http.ResponseWriter){says(http.StatusNoContent, "")}, true, "", 1},
		"none":            {[]func(http.ResponseWriter){says(http.StatusNotFound, "no such container")}, false, "", 1},
		"ends meanwhile":  {[]func(http.ResponseWriter){ended, says(http.StatusNoContent, "")}, true, "", 2},
		"gone meanwhile":  {[]func(http.ResponseWriter){ended, says(http.StatusNotFound, "no such container")}, false, "", 2},
		"under way":       {[]func(http.ResponseWriter){says(http.StatusConflict, "removal is already in progress"), says(http.StatusNotFound, "no such container")}, false, "", 2},
		"never":           {[]func(http.ResponseWriter){says(http.StatusInternalServerError, "driver failed to remove root filesystem")}, false, step.KindInternal, removeTries},
		"forbidden":       {[]func(http.ResponseWriter){says(http.StatusForbidden, "no")}, false, step.KindForbidden, 1},
		"wrong, then not": {[]func(http.ResponseWriter){ended, ended, says(http.StatusNoContent, "")}, true, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			e, asked := removing(t, c.answers...)
			gone, err := e.remove(t.Context(), "x")
			if gone != c.gone || (err == nil) != (c.kind == "") || err != nil && step.KindOf(err) != c.kind {
				t.Errorf("gone %v, %v; want gone %v, kind %q", gone, err, c.gone, c.kind)
			}
			if asked() != c.asked {
				t.Errorf("asked %d times, want %d", asked(), c.asked)
			}
		})
	}
}
