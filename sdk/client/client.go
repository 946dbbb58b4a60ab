// Package client is the typed HTTPS client of the control API: the user's
// endpoints and the worker's. Answers that are problem documents come back as
// *step.Error with their kind. A Client is safe for concurrent use.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Options says how to reach the API.
type Options struct {
	BaseURL       string         // https://HOST[:PORT], without a path
	Key           string         // API key, sent as bearer token
	CAFile        string         // PEM file of the authorities to trust; "" = the system's
	RootCAs       *x509.CertPool // instead of CAFile
	UserAgent     string
	Timeout       time.Duration // of one call that does not stream; 0 = 30 s
	StreamSilence time.Duration // after which events and downloads are given up; 0 = a minute
}

// Client talks to one API.
type Client struct {
	base    *url.URL
	key     string
	agent   string
	timeout time.Duration
	silence time.Duration // of a stream that lives; the API says something each 15 s
	http    *http.Client  // calls and streams
	beat    *http.Client  // heartbeats, on connections of their own
}

const (
	defaultTimeout = 30 * time.Second
	streamSilence  = time.Minute
	maxAnswer      = 64 << 20 // bytes of a JSON answer
	maxProblem     = 1 << 20
)

// New checks the options and makes a client. It does not connect.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(o.BaseURL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, step.Errorf(step.KindInvalid, "API address %q is not like https://HOST:PORT", o.BaseURL)
	}
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		return nil, step.Errorf(step.KindInvalid, "API address %q: a key is sent over https only", o.BaseURL)
	}
	roots := o.RootCAs
	if roots == nil && o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, step.Errorf(step.KindInvalid, "CA file: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, step.Errorf(step.KindInvalid, "CA file %s holds no certificate", o.CAFile)
		}
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.UserAgent == "" {
		o.UserAgent = "nofx-client"
	}
	return &Client{
		base: base, key: o.Key, agent: o.UserAgent, timeout: o.Timeout, silence: cmp.Or(o.StreamSilence, streamSilence),
		http: httpClient(roots), beat: httpClient(roots),
	}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// httpClient speaks HTTP/1.1, which carries about twice as many small calls
// as HTTP/2 with this client, and follows no redirects: the key goes to the
// configured host only.
func httpClient(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
			TLSHandshakeTimeout:   10 * time.Second,
			MaxIdleConnsPerHost:   32,
			IdleConnTimeout:       90 * time.Second,
			ExpectContinueTimeout: time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.beat.CloseIdleConnections()
}

// call is one request.
type call struct {
	method  string
	path    string // escaped, from the root
	query   url.Values
	header  map[string]string
	in      any           // sent as JSON
	body    io.Reader     // sent as it is
	length  int64         // of body
	timeout time.Duration // 0 = the client's
	via     *http.Client  // nil = c.http
}

// do sends the call and returns the answer, whose status is below 300.
func (c *Client) do(ctx context.Context, r call) (*http.Response, error) {
	body := r.body
	if r.in != nil {
		raw, err := json.Marshal(r.in)
		if err != nil {
			return nil, step.Errorf(step.KindInvalid, "%s %s: %w", r.method, r.path, err)
		}
		body, r.length = bytes.NewReader(raw), int64(len(raw))
	}
	u := *c.base
	target := u.String() + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, step.Errorf(step.KindInvalid, "%s %s: %w", r.method, r.path, err)
	}
	if body != nil {
		req.ContentLength = r.length
	}
	req.Header.Set("User-Agent", c.agent)
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if r.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range r.header {
		req.Header.Set(k, v)
	}
	via := r.via
	if via == nil {
		via = c.http
	}
	resp, err := via.Do(req)
	if err != nil {
		return nil, unreachable(ctx, r, err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problem(r, resp)
	}
	return resp, nil
}

// json sends the call and decodes the answer into out (nil = drop it).
func (c *Client) json(ctx context.Context, r call, out any) error {
	timeout := r.timeout
	if timeout == 0 {
		timeout = c.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxProblem))
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return unreachable(ctx, r, fmt.Errorf("answer: %w", err))
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) // so that the connection is used again
	return nil
}

// unreachable turns a transport error into one of kind unavailable. The error
// of net/http names the URL; the key is in a header and in no error.
func unreachable(ctx context.Context, r call, err error) error {
	if ctxErr := context.Cause(ctx); ctxErr != nil && errors.Is(ctxErr, context.Canceled) {
		return ctxErr
	}
	where := r.path
	var known *url.Error
	if errors.As(err, &known) { // says method and URL itself
		where, err = known.URL, known.Err
	}
	return step.Errorf(step.KindUnavailable, "%s %s: %w", r.method, where, err)
}

func problem(r call, resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	p := wire.Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode)}
	if err == nil && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		_ = json.Unmarshal(raw, &p) // an unreadable problem is told by its status
		p.Status = resp.StatusCode
	} else {
		p.Detail = fmt.Sprintf("%s %s: %s", r.method, r.path, resp.Status)
	}
	return p.Err(resp.Header.Get("Retry-After"))
}
