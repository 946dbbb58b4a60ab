// Package planfile reads plans that people write, in JSON or YAML.
//
// A file holds a plan ({goal, steps}) or the whole body of a submission
// ({plan, projectId}). Unknown fields are errors with their place, so that a
// misspelt one is found here and not ignored. What the fields may say is the
// API's to judge.
package planfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/nofx-run/nofx/internal/strict"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// MaxBytes is the largest plan file. The API refuses bodies above it.
const MaxBytes = 2 << 20

// Read reads the plan at path, "-" for stdin. A name that ends in .json is
// JSON; everything else is YAML, of which JSON is a part.
func Read(path string, stdin io.Reader) (wire.SubmitRun, error) {
	var body []byte
	var err error
	if path == "-" {
		body, err = readAll(stdin)
	} else {
		var f *os.File
		if f, err = os.Open(path); err != nil {
			return wire.SubmitRun{}, err
		}
		defer f.Close()
		body, err = readAll(f)
	}
	if err != nil {
		return wire.SubmitRun{}, fmt.Errorf("%s: %w", path, err)
	}
	body = bytes.TrimPrefix(body, []byte("\ufeff")) // as editors on Windows leave it
	isJSON := strings.ToLower(filepath.Ext(path)) == ".json"
	if !isJSON {
		if body, err = toJSON(body); err != nil {
			return wire.SubmitRun{}, invalid(path, err)
		}
	}
	submission, err := decode(body, isJSON)
	if err != nil {
		return wire.SubmitRun{}, invalid(path, err)
	}
	return submission, nil
}

func invalid(path string, err error) error {
	return step.Errorf(step.KindInvalid, "%s: %w", path, err)
}

func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err == nil && len(body) > MaxBytes {
		err = step.Errorf(step.KindTooLarge, "larger than %d bytes", MaxBytes)
	}
	return body, err
}

// decode reads a plan or a submission. lines says that body is what the user
// wrote, so that its lines mean something.
func decode(body []byte, lines bool) (wire.SubmitRun, error) {
	if !utf8.Valid(body) {
		return wire.SubmitRun{}, errors.New("is not UTF-8 text")
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		return wire.SubmitRun{}, place(body, lines, err)
	}
	var submission wire.SubmitRun
	var target any = &submission.Plan
	check, at := strict.Check[wire.Plan], "plan"
	if _, whole := top["plan"]; whole {
		target = &submission
		check, at = strict.Check[wire.SubmitRun], "submission"
	}
	if err := check(body, at); err != nil {
		return wire.SubmitRun{}, place(body, lines, err)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(target); err != nil {
		return wire.SubmitRun{}, place(body, lines, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return wire.SubmitRun{}, errors.New("something follows the plan")
	}
	return submission, nil
}

func line(body []byte, offset int64) int { return 1 + bytes.Count(body[:offset], []byte("\n")) }

// place says what an error of the JSON decoder, or of package strict, means, and
// where.
func place(body []byte, lines bool, err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	var spot strict.SpotError
	offset := int64(-1)
	text := strings.TrimPrefix(err.Error(), "json: ")
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &spot):
		offset = int64(spot)
	case errors.As(err, &typ):
		offset = typ.Offset
		text = typ.Value + " where " + kind(typ.Type) + " is needed"
		if typ.Field != "" {
			text = typ.Field + ": " + text
		}
	}
	if !lines || offset < 0 || offset > int64(len(body)) {
		return errors.New(text)
	}
	return fmt.Errorf("line %d: %s", line(body, offset), text)
}

// kind names what a field takes.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map, reflect.Pointer:
		return "an object"
	}
	if t.Kind() == reflect.Float64 {
		return "a number"
	}
	return "a whole number, in digits alone,"
}
