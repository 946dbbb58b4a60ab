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
	"strings"

	"go.yaml.in/yaml/v3"

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
	if strings.ToLower(filepath.Ext(path)) != ".json" {
		if body, err = toJSON(body); err != nil {
			return wire.SubmitRun{}, invalid(path, err)
		}
	}
	submission, err := decode(body)
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

// toJSON turns YAML into JSON. A mapping with keys that are not strings has
// no JSON form and is an error.
func toJSON(body []byte) ([]byte, error) {
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc any
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("empty")
		}
		return nil, err
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return json.Marshal(doc)
}

func decode(body []byte) (wire.SubmitRun, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(body, &top); err != nil {
		return wire.SubmitRun{}, place(body, err)
	}
	var submission wire.SubmitRun
	var target any = &submission.Plan
	if _, whole := top["plan"]; whole {
		target = &submission
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(target); err != nil {
		return wire.SubmitRun{}, place(body, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return wire.SubmitRun{}, errors.New("something follows the plan")
	}
	return submission, nil
}

// place adds the line to errors of the JSON decoder that carry an offset.
func place(body []byte, err error) error {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	offset := int64(-1)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &typ):
		offset = typ.Offset
	}
	text := strings.TrimPrefix(err.Error(), "json: ")
	if offset < 0 || offset > int64(len(body)) {
		return errors.New(text)
	}
	return fmt.Errorf("line %d: %s", 1+bytes.Count(body[:offset], []byte("\n")), text)
}
