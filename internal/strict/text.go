package strict

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// changed says why a text is not what its document has; "" = it is. The decoder
// puts U+FFFD for what is no text, so that only those that have one are looked
// at, in raw: the text as it is written, and what separates it from the token
// before.
func changed(text string, raw []byte) string {
	if !strings.ContainsRune(text, utf8.RuneError) {
		return ""
	}
	if !utf8.Valid(raw) {
		return "is not UTF-8"
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		first := escaped(raw[i:])
		i++ // what is escaped says nothing more by itself
		if !utf16.IsSurrogate(first) {
			continue
		}
		i += 4
		if utf16.DecodeRune(first, escaped(raw[i+1:])) == utf8.RuneError {
			return `has a \u escape that is half of a pair`
		}
		i += 6
	}
	return ""
}

// escaped is the code that a \u escape at the start of raw has; 0 = there is none.
func escaped(raw []byte) rune {
	if len(raw) < 6 || raw[0] != '\\' || raw[1] != 'u' {
		return 0
	}
	code, err := strconv.ParseUint(string(raw[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(code)
}
