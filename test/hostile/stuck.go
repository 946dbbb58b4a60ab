package hostile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nofx-run/nofx/sdk/step"
)

// freezer holds processes in a way that not even SIGKILL gets through to, as a
// file system that hangs does. With cgroup v2 alone nothing is that cruel.
const freezer = "/sys/fs/cgroup/freezer"

// stuck: a task that the kernel does not let go of holds up nothing else.
func stuck() []Row {
	return []Row{{ID: "H35", Name: "a task that cannot be killed", Host: true, Play: unkillable}}
}

// unkillable has a step's process be one that cannot be killed. The step ends all
// the same, others run and a sweep comes to its end meanwhile; once the process
// can be killed it is, with all that was the step's.
func unkillable(p *play) (seen, wrong string) {
	if _, err := os.Stat(filepath.Join(freezer, "tasks")); err != nil {
		return notTried + ": no freezer of cgroup v1", "" // and in version 2 a frozen process can be killed
	}
	mark := "7327" + strconv.Itoa(len(p.level.driver)) // levels run one after the other, and a failed one may leave it
	s := p.step("stuck", "sleep "+mark+" & wait", nil)
	s.TimeoutMS = 8000
	id, err := p.submit(s)
	if err != nil {
		return "", err.Error()
	}
	pid := 0
	p.s.Eventually("the process is there", func() bool { pid = process("sleep\x00" + mark + "\x00"); return pid != 0 })
	group, err := os.MkdirTemp(freezer, "nofxtest_")
	if err != nil {
		return "", err.Error()
	}
	put := func(file, text string) {
		if err := os.WriteFile(filepath.Join(group, file), []byte(text), 0o600); err != nil {
			p.t.Error(err)
		}
	}
	put("cgroup.procs", strconv.Itoa(pid))
	put("freezer.state", "FROZEN")
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			put("freezer.state", "THAWED")
		}
	}
	defer func() {
		thaw()
		p.s.Eventually("the freezer's group is empty", func() bool { return os.Remove(group) == nil })
	}()
	d := p.wait(id)
	v := d.Steps[0].Verdict
	if v == nil || v.Cause != step.CauseTimeout {
		return string(d.Run.Status), "it has ended by" + verdicts(d)
	}
	if process("sleep\x00"+mark+"\x00") != pid {
		return v.String(), "the process was not stuck: nothing is proven"
	}
	if _, out, err := p.ran(p.step("another", "echo fine", nil)); err != nil || out != "fine\n" {
		return v.String(), fmt.Sprintf("another step meanwhile: %q %v", out, err)
	}
	if res := p.s.Nofx("", "sweep", "--data", filepath.Join(p.s.Dir, "worker")); res.Code != 0 {
		return v.String(), fmt.Sprintf("a sweep meanwhile: %+v", res)
	}
	thaw()
	p.s.Eventually("the process is gone", func() bool { return process("sleep\x00"+mark+"\x00") == 0 })
	return v.String(), "" // that nothing stays is looked at when all has ended
}

// process is the one with these words, 0 = none.
func process(words string) int {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0
	}
	for _, path := range all {
		if said, err := os.ReadFile(path); err == nil && bytes.Equal(said, []byte(words)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err == nil {
				return pid
			}
		}
	}
	return 0
}
