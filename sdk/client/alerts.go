package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/nofx-run/nofx/sdk/wire"
)

// Alerts gives the tenant's rules, their newest episodes, and who is told.
func (c *Client) Alerts(ctx context.Context) (wire.AlertList, error) {
	var out wire.AlertList
	return out, c.json(ctx, call{method: http.MethodGet, path: "/api/alerts"}, &out)
}

// SilenceAlert keeps a rule from beginning an episode for some minutes; 0 ends
// the silence.
func (c *Client) SilenceAlert(ctx context.Context, rule string, minutes int) error {
	return c.json(ctx, call{method: http.MethodPost, path: "/api/alerts/rules/" + url.PathEscape(rule) + "/silence", in: wire.SilenceAlert{Minutes: minutes}}, nil)
}

// TestAlert has a test message sent to a receiver.
func (c *Client) TestAlert(ctx context.Context, receiver string) (wire.AlertTest, error) {
	var out wire.AlertTest
	return out, c.json(ctx, call{method: http.MethodPost, path: "/api/alerts/receivers/" + url.PathEscape(receiver) + "/test"}, &out)
}
