package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// socketEnv has this test binary be a daemon that listens there.
const socketEnv = "NOFX_TEST_DAEMON_SOCKET"

func TestMain(m *testing.M) {
	if socket := os.Getenv(socketEnv); socket != "" {
		l, err := net.Listen("unix", socket)
		if err != nil {
			panic(err)
		}
		fmt.Println("listening")
		panic(http.Serve(l, http.NotFoundHandler())) //nolint:gosec // a test's
	}
	os.Exit(m.Run())
}

// A daemon that is stopped still has its calls taken by the kernel. It is not
// waited for, and the error says which process it is and what to do.
func TestSweepOfAStoppedDaemon(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "nofxd.sock")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), socketEnv+"="+socket)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !stopped(int64(cmd.Process.Pid)); {
		if time.Now().After(end) {
			t.Fatal("it is not stopped")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	_, err = (&hostDaemon{socket: socket, patience: 200 * time.Millisecond, every: time.Second}).sweep(ctx, true)
	want := fmt.Sprintf("process %d, which is stopped and gave no answer within 200ms; to have it go on, type: kill -CONT %d", cmd.Process.Pid, cmd.Process.Pid)
	if !step.Is(err, step.KindUnavailable) || !strings.Contains(err.Error(), socket) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v", err)
	}
}

// One that falls silent in the middle of a sweep is given up as well; one that is
// only busy is not.
func TestSweepWaitsForWhoLives(t *testing.T) {
	t.Parallel()
	for _, silent := range []bool{false, true} {
		socket := filepath.Join(t.TempDir(), "nofxd.sock")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan struct{}, 100)
		end := make(chan struct{})
		var mux http.ServeMux
		mux.HandleFunc("GET /alive", func(w http.ResponseWriter, r *http.Request) {
			select {
			case asked <- struct{}{}:
			default:
			}
			if len(asked) > 1 && silent {
				<-end
			}
			w.WriteHeader(http.StatusNoContent)
		})
		mux.HandleFunc("POST /sweep", func(w http.ResponseWriter, r *http.Request) {
			for len(asked) < 4 && !silent { // it takes longer than a sign of life may
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Millisecond):
				}
			}
			if silent {
				<-end
			}
			_ = json.NewEncoder(w).Encode(wire.SweepReport{Items: []wire.SweepItem{{Kind: "cgroup", Name: "a", Removed: true}}})
		})
		server := &http.Server{Handler: &mux, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(l) }()
		d := &hostDaemon{socket: socket, patience: time.Minute, every: 10 * time.Millisecond}
		if silent {
			d.patience = 200 * time.Millisecond
		}
		report, err := d.sweep(t.Context(), false)
		close(end)
		_ = server.Close()
		switch {
		case !silent && (err != nil || len(report.Items) != 1):
			t.Errorf("one that is busy: %+v, %v", report, err)
		case silent && (!step.Is(err, step.KindUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("process %d, gave no answer", os.Getpid()))):
			t.Errorf("one that fell silent: %v", err)
		}
	}
}

func TestSweepWithoutADaemon(t *testing.T) {
	t.Parallel()
	_, err := (&hostDaemon{socket: filepath.Join(t.TempDir(), "nofxd.sock"), patience: time.Minute, every: time.Second}).sweep(t.Context(), true)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "is it running, are you root") {
		t.Errorf("%v", err)
	}
}
