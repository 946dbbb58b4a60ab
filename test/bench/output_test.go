package bench

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

const (
	storedSize = 128 << 20
	zeroKey    = "00000000000000000000000000000000"
)

// noise is a script that writes storedSize bytes, of which no two places are
// alike, faster than any pipe takes them.
var noise = fmt.Sprintf("head -c %d /dev/zero | openssl enc -aes-128-ctr -nosalt -K %s -iv %s", storedSize, zeroKey, zeroKey)

// noiseSum is the sha256 of what it writes.
func noiseSum() string {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		panic(err) // the key has its length
	}
	stream, sum, piece := cipher.NewCTR(block, make([]byte, 16)), sha256.New(), make([]byte, 1<<20)
	for range storedSize / len(piece) {
		clear(piece)
		stream.XORKeyStream(piece, piece)
		sum.Write(piece)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// BenchmarkStoredOutput is the output of one step, from the program to where the
// API keeps it, in turns with a bare pipe from the same program into a file
// beside that, synced once. All that was stored is read back and compared.
func BenchmarkStoredOutput(b *testing.B) {
	const warmup, rounds = 1, 7
	s := harness.Start(b)
	inputs, err := json.Marshal(map[string]any{"command": noise, "timeout": 120000})
	if err != nil {
		b.Fatal(err)
	}
	said := wire.PlanStep{Name: "say", Tool: "bash", Workspace: step.WorkspaceStep, Inputs: inputs,
		Resources: &step.Resources{CPU: 2, OutputKB: storedSize>>10 + 1}}
	var runs []string
	programs := []string{"nofxd", "nofx-api", "nofx-driver-local"}
	cost := map[string]time.Duration{}
	standing := Turns{Warmup: warmup, Rounds: rounds, Rest: time.Second, Ours: []func() time.Duration{used(s)}}.Run(b,
		Contender{Name: "stored", Run: func(ctx context.Context) error {
			for _, p := range programs {
				cost[p] -= ticks(s.Pid(p))
			}
			id, err := complete(ctx, s, said)
			for _, p := range programs {
				cost[p] += ticks(s.Pid(p))
			}
			runs = append(runs, id)
			return err
		}},
		Contender{Name: "pipe", Lacks: "sandbox, caps, driver, journal, TLS, index, a sync for each piece, events", Run: func(ctx context.Context) error {
			return pipeTo(ctx, filepath.Join(s.Dir, "blobs", "bare"))
		}},
	)
	standing.Report(fmt.Sprintf("%d MiB; stored: POST to the run's terminal event, after which all of it can be read", storedSize>>20))
	rate := func(name string) float64 { return storedSize / 1e3 / standing.Of(name).Quantile(0.5) } // MB/s from ms
	for _, name := range []string{"stored", "pipe"} {
		b.ReportMetric(rate(name), name+"-MB/s")
	}
	for _, p := range programs {
		b.ReportMetric(float64(cost[p].Milliseconds())/float64(len(runs))/(storedSize>>20), p+"-ms/MiB")
	}
	standing.Gate.Ratio("stored/pipe", rate("stored")/rate("pipe"))
	want := noiseSum()
	for _, id := range runs {
		if err := intact(b.Context(), s, id, want); err != nil {
			b.Errorf("run %s: %v", id, err)
		}
	}
}

// pipeTo reads the program's output from a pipe into a new file.
func pipeTo(ctx context.Context, path string) (err error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", noise)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	if err := cmd.Start(); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, out, make([]byte, 256<<10)) // by read and write, without splice
	if err == nil && n != storedSize {
		err = fmt.Errorf("%d bytes came", n)
	}
	return errors.Join(err, cmd.Wait(), f.Sync())
}

// intact reads a step's output through the API.
func intact(ctx context.Context, s *harness.System, run, want string) error {
	detail, err := s.API().Run(ctx, run)
	if err != nil {
		return err
	}
	sum, at := sha256.New(), int64(0)
	for done := false; !done; {
		page, err := s.API().Output(ctx, run, detail.Steps[0].ID, at)
		if err != nil {
			return err
		}
		for _, c := range page.Chunks {
			if c.Offset != at || c.Stream != wire.Stdout {
				return fmt.Errorf("a piece of %s at %d, expected at %d", c.Stream, c.Offset, at)
			}
			sum.Write(c.Data)
			at += int64(len(c.Data))
		}
		if page.NextOffset != at || len(page.Chunks) == 0 && !page.Done {
			return fmt.Errorf("the page before %d ends at %d", page.NextOffset, at)
		}
		done = page.Done
	}
	if got := hex.EncodeToString(sum.Sum(nil)); at != storedSize || got != want {
		return fmt.Errorf("%d bytes with the sum %s, want %d with %s", at, got, storedSize, want)
	}
	return nil
}
