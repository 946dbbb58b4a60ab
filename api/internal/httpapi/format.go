package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/step"
)

// jsonFormat is huma's own, but that it says what does not fit where.
func jsonFormat() huma.Format {
	f := huma.DefaultJSONFormat
	f.Unmarshal = func(data []byte, v any) error {
		err := json.Unmarshal(data, v)
		if field := misplaced(err, data, reflect.TypeOf(v)); field != nil {
			return errors.New(field.Location + between + field.Message)
		}
		return err
	}
	return f
}

// between separates a place from what is wrong there, in a text that huma
// carries on as what is wrong with the whole body.
const between = "\x00"

// placed takes such a text apart again.
func placed(f step.FieldError) step.FieldError {
	if at, message, found := strings.Cut(f.Message, between); found {
		return step.FieldError{Location: at, Message: message}
	}
	return f
}

// misplaced is the value because of which a body cannot be decoded into a t;
// nil = it is not for a value that err came.
func misplaced(err error, raw []byte, t reflect.Type) *step.FieldError {
	var kind *json.UnmarshalTypeError
	if !errors.As(err, &kind) {
		return nil
	}
	var fault *step.Error
	if !errors.As(strict.Form(raw, t, "body"), &fault) {
		return nil
	}
	return &fault.Fields[0]
}

// undecoded is what to answer about a body that cannot be decoded into a t.
func undecoded(err error, raw []byte, t reflect.Type) *problem {
	if field := misplaced(err, raw, t); field != nil {
		return newProblem(http.StatusUnprocessableEntity, field.Location+": "+field.Message, []step.FieldError{*field})
	}
	return badRequest("body", err.Error())
}
