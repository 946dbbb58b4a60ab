package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nofx-run/nofx/sdk/client"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const key = "nofx_u_verysecret"

// serve starts an HTTPS API that answers with h, and a client for it.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{
		BaseURL: srv.URL, Key: key, Timeout: 5 * time.Second,
		RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSubmitSendsKeyAndBody(t *testing.T) {
	t.Parallel()
	sent := wire.SubmitRun{ProjectID: "shop", Plan: wire.Plan{Goal: "g", Steps: []wire.PlanStep{{Name: "a", Tool: "bash", Inputs: json.RawMessage(`{"command":"true"}`)}}}}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var got wire.SubmitRun
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(sent, got); diff != "" {
			t.Error(diff)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/api/runs" || r.Header.Get("Authorization") != "Bearer "+key || r.Header.Get("X-Idempotency-Key") != "key-12345" {
			t.Errorf("request %s %s %v", r.Method, r.URL, r.Header)
		}
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"r1","status":"queued","projectId":"shop"}`)
	})
	got, err := c.Submit(t.Context(), sent, "key-12345")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wire.RunCreated{ID: "r1", Status: step.RunQueued, ProjectID: "shop"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsBecomeKinds(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]step.Kind{
		400: step.KindInvalid, 401: step.KindUnauthorized, 403: step.KindForbidden, 404: step.KindNotFound,
		409: step.KindConflict, 413: step.KindTooLarge, 422: step.KindInvalid, 429: step.KindRateLimited,
		500: step.KindInternal, 502: step.KindUnavailable, 503: step.KindUnavailable,
		302: step.KindInternal, // a redirect is not followed: it would carry the key elsewhere
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.Header().Set("Retry-After", "7")
				w.Header().Set("Location", "https://127.0.0.1:1/")
				w.WriteHeader(status)
				fmt.Fprintf(w, `{"title":"T","status":%d,"detail":"why","errors":[{"location":"body.plan","message":"mend it"}]}`, status)
			})
			_, err := c.Run(t.Context(), "r1")
			var e *step.Error
			if !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Kind != want || e.Message != "why" || e.RetryAfter != 7*time.Second || len(e.Fields) != 1 {
				t.Errorf("got %+v, want kind %s", e, want)
			}
		})
	}
}

func TestUnreachableNamesNoKey(t *testing.T) {
	t.Parallel()
	c, err := client.New(client.Options{BaseURL: "https://127.0.0.1:1", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Workers(t.Context())
	if !step.Is(err, step.KindUnavailable) || strings.Contains(err.Error(), key) {
		t.Errorf("error %v", err)
	}
	if text := err.Error(); strings.Count(text, "/api/workers") != 1 || !strings.Contains(text, "https://127.0.0.1:1/") {
		t.Errorf("error %q does not name the address once", text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Workers(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestKeyGoesOverHTTPSOnly(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "nofx", "http://example.org", "ftp://127.0.0.1"} {
		if _, err := client.New(client.Options{BaseURL: bad, Key: key}); !step.Is(err, step.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if _, err := client.New(client.Options{BaseURL: "http://127.0.0.1:80"}); err != nil {
		t.Errorf("loopback: %v", err)
	}
}

func TestEventsResume(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Last-Event-ID"); got != "4" {
			t.Errorf("Last-Event-ID %q", got)
		}
		io.WriteString(w, ": hello\n\nevent: init\nid: 5\ndata: [{\"seq\":5}]\n\nevent: append\nid: 7\ndata: [{\"seq\":6},\ndata: {\"seq\":7}]\n\n")
	})
	var got []int64
	if err := c.Events(t.Context(), "r1", "4", func(batch []step.Event) error {
		for _, e := range batch {
			got = append(got, e.Seq)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{5, 6, 7}, got); diff != "" {
		t.Error(diff)
	}
}

// A stream whose other end says nothing any more is given up; one that is only
// kept open is not.
func TestSilentStream(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush := func(text string) {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
		}
		flush("event: init\nid: 1\ndata: [{\"seq\":1}]\n\n")
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for range 20 { // longer than the silence that is borne
			<-tick.C
			flush(": keep\n\n")
		}
		flush("event: append\nid: 2\ndata: [{\"seq\":2}]\n\n")
		if strings.Contains(r.URL.Path, "whole") {
			return
		}
		<-held
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(held) })
	c, err := client.New(client.Options{BaseURL: server.URL, Key: "k", StreamSilence: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for run, want := range map[string]step.Kind{"whole": "", "silent": step.KindUnavailable} {
		n := 0
		err := c.Events(t.Context(), run, "", func(batch []step.Event) error { n += len(batch); return nil })
		if step.KindOf(err) != want || n != 2 {
			t.Errorf("%s: %d events, %v", run, n, err)
		}
	}
}

// A download of which nothing comes any more is given up, too, before its first
// byte and after; one that comes to its end is whole.
func TestDownloadSilence(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/never") {
			<-held
			return
		}
		_, _ = io.WriteString(w, "beginning")
		_ = http.NewResponseController(w).Flush()
		if strings.HasSuffix(r.URL.Path, "/half") {
			<-held
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(held) })
	c, err := client.New(client.Options{BaseURL: server.URL, Key: "k", StreamSilence: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name, want := range map[string]step.Kind{"never": step.KindUnavailable, "half": step.KindUnavailable, "whole": ""} {
		var text []byte
		body, err := c.Artifact(t.Context(), "runs/r/steps/s/"+name)
		if err == nil {
			text, err = io.ReadAll(body)
			body.Close()
		}
		if step.KindOf(err) != want || err != nil && !strings.Contains(err.Error(), "nothing has come for 500ms") {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

func TestArtifactUploadCarriesTheFence(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "bytes" || r.ContentLength != 5 {
			t.Errorf("body %q, length %d, %v", body, r.ContentLength, err)
		}
		if r.Method != http.MethodPut || r.URL.String() != "/api/worker/artifacts/a1/abc" || r.Header.Get("Nofx-Epoch") != "9" || r.Header.Get("Nofx-Attempt") != "3" || r.Header.Get("Nofx-Generation") != "2" || r.Header.Get("Nofx-Worker-Id") != "w1" || r.Header.Get("Nofx-Incarnation") != "i1" || r.Header.Get(wire.WorkerProtocolHeader) != "1" {
			t.Errorf("request %s %s", r.Method, r.URL)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	f := wire.Fence{AttemptID: "a1", Generation: 2, Attempt: 3, Epoch: 9}
	if err := c.PutArtifact(t.Context(), "w1", "i1", f, "abc", 5, strings.NewReader("bytes")); err != nil {
		t.Fatal(err)
	}
}
