package alert

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/internal/internet"
	"github.com/nofx-run/nofx/sdk/step"
)

const (
	tryTimeout = 15 * time.Second
	maxAnswer  = 4 << 10
	secretHead = "whsec_"
	mostWish   = 24 * time.Hour // that a receiver can be left alone
)

// Receiver is who is told.
type Receiver struct {
	Kind   string // slack or webhook
	URL    string
	Secret string // of a webhook: whsec_ and base64
	Before string // the one before, which it may know alone yet; "" = none
}

// Check refuses a receiver that could not be told anything, and gives the host
// of its URL.
func (r Receiver) Check() (host string, _ error) {
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || len(r.URL) > 2000: // the text may be a secret
		return "", step.Errorf(step.KindInvalid, "the url is not one that can be called")
	case u.Scheme != "https":
		return "", step.Errorf(step.KindInvalid, "the url must begin with https://")
	}
	switch r.Kind {
	case "slack":
		if r.Secret != "" {
			return "", step.Errorf(step.KindInvalid, "a slack receiver has no secret of its own: its url is one")
		}
	case "webhook":
		if key, err := signingKey(r.Secret); err != nil || len(key) < 24 || len(key) > 64 {
			return "", step.Errorf(step.KindInvalid, "the secret must be %s and 24 to 64 bytes in base64", secretHead)
		}
	default:
		return "", step.Errorf(step.KindInvalid, "kind %.40q: slack or webhook", r.Kind)
	}
	return u.Host, nil
}

func signingKey(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretHead)
	if !ok {
		return nil, errors.New("no " + secretHead)
	}
	return base64.StdEncoding.DecodeString(text)
}

// Client calls receivers: on the Internet, and where else it may. It follows
// no redirect and uses no proxy.
type Client struct{ http *http.Client }

// NewClient makes one. allow lists what may be called though it is not on the
// Internet; roots may be nil, for the host's.
func NewClient(allow []netip.Prefix, roots *x509.CertPool) *Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		a := to.Addr().Unmap().WithZone("")
		if internet.Public(a) || slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return nil
		}
		return errPrivate
	}}
	return &Client{http: &http.Client{
		Timeout:       tryTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns: 16, IdleConnTimeout: time.Minute,
		},
	}}
}

var errPrivate = errors.New("its address is not on the Internet and NOFX_ALERT_ALLOW does not list it")

// Close ends connections that are kept.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// outcome is what came of a try.
type outcome struct {
	taken bool
	gone  bool          // it wants nothing any more
	wait  time.Duration // its wish
	said  string        // without any secret
}

func (c *Client) post(ctx context.Context, r Receiver, m Message) outcome {
	req, err := request(ctx, r, m, time.Now())
	if err != nil {
		return outcome{said: "the message cannot be made"}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return outcome{said: cut(plain(err), maxSaid)}
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be kept
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return outcome{taken: true}
	case resp.StatusCode == http.StatusGone:
		return outcome{gone: true}
	}
	return outcome{said: fmt.Sprintf("it answered %d", resp.StatusCode), wait: retryAfter(resp.Header.Get("Retry-After"))}
}

// plain is an error for the tenant's users: without the URL, which may be a
// secret, and without the addresses of this network.
func plain(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		if u.Timeout() {
			return "it did not answer in time"
		}
		err = u.Err
	}
	if errors.Is(err, errPrivate) {
		return errPrivate.Error()
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "its name has no address"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return "it cannot be reached: " + op.Err.Error()
	}
	return err.Error()
}

// retryAfter is what a receiver wishes, at most mostWish.
func retryAfter(text string) time.Duration {
	s, err := strconv.ParseUint(text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && s > uint64(mostWish/time.Second):
		return mostWish
	case err == nil:
		return time.Duration(s) * time.Second //nolint:gosec // bounded above
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// request is one try of a message. A webhook is signed as Standard Webhooks
// says: HMAC-SHA256 over id.timestamp.body.
func request(ctx context.Context, r Receiver, m Message, now time.Time) (*http.Request, error) {
	body, err := m.slack()
	if r.Kind == "webhook" {
		body, err = m.webhook()
	}
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "nofx-alerts")
	if r.Kind == "webhook" {
		at := strconv.FormatInt(now.Unix(), 10)
		signed, err := signatures(r, fmt.Appendf(nil, "%s.%s.%s", m.ID, at, body))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Webhook-Id", m.ID)
		req.Header.Set("Webhook-Timestamp", at)
		req.Header.Set("Webhook-Signature", signed)
	}
	return req, nil
}

// signatures are of each secret that the receiver may have, with a space between.
func signatures(r Receiver, text []byte) (string, error) {
	var list []string
	for _, secret := range []string{r.Secret, r.Before} {
		if secret == "" && len(list) > 0 {
			break
		}
		key, err := signingKey(secret)
		if err != nil {
			return "", err
		}
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write(text) // never fails
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(list, " "), nil
}
