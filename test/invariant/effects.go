package invariant

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// effectsFile is where steps leave their signs of life, in their workspace.
const effectsFile = "effects"

// Script is a shell script for a step of that name, which must be a plain word:
// it leaves its signs of life, writes the lines of Lines, a beat apart each, and
// ends well. between runs in the middle.
func Script(name string, lines int, between string) string {
	return fmt.Sprintf(`x=$(cat /proc/sys/kernel/random/uuid)
say() { read -r up idle </proc/uptime; echo "%[1]s $x $1 $up" >>/workspace/%[2]s; }
lines() { i=$1; while [ $i -le $2 ]; do say beat; echo "%[1]s line $i"; i=$((i+1)); sleep %.2[3]f; done; }
say begin
lines 1 %[4]d
%[5]s
lines %[6]d %[7]d
say end
`, name, effectsFile, beat.Seconds(), lines/2, between, lines/2+1, lines)
}

const beat = 30 * time.Millisecond

// Lines is what Script writes.
func Lines(name string, lines int) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, "%s line %d\n", name, i+1)
	}
	return b.String()
}

// Recorder keeps the signs of life of steps on one host. It holds their files
// open, so that it works for workspaces that are plain folders, and would keep a
// volume from being unmounted.
type Recorder struct {
	// Torn says that the disk may be full at times, which tears lines: those
	// are no signs. Otherwise a line that is none is an error.
	Torn bool

	root string // the folder with the workspaces of runs
	stop chan struct{}
	done chan struct{}

	mu    sync.Mutex
	files map[uint64]recorded // by inode
	err   error
}

type recorded struct {
	run  string
	file *os.File
}

// Record begins with a worker's folder of workspaces, which need not be there
// yet. Close ends it.
func Record(root string) *Recorder {
	r := &Recorder{root: root, stop: make(chan struct{}), done: make(chan struct{}), files: map[uint64]recorded{}}
	go r.watch()
	return r
}

func (r *Recorder) watch() {
	defer close(r.done)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := r.look(); err != nil {
			r.mu.Lock()
			r.err = errors.Join(r.err, err)
			r.mu.Unlock()
			return
		}
		select {
		case <-tick.C:
		case <-r.stop:
			return
		}
	}
}

func (r *Recorder) look() error {
	entries, err := os.ReadDir(r.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		run := strings.TrimPrefix(e.Name(), ".gone-") // one that is just being removed
		path := filepath.Join(r.root, e.Name(), effectsFile)
		var st syscall.Stat_t
		if syscall.Lstat(path, &st) != nil {
			continue
		}
		if f, known := r.files[st.Ino]; known && f.run == run {
			continue
		}
		// A step may put anything there.
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := syscall.Fstat(int(file.Fd()), &st); err != nil {
			return err
		}
		r.files[st.Ino] = recorded{run, file}
	}
	return nil
}

// Effects is what there is so far. A workspace that was put together again has
// what an earlier one had: each is there once.
func (r *Recorder) Effects() ([]Effect, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	var all []Effect
	known := map[Effect]bool{}
	for _, f := range r.files {
		info, err := f.file.Stat()
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.NewSectionReader(f.file, 0, info.Size()))
		if err != nil {
			return nil, err
		}
		for text := range strings.Lines(string(data)) {
			e, err := parseEffect(f.run, text)
			if err != nil && r.Torn {
				continue
			}
			if err != nil {
				return nil, err
			}
			if !known[e] {
				known[e] = true
				all = append(all, e)
			}
		}
	}
	return all, nil
}

func parseEffect(run, text string) (Effect, error) {
	f := strings.Fields(text)
	if len(f) != 4 || !strings.HasSuffix(text, "\n") {
		return Effect{}, fmt.Errorf("run %s: no sign of life: %.100q", run, text)
	}
	at, err := strconv.ParseFloat(f[3], 64)
	return Effect{RunID: run, Step: f[0], Execution: f[1], Kind: EffectKind(f[2]), At: at}, err
}

// Close ends the recording.
func (r *Recorder) Close() {
	close(r.stop)
	<-r.done
	for _, f := range r.files {
		_ = f.file.Close()
	}
}
