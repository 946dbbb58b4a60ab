package httpapi

import (
	"errors"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// open is a body that stays open when its reader has enough of it; the server
// closes it in the end. Its call gets to know that it cannot be read.
type open struct {
	io.Reader
	call *call
}

func (o open) Read(p []byte) (int, error) {
	o.call.read = true
	n, err := o.Reader.Read(p)
	o.call.cut = o.call.cut || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

func (open) Close() error { return nil }

// readable answers what huma takes for a fault of ours, that a body cannot be
// read, as what it is.
type readable struct{ asked }

// asked is a name that its method Context leaves free.
type asked = huma.Context

// Unwrap lets humago find the request.
func (r readable) Unwrap() huma.Context { return r.asked }

func (r readable) SetStatus(status int) { r.asked.SetStatus(callOf(r.Context()).ofBody(status)) }

// ofBody is the status of an answer that may be about a body.
func (c *call) ofBody(status int) int {
	if status == http.StatusInternalServerError && c.cut && !c.begun {
		return http.StatusBadRequest
	}
	return status
}
