package supervise

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

const (
	maxLogBytes = 16 << 20 // a log grows to this, then moves to NAME.log.1
	rotateEvery = 5 * time.Second
	maxLogRead  = 4 << 20
)

// openLog opens a log for appending. The children get this very file, so each
// of their writes lands at the end, wherever a rotation has put it.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
}

// rotate keeps the log within its bound until ctx is done: it copies it to
// NAME.log.1 and empties it. Lines written between the two are lost, which is
// the price for children that do not know about it.
func (c *Child) rotate(ctx context.Context, logfile *os.File) {
	ticker := time.NewTicker(rotateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := rotateOnce(logfile, maxLogBytes); err != nil {
			c.log.Warn("log rotation failed", "process", c.spec.Name, "err", err)
		}
	}
}

func rotateOnce(logfile *os.File, limit int64) error {
	info, err := logfile.Stat()
	if err != nil || info.Size() < limit {
		return err
	}
	old, err := os.OpenFile(logfile.Name()+".1", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	// The newest part is kept where a flood has outrun the ticker.
	from := max(0, info.Size()-limit)
	_, err = io.Copy(old, io.NewSectionReader(logfile, from, info.Size()-from))
	return errors.Join(err, old.Close(), logfile.Truncate(0))
}

// ReadLines gives each complete line of the log at path from offset on to
// line, which must not keep it, and returns the offset behind the last one.
func ReadLines(path string, offset int64, line func([]byte)) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return offset, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return offset, err
	}
	body, err := io.ReadAll(io.LimitReader(f, maxLogRead))
	if err != nil {
		return offset, err
	}
	for {
		n := bytes.IndexByte(body, '\n')
		if n < 0 {
			return offset, nil
		}
		line(body[:n])
		body, offset = body[n+1:], offset+int64(n)+1
	}
}

// Tail is the last line of the log at path, shortened, for an error message.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "no log"
	}
	const most = 2 << 10
	body, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return "no log"
	}
	body = bytes.TrimSpace(body)
	return string(body[bytes.LastIndexByte(body, '\n')+1:])
}
