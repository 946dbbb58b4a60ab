package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

func output(offset int64, data string) wire.Record {
	return wire.Record{Type: wire.RecordOutput, Output: &wire.OutputRecord{Stream: wire.Stdout, Offset: offset, Data: []byte(data)}}
}

func numbers(recs []wire.Record) []int64 {
	out := []int64{}
	for _, r := range recs {
		out = append(out, r.N)
	}
	return out
}

func mustOpen(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, rec wire.Record) {
	t.Helper()
	if _, err := j.Append(rec); err != nil {
		t.Fatal(err)
	}
}

func TestNumbersAndReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustOpen(t, dir)
	mustAppend(t, j, wire.Record{Type: wire.RecordStarted, Started: &wire.StartedRecord{Driver: "local"}})
	mustAppend(t, j, output(0, "hello\x00\xff"))
	mustAppend(t, j, output(7, "more"))
	if _, err := j.Append(output(3, "gap")); !step.Is(err, step.KindConflict) {
		t.Errorf("output that overlaps: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir)
	want := Position{Last: 3, Output: 11, Started: true}
	if diff := cmp.Diff(want, j.Position()); diff != "" {
		t.Error(diff)
	}
	mustAppend(t, j, wire.Record{Type: wire.RecordVerdict, Verdict: &wire.VerdictRecord{}})
	if _, err := j.Append(output(11, "late")); !step.Is(err, step.KindConflict) {
		t.Errorf("after the verdict: %v", err)
	}
	recs, err := j.Read(2, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{2, 3, 4}, numbers(recs)); diff != "" {
		t.Error(diff)
	}
	if string(recs[0].Output.Data) != "hello\x00\xff" {
		t.Errorf("data %q", recs[0].Output.Data)
	}
	if err := j.Ack(5); !step.Is(err, step.KindConflict) {
		t.Errorf("ack of what is not there: %v", err)
	}
}

// A crash of the host may leave any prefix of the file, and garbage behind it.
func TestTornTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustOpen(t, dir)
	mustAppend(t, j, output(0, "first"))
	mustAppend(t, j, output(5, "second"))
	file := j.segments[0].file.Name()
	whole := j.segments[0].at[1]
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := whole; cut < int64(len(raw)); cut++ {
		for _, tail := range []string{"", "garbage garbage", "\x00\x00\x00\x00\x00\x00\x00\x00"} {
			d := t.TempDir()
			if err := os.WriteFile(filepath.Join(d, filepath.Base(file)), append(bytes.Clone(raw[:cut]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			j := mustOpen(t, d)
			if p := j.Position(); p.Last != 1 || p.Output != 5 {
				t.Fatalf("cut at %d with %q: %+v", cut, tail, p)
			}
			mustAppend(t, j, output(5, "again"))
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if p := mustOpen(t, d).Position(); p.Last != 2 || p.Output != 10 {
				t.Fatalf("cut at %d with %q, after going on: %+v", cut, tail, p)
			}
		}
	}
}

func TestAcknowledgedSegmentsGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustOpen(t, dir)
	data := string(bytes.Repeat([]byte("x"), 512<<10))
	for i := range 40 { // about 28 MB as JSON
		mustAppend(t, j, output(int64(i*len(data)), data))
	}
	if len(j.segments) < 3 {
		t.Fatalf("%d segments", len(j.segments))
	}
	recs, err := j.Read(1, 2<<20)
	if err != nil || len(recs) < 1 || len(recs) > 3 {
		t.Fatalf("a page of %d records, %v", len(recs), err)
	}
	if err := j.Ack(39); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = mustOpen(t, dir)
	if p := j.Position(); p.Last != 40 {
		t.Errorf("after reopening: %+v", p)
	}
	if err := j.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is left: %v", err)
	}
}

// Whatever the order of appends, acks, reads and restarts: numbers are
// contiguous, and what was not acknowledged can be read.
func TestModel(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "j")
		if err != nil {
			rt.Fatal(err)
		}
		j, err := Open(dir, nil)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = j.Remove() }()
		var wrote []string
		var acked, size int64
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				data := rapid.StringN(1, 50, 200).Draw(rt, "data")
				if n, err := j.Append(output(size, data)); err != nil || n != int64(len(wrote)+1) {
					rt.Fatalf("number %d, %v", n, err)
				}
				wrote, size = append(wrote, data), size+int64(len(data))
			},
			"ack": func(rt *rapid.T) {
				acked = max(acked, int64(rapid.IntRange(0, len(wrote)).Draw(rt, "n")))
				if err := j.Ack(acked); err != nil {
					rt.Fatal(err)
				}
			},
			"restart": func(rt *rapid.T) {
				if err := j.Close(); err != nil {
					rt.Fatal(err)
				}
				if j, err = Open(dir, nil); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				var got []string
				for next := acked + 1; ; {
					recs, err := j.Read(next, 300)
					if err != nil {
						rt.Fatal(err)
					}
					if len(recs) == 0 {
						break
					}
					for _, r := range recs {
						if r.N != next {
							rt.Fatalf("record %d, want %d", r.N, next)
						}
						got = append(got, string(r.Output.Data))
						next++
					}
				}
				if diff := cmp.Diff(wrote[acked:], got); diff != "" && len(wrote) > int(acked) {
					rt.Fatal(diff)
				}
			},
		})
	})
}

// A journal that an earlier version left holds output as JSON like the rest.
func TestOutputAsJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := output(0, "hello")
	first.N = 1
	body, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = append(binary.BigEndian.AppendUint32(frame, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli))), body...)
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.journal"), frame, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if _, err := j.Append(output(5, "\x00\xff world")); err != nil {
		t.Fatal(err)
	}
	recs, err := j.Read(1, 1<<20)
	if err != nil || len(recs) != 2 || string(recs[0].Output.Data) != "hello" || string(recs[1].Output.Data) != "\x00\xff world" {
		t.Errorf("%+v, %v", recs, err)
	}
}

func TestDecodeBroken(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"\x01", "\x01\x00\x00\x00\x09{}", "\x01\xff\xff\xff\xff{}", "\x01\x00\x00\x00\x02{}data", "\x01\x00\x00\x00\x01{}", "{", "\x02"} {
		if rec, err := decode([]byte(body)); err == nil {
			t.Errorf("%q: %+v", body, rec)
		}
	}
}
