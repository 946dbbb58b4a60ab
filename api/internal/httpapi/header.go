package httpapi

import (
	"mime"
	"net/http"
	"regexp"
)

var idForm = regexp.MustCompile(`^[A-Za-z0-9._:/+=@-]{1,128}$`)

// once are headers that say one thing: of two, nobody knows which was meant.
func once() []string {
	return []string{"authorization", "content-type", "last-event-id", "nofx-worker-protocol",
		"x-correlation-id", "x-idempotency-key", "x-project-id", "x-request-id"}
}

// badHeader is what is wrong with a header that every route reads the same way,
// nil when nothing is.
func badHeader(h http.Header) *problem {
	for _, name := range once() {
		if len(h.Values(name)) > 1 {
			return badRequest("header."+name, "must be there once")
		}
	}
	for _, name := range []string{"x-request-id", "x-correlation-id"} { // they are sent back
		if id := h.Get(name); id != "" && !idForm.MatchString(id) {
			return badRequest("header."+name, "must be 1 to 128 of A-Z a-z 0-9 . _ : / + = @ -")
		}
	}
	return nil
}

// plainType writes the body's type as huma compares it: RFC 9110 has it in any
// case.
func plainType(h http.Header) {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return // it is refused where a body is read
	}
	if plain := mime.FormatMediaType(kind, params); plain != "" {
		h.Set("Content-Type", plain)
	}
}
