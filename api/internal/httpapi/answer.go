package httpapi

import (
	"net/http"
	"time"
)

// patience is how long the other end may keep a connection without doing its
// part: nobody who holds still, or goes away without a word, holds a
// connection for good.
type patience struct {
	sender time.Duration // with a whole body that no operation gives more time
	reader time.Duration // with each piece of an answer
}

func defaultPatience() patience { return patience{sender: bodyTimeout, reader: 30 * time.Second} }

// pieceBytes is what even a slow reader takes in its time.
const pieceBytes = 16 << 10

// answer remembers what was sent. A slow reader has its time anew for each piece.
type answer struct {
	http.ResponseWriter
	status   int
	control  *http.ResponseController
	patience time.Duration
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.wait()
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	for n := 0; ; {
		a.wait()
		m, err := a.ResponseWriter.Write(p[n:min(n+pieceBytes, len(p))])
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

func (a *answer) wait() {
	_ = a.control.SetWriteDeadline(time.Now().Add(a.patience)) // a connection without deadlines needs none
}

// Unwrap lets http.ResponseController find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
