package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
)

// What went wrong beside a run's own end is told; it does not change how the
// command exits.
func TestExitTellsWhatIsBeside(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		code int
		want []string
	}{
		"code alone":   {code(1), 1, nil},
		"two beside":   {&actionError{errors.Join(errors.Join(code(1)), fmt.Errorf("purge: %w", errors.Join(errors.New("one"), errors.New("two"))))}, 1, []string{"purge: one; two"}},
		"one each":     {&actionError{errors.Join(errors.New("one"), code(7), errors.New("two"))}, 7, []string{"one", "two"}},
		"without code": {&actionError{errors.Join(errors.New("one"), errors.New("two"))}, 3, []string{"one; two"}},
	} {
		var stderr bytes.Buffer
		a := &app{Env: Env{Stderr: &stderr}, out: &kept{w: io.Discard}}
		got := a.exit(&cobra.Command{Use: "up"}, tc.err)
		want := ""
		for _, line := range tc.want {
			want += "nofx: " + line + "\n"
		}
		if got != tc.code || stderr.String() != want {
			t.Errorf("%s: %d %q, want %d %q", name, got, stderr.String(), tc.code, want)
		}
	}
}

// A reader that went away changes nothing; a disk that is full does.
func TestReaderThatWentAway(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want bool
	}{{nil, false}, {&fs.PathError{Err: syscall.EPIPE}, false}, {&fs.PathError{Err: syscall.ENOSPC}, true}} {
		out := &kept{w: failing{tc.err}}
		if n, err := out.Write([]byte("x")); n != 1 && !tc.want || (err != nil) != tc.want || (out.err != nil) != tc.want {
			t.Errorf("%v: %d %v, kept %v", tc.err, n, err, out.err)
		}
	}
}

type failing struct{ err error }

func (f failing) Write(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return len(p), nil
}
