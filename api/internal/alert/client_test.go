package alert

import (
	"context"
	"encoding/base64"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// What users are told of a failed try has neither the URL nor an address of
// the API's own network.
func TestPlain(t *testing.T) {
	t.Parallel()
	const secret = "https://hooks.example.com/services/T0/B0/verysecret"
	for want, err := range map[string]error{
		"its name has no address":                   &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "hooks.example.com", Server: "10.0.0.2:53"}},
		"it cannot be reached: connection refused":  &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 443}, Err: errors.New("connection refused")},
		errPrivate.Error():                          &net.OpError{Op: "dial", Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 443}, Err: errPrivate},
		"it did not answer in time":                 context.DeadlineExceeded,
		"tls: failed to verify certificate: a word": errors.New("tls: failed to verify certificate: a word"),
	} {
		if got := plain(&url.Error{Op: "Post", URL: secret, Err: err}); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestNextTry(t *testing.T) {
	t.Parallel()
	var sum time.Duration
	for n := 1; ; n++ {
		wait := nextTry(n, 0)
		if wait < 0 {
			break
		}
		sum += time.Duration(wait * float64(time.Second))
		if n > 50 {
			t.Fatal("it never ends")
		}
	}
	if sum < 72*time.Hour || sum > 80*time.Hour {
		t.Errorf("tries for %v in all", sum)
	}
	for wish, want := range map[time.Duration]float64{-time.Hour: 5, 0: 5, time.Minute: 60, 1000 * time.Hour: 86400} {
		if got := nextTry(1, wish); got != want {
			t.Errorf("after one try and a wish of %v: %v s, want %v", wish, got, want)
		}
	}
	if nextTry(1000, time.Minute) >= 0 {
		t.Error("a wish makes it go on for ever")
	}
}

func TestReceiverCheck(t *testing.T) {
	t.Parallel()
	secret := func(n int) string {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", n)))
	}
	for what, c := range map[string]struct {
		r  Receiver
		ok bool
	}{
		"slack":              {Receiver{Kind: "slack", URL: "https://hooks.example.com/x"}, true},
		"webhook":            {Receiver{Kind: "webhook", URL: "https://example.com:8443/x?y=z", Secret: secret(24)}, true},
		"its longest secret": {Receiver{Kind: "webhook", URL: "https://example.com", Secret: secret(64)}, true},
		"too short":          {Receiver{Kind: "webhook", URL: "https://example.com", Secret: secret(23)}, false},
		"too long":           {Receiver{Kind: "webhook", URL: "https://example.com", Secret: secret(65)}, false},
		"no secret":          {Receiver{Kind: "webhook", URL: "https://example.com"}, false},
		"slack with one":     {Receiver{Kind: "slack", URL: "https://example.com", Secret: secret(32)}, false},
		"http":               {Receiver{Kind: "slack", URL: "http://example.com"}, false},
		"no host":            {Receiver{Kind: "slack", URL: "https:///x"}, false},
		"a user":             {Receiver{Kind: "slack", URL: "https://me@example.com"}, false},
		"a fragment":         {Receiver{Kind: "slack", URL: "https://example.com/#x"}, false},
		"odd kind":           {Receiver{Kind: "mail", URL: "https://example.com"}, false},
		"not a url":          {Receiver{Kind: "slack", URL: "https://exa mple.com\x00"}, false},
	} {
		if _, err := c.r.Check(); (err == nil) != c.ok || err != nil && strings.Contains(err.Error(), "example.com") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A wish to be left alone for longer than a day is honoured for a day, however
// long it is.
func TestWishesAreBounded(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"": 5 * time.Second, "-5": 5 * time.Second, "soon": 5 * time.Second, "0": 5 * time.Second, "90": 90 * time.Second,
		"86400": day, "1048576": day, "31536000": day, "9999999999": day, "99999999999999999999999": day,
		"Fri, 31 Dec 9999 23:59:59 GMT": day, "Mon, 01 Jan 0001 00:00:00 GMT": 5 * time.Second,
	} {
		if got := nextTry(1, retryAfter(text)); got != want.Seconds() {
			t.Errorf("%q: the next try after %v s, want %v", text, got, want)
		}
	}
}
