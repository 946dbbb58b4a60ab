package render

import (
	"bytes"
	"strings"
)

const maxLine = 4096 // bytes of one line; longer ones are broken

// lines cuts a step's output into clean lines as it comes. A carriage return
// without a line feed, as progress bars send it, starts the line over.
type lines struct{ rest []byte }

func (l *lines) add(data []byte, emit func(string)) {
	l.rest = append(l.rest, data...)
	for {
		n := bytes.IndexByte(l.rest, '\n')
		if n < 0 {
			if len(l.rest) < maxLine {
				return
			}
			n = maxLine
			emit(tidy(l.rest[:n]))
			l.rest = l.rest[n:]
			continue
		}
		for part := range chunks(l.rest[:n]) {
			emit(tidy(part))
		}
		l.rest = l.rest[n+1:]
	}
}

// flush gives what has no line end yet.
func (l *lines) flush(emit func(string)) {
	if len(l.rest) > 0 {
		emit(tidy(l.rest))
		l.rest = nil
	}
}

// chunks yields line in pieces of at most maxLine, an empty one for an empty
// line.
func chunks(line []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(line) > maxLine {
			if !yield(line[:maxLine]) {
				return
			}
			line = line[maxLine:]
		}
		yield(line)
	}
}

func tidy(line []byte) string {
	s := strings.TrimSuffix(string(line), "\r")
	return Clean(s[strings.LastIndexByte(s, '\r')+1:])
}
