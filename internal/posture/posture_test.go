package posture

import (
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func probePath(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe")
	if err := Build(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// From inside and from outside the same process looks the same.
func TestBothSides(t *testing.T) {
	t.Parallel()
	ref, err := Here(map[string]string{"0": "root"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ref.Unconfined(t.Context(), probePath(t))
	if err != nil {
		t.Fatal(err)
	}
	here := ref.Of(ref.Host)
	if len(p.Threads) != 1 || p.Threads[0].UID != "root root root root" || !p.Dumpable || len(p.Limits) != 16 {
		t.Errorf("the probe: %+v", p)
	}
	if diff := cmp.Diff(here.Namespaces, p.Namespaces); diff != "" || p.Namespaces["user"] != "host" || len(p.Namespaces) < 8 {
		t.Errorf("namespaces %v: %s", p.Namespaces, diff)
	}
	if a, b := here.Threads[0], p.Threads[0]; a.CapEffective != b.CapEffective || a.CapBounding != b.CapBounding || a.NoNewPrivileges != b.NoNewPrivileges || a.Seccomp != b.Seccomp {
		t.Errorf("%+v and %+v", a, b)
	}
}

const sample = "36 25 8:1 /srv/image /bin ro,nosuid,relatime shared:7 master:1 - ext4 /dev/sda1 rw\n" +
	"37 25 0:30 / /tmp rw,nosuid,nodev - tmpfs tmpfs rw,size=16384k,uid=5\n38 25 0:5 /null /proc/self ro,nosuid - tmpfs x rw,size=64k\n"

func good() (Reference, Raw) {
	raw := Raw{
		"status/7": "Tgid:\t7\nPid:\t7\nUid:\t5 5 5 5\nGid:\t5 5 5 5\nGroups:\t\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t0\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\nUmask:\t0022\nSigBlk:\t0\nSigIgn:\t0\n",
		"prctl/7":  "195 1", "oom_score_adj": "200\n", "uid_map": "0 4 1\n", "gid_map": "0 4 1\n", "setgroups": "deny\n",
		"stat": "7 (a) b) R 1 7 7 0 -1", "ns": "mnt mnt:[2]\nnet net:[3]\n", "fd": "10 pipe w\n0 char:1:3 r\n", "mountinfo": sample, "owner": "5",
		"limits": "Limit                     Soft Limit           Hard Limit           Units     \nMax cpu time              unlimited            unlimited            seconds   \nMax open files            1024                 16384                files     \n",
	}
	raw["status/8"] = strings.Replace(raw["status/7"], "Pid:\t7", "Pid:\t8", 1)
	raw["prctl/8"] = raw["prctl/7"]
	host := maps.Clone(raw)
	host["ns"] = "mnt mnt:[1]\nnet net:[1]\n"
	return Reference{Host: host, IDs: map[string]string{"5": "base+1", "4": "base"}}, raw
}

// Each thing that is looked at, when it is different, is a difference.
func TestCompareSeesEverything(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "golden.json")
	ref, raw := good()
	if err := Update(path, Set{"x": ref.Of(raw)}); err != nil {
		t.Fatal(err)
	}
	if diff, err := Compare(path, Set{"x": ref.Of(raw)}); err != nil || diff != "" {
		t.Fatalf("the same: %v %s", err, diff)
	}
	for what, c := range map[string]struct{ section, old, with, says string }{
		"uid":                        {"status/7", "5 5 5 5\nGid", "5 0 5 5\nGid", "base+1 0"},
		"a group":                    {"status/7", "Groups:\t", "Groups:\t42", "42"},
		"one thread's capability":    {"status/8", "CapEff:\t0", "CapEff:\t20", `"20"`},
		"bounding":                   {"status/7", "CapBnd:\t0", "CapBnd:\tff", `"ff"`},
		"ambient":                    {"status/7", "CapAmb:\t0", "CapAmb:\t1", "CapAmbient"},
		"inheritable":                {"status/7", "CapInh:\t0", "CapInh:\t1", "CapInheritable"},
		"permitted":                  {"status/7", "CapPrm:\t0", "CapPrm:\t1", "CapPermitted"},
		"no_new_privs":               {"status/7", "NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivileges"},
		"one thread's seccomp":       {"status/8", "Seccomp:\t2", "Seccomp:\t0", "Seccomp"},
		"filters":                    {"status/7", "filters:\t1", "filters:\t0", "SeccompFilters"},
		"securebits":                 {"prctl/8", "195", "0", "SecureBits"},
		"dumpable":                   {"prctl/*", " 1", " 0", "Dumpable"},
		"owner":                      {"owner", "5", "0", "ProcOwner"},
		"a terminal":                 {"stat", "7 7 0 -1", "7 7 34816 -1", "Terminal"},
		"oom_score_adj":              {"oom_score_adj", "200", "-1000", "-1000"},
		"uid map":                    {"uid_map", "4 1", "4 2", "base 2"},
		"setgroups":                  {"setgroups", "deny", "allow", "allow"},
		"the host's mounts":          {"ns", "mnt:[2]", "mnt:[1]", "host"},
		"the host's network":         {"ns", "net:[3]", "net:[1]", "host"},
		"a limit of ours":            {"limits", "1024 ", "2048 ", "2048 16384"},
		"a limit that was inherited": {"limits", "unlimited            unlimited            seconds", "10                   unlimited            seconds", "10 unlimited"},
		"a descriptor":               {"fd", "10 pipe w", "10 folder r", "10 folder r"},
		"one more":                   {"fd", "10 pipe w", "10 pipe w\n11 socket rw", "11 socket rw"},
		"writable":                   {"mountinfo", "ro,nosuid,relatime", "rw,nosuid,relatime", "/bin bind rw"},
		"suid":                       {"mountinfo", "ro,nosuid,relatime", "ro,relatime", "/bin bind ro"},
		"propagation":                {"mountinfo", "shared:7 ", "", "/bin bind ro,nosuid"},
		"a size":                     {"mountinfo", "size=16384k", "size=9g", "9g"},
		"no mask":                    {"mountinfo", "38 25 0:5 /null /proc/self ro,nosuid - tmpfs x rw,size=64k\n", "", "/proc/self bind"},
		"a writable mask":            {"mountinfo", "/proc/self ro", "/proc/self rw", "/proc/self bind rw"},
		"another mount":              {"mountinfo", "38 25", "39 25 8:1 / /host rw - ext4 x rw\n38 25", "/host disk rw"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ref, raw := good()
			changed := false
			for name := range raw {
				if ok, err := filepath.Match(c.section, name); err == nil && ok {
					changed = changed || strings.Contains(raw[name], c.old)
					raw[name] = strings.Replace(raw[name], c.old, c.with, 1)
				}
			}
			diff, err := Compare(path, Set{"x": ref.Of(raw)})
			if err != nil || !changed || !strings.Contains(diff, c.says) {
				t.Errorf("%v, changed %t, the difference does not say %q: %s", err, changed, c.says, diff)
			}
		})
	}
}

// What the host chooses is no difference: the kernel's files, the disks, ids.
func TestCompareLeavesOutTheHost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "golden.json")
	ref, raw := good()
	with := maps.Clone(raw)
	with["mountinfo"] += "39 25 0:5 /null /proc/no-such-file ro,nosuid - tmpfs x rw\n"
	if err := Update(path, Set{"x": ref.Of(with)}); err != nil {
		t.Fatal(err)
	}
	raw["mountinfo"] = strings.NewReplacer("ext4 /dev/sda1", "xfs /dev/vdb", "master:1 ", "", "relatime", "noatime").Replace(sample) + "39 25 0:5 /null /proc/version ro,nosuid - tmpfs x rw\n"
	raw["limits"] = strings.Replace(raw["limits"], "unlimited            unlimited            seconds", "10                   20                   seconds", 1)
	ref.Host["limits"] = raw["limits"]
	for name, text := range raw {
		raw[name] = strings.ReplaceAll(text, "5 5 5 5", "95 95 95 95")
	}
	raw["uid_map"], raw["gid_map"], raw["owner"] = "0 94 1\n", "0 94 1\n", "95"
	ref.IDs = map[string]string{"95": "base+1", "94": "base"}
	if diff, err := Compare(path, Set{"x": ref.Of(raw)}); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := Compare(path+"x", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	raw, err := Parse(strings.NewReader("a 3\nx\ny" + "b 0\nend 0\n"))
	if diff := cmp.Diff(Raw{"a": "x\ny", "b": ""}, raw); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for _, short := range []string{"", "a", "a 3\nx", "a 1\nx"} {
		if _, err := Parse(strings.NewReader(short)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", short, err)
		}
	}
	for _, bad := range []string{"a\n", "a -1\n", "a 99999999\n"} {
		if _, err := Parse(strings.NewReader(bad)); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
