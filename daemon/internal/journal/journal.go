// Package journal keeps the records of attempts on disk until the API has
// them: numbered 1..n, each framed with its length and checksum, in segment
// files that are dropped once every record in them is acknowledged.
//
// A record is in the kernel's hands when Append returns, so the sudden death
// of the daemon loses nothing. Records are not synced to the disk one by one:
// what a crash of the whole host could lose belongs to attempts whose
// sandboxes died with the host, and the API ends those as lost. A torn tail,
// which only such a crash leaves, is cut off when the journal is opened again.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	segmentSize = 8 << 20 // bytes after which a new segment begins
	maxRecord   = 1 << 20 // bytes of one encoded record
	header      = 8       // length and checksum, 4 bytes each
	suffix      = ".journal"
)

// checksum is CRC-32C, whose table the standard library makes once.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Journal is the record stream of one attempt. It is safe for concurrent use.
type Journal struct {
	dir     string
	reserve *Reserve

	mu       sync.Mutex
	segments []*segment // in order; the last one is written to
	last     int64      // number of the newest record
	acked    int64
	output   int64 // bytes of output in the records so far
	started  bool
	verdict  bool
	closed   bool
	frame    []byte // that of the last record: the next one's place
}

// segment is one file: records first .. first+len(at)-1, each at its offset.
type segment struct {
	file  *os.File
	first int64
	at    []int64
	size  int64
}

// Open opens the journal in the folder dir, which is made if it is missing,
// and cuts off a torn tail. Its verdict goes to the reserve, if there is one,
// when the disk is full.
func Open(dir string, r *Reserve) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var firsts []int64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("journal %s: %s is not a segment", dir, e.Name())
		}
		firsts = append(firsts, n)
	}
	sort.Slice(firsts, func(i, j int) bool { return firsts[i] < firsts[j] })
	j := &Journal{dir: dir, reserve: r}
	for i, first := range firsts {
		if i == 0 {
			j.last, j.acked = first-1, first-1
		}
		if err := j.load(first); err != nil {
			return nil, errors.Join(err, j.Close())
		}
	}
	return j, nil
}

// load reads a segment and keeps what is whole and in order.
func (j *Journal) load(first int64) error {
	f, err := os.OpenFile(j.path(first), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s := &segment{file: f, first: first}
	j.segments = append(j.segments, s)
	if first != j.last+1 {
		return fmt.Errorf("journal %s: records %d to %d are missing", j.dir, j.last+1, first-1)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for {
		rec, next, err := s.read(s.size, info.Size())
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return err
		}
		if rec.N != j.last+1 {
			return fmt.Errorf("journal %s: record %d stands where %d should", j.dir, rec.N, j.last+1)
		}
		s.at = append(s.at, s.size)
		s.size = next
		j.note(rec)
	}
	return f.Truncate(s.size)
}

// errTorn says that no whole record follows.
var errTorn = errors.New("torn record")

// read decodes the record at an offset of a segment that has end bytes.
func (s *segment) read(at, end int64) (rec wire.Record, next int64, err error) {
	var head [header]byte
	if at+header > end {
		return rec, 0, errTorn
	}
	if _, err := s.file.ReadAt(head[:], at); err != nil {
		return rec, 0, err
	}
	size := int64(binary.BigEndian.Uint32(head[:4]))
	if size == 0 || size > maxRecord || at+header+size > end {
		return rec, 0, errTorn
	}
	body := make([]byte, size)
	if _, err := s.file.ReadAt(body, at+header); err != nil {
		return rec, 0, err
	}
	if checksum(body) != binary.BigEndian.Uint32(head[4:]) {
		return rec, 0, errTorn
	}
	rec, err = decode(body)
	return rec, at + header + size, err
}

// note keeps in mind what a record means for the journal.
func (j *Journal) note(rec wire.Record) {
	j.last = rec.N
	switch {
	case rec.Started != nil:
		j.started = true
	case rec.Output != nil:
		j.output += int64(len(rec.Output.Data))
	case rec.Verdict != nil:
		j.verdict = true
	}
}

// Append numbers the record and writes it. Output must follow on what is
// there, and nothing follows a verdict: conflict.
func (j *Journal) Append(rec wire.Record) (n int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return 0, os.ErrClosed
	case j.verdict:
		return 0, step.Errorf(step.KindConflict, "the journal has ended with a verdict")
	case rec.Output != nil && rec.Output.Offset != j.output:
		return 0, step.Errorf(step.KindConflict, "output at %d does not follow on %d", rec.Output.Offset, j.output)
	}
	rec.N = j.last + 1
	frame, err := encode(j.frame[:0], rec)
	if err != nil {
		return 0, err
	}
	j.frame = frame
	s, err := j.write(frame)
	if rec.Verdict != nil && Full(err) {
		s, err = j.writeReserved(frame)
	}
	if err != nil {
		return 0, err
	}
	s.at = append(s.at, s.size)
	s.size += int64(len(frame))
	j.note(rec)
	return rec.N, nil
}

// write puts a frame behind the last one. What was written of one that failed is
// overwritten, or cut off as torn.
func (j *Journal) write(frame []byte) (*segment, error) {
	s, err := j.writable()
	if err == nil {
		_, err = s.file.WriteAt(frame, s.size)
	}
	return s, err
}

// writeReserved puts a frame into a segment that has had its room on the disk
// all along.
func (j *Journal) writeReserved(frame []byte) (*segment, error) {
	f, err := j.reserve.give(j.path(j.last + 1))
	if err != nil {
		return nil, err
	}
	s := &segment{file: f, first: j.last + 1}
	if n := len(j.segments); n > 0 && j.segments[n-1].first == s.first { // it is in the place of one with no whole record
		_ = j.segments[n-1].file.Close()
		j.segments = j.segments[:n-1]
	}
	j.segments = append(j.segments, s)
	_, err = f.WriteAt(frame, 0)
	return s, err
}

// writable is the segment that the next record goes into.
func (j *Journal) writable() (*segment, error) {
	if n := len(j.segments); n > 0 && j.segments[n-1].size < segmentSize {
		return j.segments[n-1], nil
	}
	f, err := os.OpenFile(j.path(j.last+1), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	s := &segment{file: f, first: j.last + 1}
	j.segments = append(j.segments, s)
	return s, nil
}

// Read returns records from number from on, at most about limit bytes of them
// but at least one if there is one.
func (j *Journal) Read(from int64, limit int) ([]wire.Record, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, os.ErrClosed
	}
	var out []wire.Record
	for _, s := range j.segments {
		for i := max(from-s.first, 0); i < int64(len(s.at)); i++ {
			rec, next, err := s.read(s.at[i], s.size)
			if err != nil {
				return nil, fmt.Errorf("journal %s: record %d: %w", j.dir, s.first+i, err)
			}
			size := int(next - s.at[i])
			if len(out) > 0 && size > limit {
				return out, nil
			}
			limit -= size
			out = append(out, rec)
		}
	}
	return out, nil
}

// Ack drops the segments whose records are all at most n. A number that is
// not there yet is a conflict.
func (j *Journal) Ack(n int64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n > j.last {
		return step.Errorf(step.KindConflict, "record %d is acknowledged, but %d is the last", n, j.last)
	}
	j.acked = max(j.acked, n)
	for len(j.segments) > 1 && j.segments[1].first <= j.acked+1 {
		s := j.segments[0]
		if err := errors.Join(s.file.Close(), os.Remove(s.file.Name())); err != nil {
			return err
		}
		j.segments = j.segments[1:]
	}
	return nil
}

// Position says how far the journal is.
type Position struct {
	Last    int64 // number of the newest record
	Acked   int64 // as far as this process knows
	Output  int64 // bytes of output recorded
	Started bool
	Verdict bool
}

// Position says how far the journal is.
func (j *Journal) Position() Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Position{Last: j.last, Acked: j.acked, Output: j.output, Started: j.started, Verdict: j.verdict}
}

// Sync brings everything to the disk, so that it survives the host too.
func (j *Journal) Sync() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.segments); n > 0 && !j.closed {
		return j.segments[n-1].file.Sync()
	}
	return nil
}

// Close closes the files; the journal stays on disk.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	var errs []error
	for _, s := range j.segments {
		errs = append(errs, s.file.Close())
	}
	j.segments = nil
	return errors.Join(errs...)
}

// Remove closes the journal and deletes it from the disk.
func (j *Journal) Remove() error {
	return errors.Join(j.Close(), os.RemoveAll(j.dir), j.reserve.fill())
}

func (j *Journal) path(first int64) string {
	return filepath.Join(j.dir, fmt.Sprintf("%020d%s", first, suffix))
}

var _ io.Closer = (*Journal)(nil)
