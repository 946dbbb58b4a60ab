package httpapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// patient serves one route with that patience.
func patient(t *testing.T, p patience, pattern string, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	stats, err := newStats(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Services: Services{Log: slog.New(slog.DiscardHandler)}, stats: stats, mux: http.NewServeMux(), patience: p}
	s.mux.HandleFunc(pattern, h)
	srv := httptest.NewServer(s.wrap(s.mux))
	t.Cleanup(srv.Close)
	return srv
}

func dial(t *testing.T, srv *httptest.Server) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is lost with it
	return conn
}

// Who announces a body and never sends it holds no connection for good, also
// where nobody wants the body, as before a key was seen.
func TestBodyThatNeverComes(t *testing.T) {
	t.Parallel()
	srv := patient(t, patience{sender: 50 * time.Millisecond, reader: time.Minute}, "POST /x", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
	})
	for _, head := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		conn := dial(t, srv)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", head)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", head, err)
			continue
		}
		if resp.Body.Close(); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", head, resp.StatusCode)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: the connection stays: %v", head, err)
		}
	}
}

// Who asks and does not read the answer holds nothing for good, either; who
// reads gets all of it.
func TestAnswerThatNobodyReads(t *testing.T) {
	t.Parallel()
	const size = 64 << 20 // more than the sockets hold
	wrote := make(chan error, 1)
	send := func(w http.ResponseWriter, _ *http.Request) {
		n, err := w.Write(make([]byte, size))
		if err == nil && n != size {
			err = fmt.Errorf("wrote %d bytes", n)
		}
		wrote <- err
	}
	srv := patient(t, patience{sender: time.Minute, reader: 50 * time.Millisecond}, "GET /x", send)
	fmt.Fprint(dial(t, srv), "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
	select {
	case err := <-wrote:
		if err == nil {
			t.Error("all of it was written to nobody")
		}
	case <-time.After(20 * time.Second):
		t.Error("it is still being written")
	}

	srv = patient(t, defaultPatience(), "GET /x", send)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}
