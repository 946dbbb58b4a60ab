package httpapi

import (
	"mime"
	"net/http"
	"regexp"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
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

// badForm is what is wrong with the headers that say how a body is written, nil
// when nothing is. The body's type it writes as huma compares it: RFC 9110 has
// it in any case.
func badForm(h http.Header) *problem {
	if coding := h.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return unsupported("header.content-encoding", "bodies are taken as they are, in no coding")
	}
	given := h.Get("Content-Type")
	if given == "" {
		return nil
	}
	kind, params, err := mime.ParseMediaType(given)
	if err != nil {
		return badRequest("header.content-type", "is not a media type")
	}
	if set, there := params["charset"]; there && !strings.EqualFold(set, "utf-8") {
		return unsupported("header.content-type", "text is taken in UTF-8 only")
	}
	plain := mime.FormatMediaType(kind, params)
	if plain == "" {
		return badRequest("header.content-type", "is not a media type")
	}
	h.Set("Content-Type", plain)
	return nil
}

func unsupported(location, message string) *problem {
	return newProblem(http.StatusUnsupportedMediaType, location+": "+message, []step.FieldError{{Location: location, Message: message}})
}
