package httpapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// front is a listener that hands out connections whose TLS handshake is done.
// net/http answers by itself, in plain text and on the connection, what it
// cannot read as a request; on HTTP/1 those answers become problem documents.
// HTTP/2 needs the *tls.Conn itself, and is left as it is.
type front struct {
	net.Listener
	srv   *http.Server
	tls   *tls.Config
	ready chan accepted
	ctx   context.Context //nolint:containedctx // the listener's own life
	stop  context.CancelFunc
	all   sync.WaitGroup
}

// ownDrain is how long the rest of a request is read that net/http refused.
const ownDrain = time.Second

type accepted struct {
	conn net.Conn
	err  error
}

// Front makes the listener that srv is to Serve, and prepares srv for it.
func Front(srv *http.Server, inner net.Listener) net.Listener {
	f := &front{Listener: inner, srv: srv, tls: srv.TLSConfig.Clone(), ready: make(chan accepted)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	handler := srv.Handler
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(plainlyKey{}).(*plainly); ok {
			c.handled = true
		}
		handler.ServeHTTP(w, r)
	})
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if p, ok := c.(*plainly); ok {
			return context.WithValue(ctx, plainlyKey{}, p)
		}
		return ctx
	}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if p, ok := c.(*plainly); ok && state == http.StateIdle {
			p.handled = false
		}
	}
	f.all.Go(f.accept)
	return f
}

func (f *front) accept() {
	for {
		conn, err := f.Listener.Accept()
		if err == nil {
			f.all.Go(func() { f.shake(conn) })
			continue
		}
		f.hand(accepted{err: err}) // net/http knows which errors pass, and waits
		if f.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

func (f *front) shake(raw net.Conn) {
	conn := tls.Server(raw, f.tls)
	ctx, cancel := context.WithTimeout(f.ctx, f.srv.ReadHeaderTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		var record tls.RecordHeaderError
		if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
			_, _ = record.Conn.Write(plainAnswer(http.StatusBadRequest, "this port takes HTTPS, and the request came as plain HTTP", false))
		}
		f.srv.ErrorLog.Printf("TLS handshake with %s: %v", raw.RemoteAddr(), err)
		_ = raw.Close()
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		f.hand(accepted{conn: conn})
		return
	}
	f.hand(accepted{conn: &plainly{Conn: conn}})
}

func (f *front) hand(a accepted) {
	select {
	case f.ready <- a:
	case <-f.ctx.Done():
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

// Accept is the next connection whose handshake is done.
func (f *front) Accept() (net.Conn, error) {
	select {
	case a := <-f.ready:
		return a.conn, a.err
	case <-f.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close ends the handshakes that are under way, too.
func (f *front) Close() error {
	f.stop()
	err := f.Listener.Close()
	f.all.Wait()
	return err
}

// looksLikeHTTP reports whether what should open a handshake opens a request.
func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "DELET", "PATCH", "OPTIO":
		return true
	}
	return false
}

// plainly is an HTTP/1 connection. Whatever is written to it before a handler
// has its request is net/http's own.
type plainly struct {
	*tls.Conn
	handled bool // net/http's goroutine sets it, before the handler can write
}

type plainlyKey struct{}

func (c *plainly) Write(p []byte) (int, error) {
	if c.handled {
		return c.Conn.Write(p)
	}
	own, ok := ownProblem(p)
	if !ok {
		return c.Conn.Write(p)
	}
	// After a 417 net/http waits for the body, for ever.
	_ = c.SetReadDeadline(time.Now().Add(ownDrain))
	if _, err := c.Conn.Write(own); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ownProblem is net/http's own answer as a problem; false = it is no error.
func ownProblem(p []byte) ([]byte, bool) {
	line, rest, _ := bytes.Cut(p, []byte("\r\n"))
	code, found := bytes.CutPrefix(line, []byte("HTTP/1.1 "))
	if !found || len(code) < 3 {
		return nil, false
	}
	status, err := strconv.Atoi(string(code[:3]))
	if err != nil || status < http.StatusBadRequest {
		return nil, false
	}
	head, text, _ := bytes.Cut(rest, []byte("\r\n\r\n"))
	detail := strings.TrimPrefix(strings.TrimPrefix(string(text), fmt.Sprintf("%d %s", status, http.StatusText(status))), ": ")
	switch {
	case detail != "":
	case status == http.StatusRequestHeaderFieldsTooLarge:
		detail = "the request's line and headers are too long"
	case status == http.StatusExpectationFailed:
		detail = "Expect: can only be 100-continue"
	default:
		detail = "the request cannot be read as HTTP"
	}
	// It tells a length wherever it wants a body, and after HEAD there is none.
	bodiless := status == http.StatusExpectationFailed && !bytes.Contains(head, []byte("Content-Length"))
	return plainAnswer(status, detail, bodiless), true
}

// plainAnswer is a whole answer with a problem, after which the connection ends.
func plainAnswer(status int, detail string, bodiless bool) []byte {
	body, err := json.Marshal(newProblem(status, detail, nil).Problem)
	if err != nil {
		body = nil // of texts and a number: it cannot be
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
		status, http.StatusText(status), problemType, len(body))
	if !bodiless {
		out.Write(body)
	}
	return out.Bytes()
}
