package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

const (
	helloTime = 15 * time.Second
	maxHello  = 64 << 10 // bytes
)

var errNoName = errors.New("its first bytes name no server")

// serverName reads which server a client asks for by its first bytes: TLS on
// port 443, HTTP on port 80. It gives what it has read, which the server has
// to get.
func serverName(ctx context.Context, c net.Conn, port uint16) (name string, read []byte, _ error) {
	if err := c.SetReadDeadline(time.Now().Add(helloTime)); err != nil {
		return "", nil, err
	}
	var seen bytes.Buffer
	in := io.TeeReader(io.LimitReader(c, maxHello), &seen)
	var err error
	if port == 80 {
		name, err = httpHost(in)
	} else {
		name, err = tlsName(ctx, in)
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if err == nil && !step.IsDomain(name) { // what is told of it has to be text
		err = errNoName
	}
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	return name, seen.Bytes(), err
}

func httpHost(in io.Reader) (string, error) {
	req, err := http.ReadRequest(bufio.NewReader(in))
	if err != nil || twoNames(req) {
		return "", errNoName
	}
	host := req.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return host, nil
}

// twoNames reports whether a server could read another name than we do: one in
// the first line, as for a proxy, counts for some and not for others, and some
// take "Host :" for Host.
func twoNames(req *http.Request) bool {
	if req.URL.Host != "" {
		return true
	}
	for key := range req.Header {
		if strings.Contains(key, " ") {
			return true
		}
	}
	return false
}

// tlsName has the standard library read the client's hello, and goes no
// further.
func tlsName(ctx context.Context, in io.Reader) (string, error) {
	name := ""
	done := errors.New("enough")
	err := tls.Server(reader{in}, &tls.Config{ //nolint:gosec // no handshake comes of it
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name = h.ServerName
			return nil, done
		},
	}).HandshakeContext(ctx)
	if !errors.Is(err, done) || name == "" {
		return "", errNoName
	}
	return name, nil
}

// reader is a connection that can only be read.
type reader struct{ io.Reader }

func (reader) Write([]byte) (int, error)        { return 0, io.ErrClosedPipe }
func (reader) Close() error                     { return nil }
func (reader) LocalAddr() net.Addr              { return nil }
func (reader) RemoteAddr() net.Addr             { return nil }
func (reader) SetDeadline(time.Time) error      { return nil }
func (reader) SetReadDeadline(time.Time) error  { return nil }
func (reader) SetWriteDeadline(time.Time) error { return nil }
