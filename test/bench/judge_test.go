package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/wire"
	"github.com/nofx-run/nofx/test/e2e/harness"
)

// BenchmarkRuns is how many programs are run in a second for clients that ask
// over HTTP and wait for the end: by the whole system, in runs of one step and
// of twenty, each step in a fresh sandbox and its verdict committed, and by
// go-judge, which keeps its containers for the next program, and nothing on
// disk. sandboxes is as many at once as the system has slots, with nothing
// around them: what it could reach at most.
func BenchmarkRuns(b *testing.B) {
	const (
		turns   = 4
		span    = 5 * time.Second
		clients = 16
		batch   = 20
	)
	s := harness.Start(b)
	confined(b, s)
	alone := &throughput{name: "sandboxes", each: 1, clients: 8 * runtime.NumCPU(), ask: newBareBox(b, s.Bin).run}
	var twenty []wire.PlanStep
	for i := range batch {
		twenty = append(twenty, trueStep(fmt.Sprint("s", i)))
	}
	contenders := []*throughput{
		{name: "runs-of-1", each: 1, clients: clients, ask: func(ctx context.Context) error { return finish(ctx, s, trueStep("a")) }},
		{name: "runs-of-20", each: batch, clients: 8, ask: func(ctx context.Context) error { return finish(ctx, s, twenty...) }},
	}
	var judges []*throughput
	if path := judgePath(b); path == "" {
		b.Log("go-judge: not there")
	} else {
		// As many at once as it has by default, one a core, and as many as we have.
		for _, slots := range []int{runtime.NumCPU(), 8 * runtime.NumCPU()} {
			j := startJudge(b, path, slots)
			judges = append(judges, &throughput{name: fmt.Sprintf("go-judge-%d-at-once", slots), each: 1, clients: clients, ask: j.run})
		}
	}
	gate := race(b, used(s), turns, span, append(append(contenders, alone), judges...))
	for _, ours := range contenders {
		gate.Ratio(ours.name+"/sandboxes", ours.median()/alone.median())
		best := 0.0
		for _, j := range judges {
			best = max(best, j.median())
		}
		if best > 0 {
			gate.Ratio(ours.name+"/go-judge", ours.median()/best)
		}
	}
	memory(b, s)
}

// judgePath is where go-judge is: in bin/ or on the path, "" = nowhere.
func judgePath(b *testing.B) string {
	b.Helper()
	path, err := exec.LookPath(filepath.Join(binaries(b), "go-judge"))
	if err != nil {
		path, err = exec.LookPath("go-judge")
	}
	if err != nil {
		return ""
	}
	return path
}

// judge is a go-judge that listens on loopback alone.
type judge struct {
	http *http.Client
	url  string
}

// startJudge starts one with its own defaults but for how many it runs at once.
func startJudge(b *testing.B, path string, slots int) *judge {
	b.Helper()
	l, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil { // it wants a port that is free
		b.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), path, "-http-addr="+addr, fmt.Sprint("-parallelism=", slots), "-release", "-silent",
		"-cgroup-prefix=nofx-bench-judge-"+fmt.Sprint(os.Getpid(), "-", slots))
	cmd.Dir = b.TempDir() // where it finds no configuration of anybody's
	out, done, err := begin(cmd)
	if err != nil {
		b.Fatal(err)
	}
	go func() { _, _ = io.Copy(logged{b}, out) }()
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(stopTime, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		<-done
	})
	j := &judge{url: "http://" + addr, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	b.Cleanup(j.http.CloseIdleConnections)
	begun := time.Now()
	for err = j.run(b.Context()); err != nil; err = j.run(b.Context()) {
		if time.Since(begun) > stopTime {
			b.Fatalf("go-judge: %v", err)
		}
		pause(b.Context(), 20*time.Millisecond)
	}
	return j
}

// run asks for one program, with the caps that a step has by default.
func (j *judge) run(ctx context.Context) error {
	type file struct {
		Name    string  `json:"name,omitempty"`
		Content *string `json:"content,omitempty"`
		Max     int     `json:"max,omitempty"`
	}
	const output = 10 << 20
	none := ""
	body, err := json.Marshal(map[string]any{"cmd": []map[string]any{{
		"args": []string{"/bin/true"}, "env": []string{"PATH=/usr/bin:/bin"},
		"files":    []file{{Content: &none}, {Name: "stdout", Max: output}, {Name: "stderr", Max: output}},
		"cpuLimit": 30 * time.Second, "clockLimit": 30 * time.Second, "memoryLimit": 512 << 20, "procLimit": 256,
	}}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, j.url+"/run", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := j.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var results []struct {
		Status     string
		ExitStatus int
	}
	if err := json.Unmarshal(text, &results); err != nil || resp.StatusCode != http.StatusOK || len(results) != 1 || results[0].Status != "Accepted" {
		return fmt.Errorf("%s: %.500s", resp.Status, text)
	}
	return nil
}
