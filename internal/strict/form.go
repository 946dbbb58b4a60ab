package strict

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"

	"github.com/nofx-run/nofx/sdk/step"
)

// Form says which value of a document does not fit where it stands in a type,
// for documents that could not be decoded into it. Its error is of kind
// invalid and names the first, below the location at; nil = it finds none.
func Form(raw []byte, t reflect.Type, at string) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	w := walk{dec: dec, known: fields{}, form: true}
	w.value(t, at, 0)
	return w.err
}

// fits reports whether a value, or the bracket that opens it, may stand where t
// is wanted. What t decodes by itself is its own affair.
func (w *walk) fits(t reflect.Type, token json.Token, at string) bool {
	if t = plain(t); t == nil || token == nil {
		return true
	}
	want := wanted(t)
	switch v := token.(type) {
	case json.Delim:
		if t.Kind() == reflect.Interface || v == '{' && want == anObject || v == '[' && want == aList {
			return true
		}
	case bool:
		if t.Kind() == reflect.Interface || t.Kind() == reflect.Bool {
			return true
		}
	case string:
		bytes := t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
		if t.Kind() == reflect.Interface || t.Kind() == reflect.String || bytes {
			return true
		}
	case json.Number:
		if numberFits(t, v.String()) {
			return true
		}
		return w.misfit(at, want, clip(v.String()))
	}
	return w.misfit(at, want, nil)
}

func (w *walk) misfit(at, want string, value any) bool {
	w.err = &step.Error{Kind: step.KindInvalid, Message: at + ": " + want, Fields: []step.FieldError{{Location: at, Message: want, Value: value}}}
	return false
}

func numberFits(t reflect.Type, text string) bool {
	var err error
	switch kind := t.Kind(); kind {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		_, err = strconv.ParseInt(text, 10, t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, err = strconv.ParseUint(text, 10, t.Bits())
	case reflect.Float32, reflect.Float64:
		_, err = strconv.ParseFloat(text, t.Bits())
	case reflect.Interface:
		_, err = strconv.ParseFloat(text, 64)
	default:
		return false
	}
	return err == nil
}

const (
	anObject = "must be an object"
	aList    = "must be a list"
)

// wanted says what a type takes.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return anObject
	case reflect.Slice, reflect.Array:
		return aList
	case reflect.String:
		return "must be text"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := int64(math.MaxInt64) >> (64 - t.Bits())
		return fmt.Sprintf("must be a whole number, written in digits alone, from %d to %d", -most-1, most)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("must be a whole number, written in digits alone, from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	}
	return fmt.Sprintf("must be a number within ±%.2g", math.MaxFloat64)
}
