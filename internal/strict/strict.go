// Package strict finds what encoding/json lets pass in silence: a key that is
// in an object twice, of which the last would win, one that differs from a
// field's name in its case, which would count as that field, and text that is
// none, for which it would put another character.
package strict

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/sdk/step"
)

// maxDepth is how deep JSON may be nested that encoding/json takes.
const maxDepth = 10_000

// Check looks through JSON that is to be decoded into a T. Its error is of
// kind invalid, names the first such place, below the location at, and wraps a
// SpotError. What is not JSON at all is not its affair.
func Check[T any](raw []byte, at string) error {
	return CheckType(raw, reflect.TypeFor[T](), at)
}

// CheckType is Check for a type that is known only at run time.
func CheckType(raw []byte, t reflect.Type, at string) error {
	return check(raw, t, at, fields{})
}

func check(raw []byte, t reflect.Type, at string, known fields) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	w := walk{dec: dec, known: known, raw: raw}
	w.value(t, at, 0)
	return w.err
}

// Checker checks documents for one type, whose fields it looked up once. It is
// safe for concurrent use.
type Checker struct {
	of    reflect.Type
	known fields
}

// For makes the checker of a type.
func For[T any]() *Checker {
	c := &Checker{of: reflect.TypeFor[T](), known: fields{}}
	c.known.learn(c.of)
	return c
}

// Check is the function Check for the checker's type.
func (c *Checker) Check(raw []byte, at string) error { return check(raw, c.of, at, c.known) }

// fields are the names that structs' fields have in JSON, with their types.
type fields map[reflect.Type]map[string]reflect.Type

// learn looks up a type and all that it is made of.
func (f fields) learn(t reflect.Type) {
	t = plain(t)
	if t == nil {
		return
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		f.learn(t.Elem())
	case reflect.Struct:
		if _, known := f[t]; known {
			return
		}
		for _, inner := range f.of(t) {
			f.learn(inner)
		}
	}
}

// walk goes through one document up to the first fault.
type walk struct {
	dec   *json.Decoder
	known fields
	raw   []byte
	form  bool // whether values fit is looked at, not how they are written
	err   error
}

// value goes through one value; it reports whether to go on.
func (w *walk) value(t reflect.Type, at string, depth int) bool {
	before := w.dec.InputOffset()
	token, err := w.dec.Token()
	open, isDelim := token.(json.Delim)
	if err != nil || depth > maxDepth {
		return false
	}
	if text, ok := token.(string); ok && !w.text(text, before, at) {
		return false
	}
	if w.form && !w.fits(t, token, at) {
		return false
	}
	if !isDelim {
		return true
	}
	t = plain(t)
	if open == '{' {
		if !w.object(t, at, depth) {
			return false
		}
	} else {
		var elem reflect.Type
		switch {
		case t == nil:
		case t.Kind() == reflect.Slice || t.Kind() == reflect.Array:
			elem = t.Elem()
		case t.Kind() == reflect.Interface: // anything, and so is what is in it
			elem = t
		}
		for i := 0; w.dec.More(); i++ {
			if !w.value(elem, at+"["+strconv.Itoa(i)+"]", depth+1) {
				return false
			}
		}
	}
	_, err = w.dec.Token() // the closing bracket
	return err == nil
}

func (w *walk) object(t reflect.Type, at string, depth int) bool {
	var names map[string]reflect.Type
	var elem reflect.Type
	switch {
	case t == nil:
	case t.Kind() == reflect.Struct:
		names = w.known.of(t)
	case t.Kind() == reflect.Map:
		elem = t.Elem()
	case t.Kind() == reflect.Interface:
		elem = t
	}
	seen := map[string]bool{}
	for w.dec.More() {
		before := w.dec.InputOffset()
		token, err := w.dec.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return false
		}
		here := at + "." + clip(key)
		if !w.text(key, before, here) {
			return false
		}
		if seen[key] {
			return w.fault(here, "is there twice")
		}
		seen[key] = true
		inner, known := names[key]
		if !known {
			inner = elem
			for name := range names {
				if strings.EqualFold(name, key) {
					return w.fault(here, "is not a known field: it is written "+name)
				}
			}
		}
		if !w.value(inner, here, depth+1) {
			return false
		}
	}
	return true
}

// text looks at one that began behind so many bytes of the document.
func (w *walk) text(text string, before int64, at string) bool {
	if w.form {
		return true
	}
	if what := changed(text, w.raw[before:w.dec.InputOffset()]); what != "" {
		return w.fault(at, what)
	}
	return true
}

// SpotError is behind how many bytes of the document the fault stands.
type SpotError int64

func (s SpotError) Error() string { return "byte " + strconv.FormatInt(int64(s), 10) }

func (w *walk) fault(at, what string) bool {
	w.err = &step.Error{Kind: step.KindInvalid, Message: at + ": " + what, Fields: []step.FieldError{{Location: at, Message: what}}, Err: SpotError(w.dec.InputOffset())}
	return false
}

// clip bounds a key in a message.
func clip(key string) string {
	const most = 100
	if len(key) <= most {
		return key
	}
	return strings.ToValidUTF8(key[:most], "") + "…"
}

// plain is the type behind pointers; nil for one that decodes itself, whose
// keys are its own affair.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return t
}

// of gives those of a struct.
func (f fields) of(t reflect.Type) map[string]reflect.Type {
	if known, ok := f[t]; ok {
		return known
	}
	out := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && name == "" && plain(field.Type) != nil && plain(field.Type).Kind() == reflect.Struct:
			for inner, typ := range f.of(plain(field.Type)) {
				out[inner] = typ
			}
		case !field.IsExported() || name == "-":
		case name == "":
			out[field.Name] = field.Type
		default:
			out[name] = field.Type
		}
	}
	f[t] = out
	return out
}
