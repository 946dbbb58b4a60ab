package httpapi_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nofx-run/nofx/api/internal/httpapi"
	"github.com/nofx-run/nofx/sdk/wire"
)

// served is a server behind a front, and a client that trusts it.
func served(t testing.TB, h http.Handler, wrap bool) (addr string, client *http.Client) {
	t.Helper()
	model := httptest.NewTLSServer(nil)
	defer model.Close()
	client = model.Client()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: model.TLS.Certificates, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}},
	}
	done := make(chan error, 1)
	if wrap {
		front := httpapi.Front(srv, l)
		go func() { done <- srv.Serve(front) }()
	} else {
		go func() { done <- srv.ServeTLS(l, "", "") }()
	}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		if err := errors.Join(srv.Shutdown(context.WithoutCancel(t.Context())), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String(), client
}

func dial(t testing.TB, addr string, client *http.Client) *tls.Conn {
	t.Helper()
	cfg := client.Transport.(*http.Transport).TLSClientConfig.Clone() //nolint:forcetypeassert // httptest's own
	cfg.NextProtos, cfg.ServerName = nil, "example.com"
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*tls.Conn) //nolint:forcetypeassert // what it makes
}

const twice = "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"

func okay(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.TLS == nil {
		http.Error(w, "no TLS", http.StatusTeapot)
	}
	_, _ = io.WriteString(w, r.Proto)
}

// What net/http answers by itself is a problem like any other.
func TestOwnAnswersAreProblems(t *testing.T) {
	t.Parallel()
	addr, client := served(t, http.HandlerFunc(okay), true)
	for name, tc := range map[string]struct {
		send   string
		status int
		detail string
	}{
		"no request":        {"hello\r\n\r\n", 400, "the request cannot be read as HTTP"},
		"a bad header":      {"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "the request cannot be read as HTTP"},
		"no host":           {"GET / HTTP/1.1\r\n\r\n", 400, "missing required Host header"},
		"two hosts":         {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "the request cannot be read as HTTP"},
		"a bad host":        {"GET / HTTP/1.1\r\nHost: x y\r\n\r\n", 400, "malformed Host header"},
		"a long header":     {"GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 20<<10) + "\r\n\r\n", 431, "the request's line and headers are too long"},
		"a strange coding":  {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "Unsupported transfer encoding"},
		"another version":   {"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "unsupported protocol version"},
		"another wish":      {"POST / HTTP/1.1\r\nHost: x\r\nExpect: cake\r\nContent-Length: 1\r\n\r\n", 417, "Expect: can only be 100-continue"},
		"a wish about HEAD": {"HEAD / HTTP/1.1\r\nHost: x\r\nExpect: cake\r\n\r\n", 417, ""},
		"second on its way": {twice + twice + "hello\r\n\r\n", 400, "the request cannot be read as HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dial(t, addr, client)
			if _, err := io.WriteString(conn, tc.send); err != nil {
				t.Fatal(err)
			}
			method, _, _ := strings.Cut(tc.send, " ")
			r := bufio.NewReader(conn)
			for range strings.Count(tc.send, twice) {
				if _, body := answer(t, r, method); body != "HTTP/1.1" {
					t.Errorf("before it: %q", body)
				}
			}
			resp, body := answer(t, r, method)
			if resp.StatusCode != tc.status || resp.Header.Get("Content-Type") != "application/problem+json" || !resp.Close {
				t.Fatalf("%d %v %q", resp.StatusCode, resp.Header, body)
			}
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Errorf("after the answer: %q, %v", rest, err)
			}
			if method == http.MethodHead {
				return
			}
			var p wire.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != tc.status || p.Title != http.StatusText(tc.status) || p.Detail != tc.detail || !strings.HasPrefix(p.Type, "urn:nofx:problem:") {
				t.Errorf("%v: %s", err, body)
			}
		})
	}
}

func answer(t *testing.T, r *bufio.Reader, method string) (*http.Response, string) {
	t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp, string(body)
}

// HTTP on the port of HTTPS is told so; what is no HTTP either is hung up on.
func TestPlainHTTPIsAProblem(t *testing.T) {
	t.Parallel()
	addr, _ := served(t, http.HandlerFunc(okay), true)
	resp, err := http.Get("http://" + addr + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var p wire.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(p.Detail, "HTTPS") || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%v: %d %v %+v", err, resp.StatusCode, resp.Header, p)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "SSH-2.0-x\r\n"); err != nil {
		t.Fatal(err)
	}
	if raw, _ := io.ReadAll(conn); strings.Contains(string(raw), "HTTP") {
		t.Errorf("answered %q", raw)
	}
}

// What a handler answers passes as it is, even if it reads like net/http's own.
func TestAnswersOfHandlersPass(t *testing.T) {
	t.Parallel()
	const own = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
	addr, client := served(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ok" {
			okay(w, r)
			return
		}
		w.WriteHeader(http.StatusOK)
		for range 3 {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, own)
		}
	}), true)
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			transport := client.Transport.(*http.Transport).Clone() //nolint:forcetypeassert // httptest's own
			defer transport.CloseIdleConnections()
			transport.ForceAttemptHTTP2 = version == "HTTP/2.0"
			if !transport.ForceAttemptHTTP2 {
				transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			}
			for path, want := range map[string]string{"/ok": version, "/": own + own + own} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				raw, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(raw) != want || resp.Proto != version {
					t.Errorf("%s %s: %v %q", path, resp.Proto, err, raw)
				}
			}
		})
	}
}

// A handshake that never ends does not hold up the others, nor the end.
func TestHandshakesAreApart(t *testing.T) {
	t.Parallel()
	addr, client := served(t, http.HandlerFunc(okay), true)
	silent, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	conn := dial(t, addr, client)
	if _, err := io.WriteString(conn, twice); err != nil {
		t.Fatal(err)
	}
	if _, body := answer(t, bufio.NewReader(conn), http.MethodGet); body != "HTTP/1.1" {
		t.Errorf("%q", body)
	}
}

func BenchmarkFront(b *testing.B) {
	for name, wrap := range map[string]bool{"without": false, "with": true} {
		b.Run(name, func(b *testing.B) {
			addr, client := served(b, http.HandlerFunc(okay), wrap)
			conn := dial(b, addr, client)
			r := bufio.NewReader(conn)
			buf := make([]byte, 4<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.WriteString(conn, twice); err != nil {
					b.Fatal(err)
				}
				if _, err := r.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
