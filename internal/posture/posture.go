package posture

import (
	"maps"
	"slices"
	"strings"
)

// Posture is a process as it is compared.
type Posture struct {
	// Threads are the postures that its threads have, each once: one, if all
	// is well.
	Threads []Thread `json:"threads"`
	// Dumpable is whether others of its uid may trace it, as it says itself;
	// ProcOwner is who owns its /proc: itself, if it is dumpable.
	Dumpable    bool              `json:"dumpable,omitempty"`
	ProcOwner   string            `json:"proc_owner,omitempty"`
	Terminal    bool              `json:"terminal"`
	OOMScoreAdj string            `json:"oom_score_adj"`
	UIDMap      []string          `json:"uid_map"`
	GIDMap      []string          `json:"gid_map"`
	SetGroups   string            `json:"setgroups"`
	Namespaces  map[string]string `json:"namespaces"` // own, or the host's
	Limits      map[string]string `json:"limits"`     // soft and hard, or inherited
	Descriptors []string          `json:"descriptors"`
	Mounts      []string          `json:"mounts"` // none, where they are the host's
}

// Thread is a thread's credentials.
type Thread struct {
	UID             string `json:"uid"` // real, effective, saved, file system
	GID             string `json:"gid"`
	Groups          string `json:"groups"`
	CapInheritable  string `json:"cap_inheritable"`
	CapPermitted    string `json:"cap_permitted"`
	CapEffective    string `json:"cap_effective"`
	CapBounding     string `json:"cap_bounding"`
	CapAmbient      string `json:"cap_ambient"`
	SecureBits      string `json:"securebits,omitempty"` // as it says itself
	NoNewPrivileges string `json:"no_new_privs"`
	Seccomp         string `json:"seccomp"`
	SeccompFilters  string `json:"seccomp_filters"`
	Umask           string `json:"umask"`
	SignalsBlocked  string `json:"signals_blocked"`
	SignalsIgnored  string `json:"signals_ignored"`
}

// Reference is what postures are told apart from.
type Reference struct {
	Host Raw               // a process of the host with its namespaces and limits
	IDs  map[string]string // names of uids and gids
}

// Of makes what the kernel says comparable.
func (r Reference) Of(raw Raw) Posture {
	p := Posture{
		OOMScoreAdj: strings.TrimSpace(raw["oom_score_adj"]), SetGroups: strings.TrimSpace(raw["setgroups"]),
		ProcOwner: r.ids(raw["owner"]), UIDMap: r.idMap(raw["uid_map"]), GIDMap: r.idMap(raw["gid_map"]),
		Namespaces: map[string]string{}, Descriptors: []string{}, Mounts: []string{},
	}
	for name, text := range raw {
		tid, ok := strings.CutPrefix(name, "status/")
		if !ok {
			continue
		}
		own := strings.Fields(raw["prctl/"+tid])
		if t := r.thread(fields(text), own); !slices.Contains(p.Threads, t) {
			p.Threads = append(p.Threads, t)
		}
		p.Dumpable = p.Dumpable || len(own) > 1 && own[1] == "1"
	}
	slices.SortFunc(p.Threads, func(a, b Thread) int { return strings.Compare(a.key(), b.key()) })
	// After the name, which may hold anything: state, parent, group, session, terminal.
	if stat := strings.Fields(raw["stat"][strings.LastIndexByte(raw["stat"], ')')+1:]); len(stat) > 4 {
		p.Terminal = stat[4] != "0"
	}
	host := lines(r.Host["ns"])
	for name, id := range lines(raw["ns"]) {
		p.Namespaces[name] = "own"
		if id == host[name] {
			p.Namespaces[name] = "host"
		}
	}
	p.Limits = r.limits(raw["limits"])
	for line := range strings.Lines(raw["fd"]) {
		p.Descriptors = append(p.Descriptors, strings.TrimSpace(line))
	}
	slices.SortFunc(p.Descriptors, func(a, b string) int {
		if len(a) != len(b) && strings.IndexByte(a, ' ') != strings.IndexByte(b, ' ') {
			return strings.IndexByte(a, ' ') - strings.IndexByte(b, ' ')
		}
		return strings.Compare(a, b)
	})
	if p.Namespaces["mnt"] == "own" {
		for line := range strings.Lines(raw["mountinfo"]) {
			if m := mount(line); m != "" {
				p.Mounts = append(p.Mounts, m)
			}
		}
		slices.Sort(p.Mounts)
		p.Mounts = slices.Compact(p.Mounts)
	}
	return p
}

func (t Thread) key() string {
	return strings.Join([]string{t.UID, t.GID, t.CapEffective, t.CapPermitted, t.CapBounding, t.SecureBits, t.Seccomp, t.SeccompFilters, t.NoNewPrivileges}, "|")
}

func (r Reference) thread(f map[string]string, own []string) Thread {
	t := Thread{
		UID: r.ids(f["Uid"]), GID: r.ids(f["Gid"]), Groups: r.ids(f["Groups"]),
		CapInheritable: f["CapInh"], CapPermitted: f["CapPrm"], CapEffective: f["CapEff"], CapBounding: f["CapBnd"], CapAmbient: f["CapAmb"],
		NoNewPrivileges: f["NoNewPrivs"], Seccomp: f["Seccomp"], SeccompFilters: f["Seccomp_filters"],
		Umask: f["Umask"], SignalsBlocked: f["SigBlk"], SignalsIgnored: f["SigIgn"],
	}
	if len(own) > 0 {
		t.SecureBits = own[0]
	}
	return t
}

// ids puts names in the place of numbers.
func (r Reference) ids(text string) string {
	all := strings.Fields(text)
	for i, id := range all {
		if name, ok := r.IDs[id]; ok {
			all[i] = name
		}
	}
	return strings.Join(all, " ")
}

func (r Reference) idMap(text string) []string {
	all := []string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 {
			f[1] = r.ids(f[1])
		}
		all = append(all, strings.Join(f, " "))
	}
	return all
}

// limits gives each limit's two values. Those that a sandbox only inherits are
// the host's to choose.
func (r Reference) limits(text string) map[string]string {
	all, host := limitValues(text), limitValues(r.Host["limits"])
	for name, v := range all {
		switch name {
		case "core file size", "open files", "locked memory", "stack size", "nice priority", "realtime priority": // set for every step
		default:
			if host[name] == v {
				all[name] = "inherited"
			}
		}
	}
	return all
}

const limitColumn = 26 // where the values begin

func limitValues(text string) map[string]string {
	got := map[string]string{}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "Max "); ok && len(line) > limitColumn {
			if f := strings.Fields(line[limitColumn:]); len(f) >= 2 {
				got[strings.TrimSpace(name[:limitColumn-len("Max ")])] = f[0] + " " + f[1]
			}
		}
	}
	return got
}

const groups = "/sys/fs/cgroup"

// mount makes a line of mountinfo comparable: where, what, with which flags.
// A part of another file system is a bind, whatever that is. All hierarchies
// of control groups are one, of whatever version they are.
func mount(line string) string {
	before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
	f, fs := strings.Fields(before), strings.Fields(after)
	if len(f) < 6 || len(fs) < 3 {
		return "?"
	}
	kind, options := fs[0], []string{}
	for o := range strings.SplitSeq(f[5], ",") {
		if slices.Contains([]string{"ro", "rw", "nosuid", "nodev", "noexec", "nosymfollow"}, o) {
			options = append(options, o)
		}
	}
	switch {
	case strings.HasPrefix(f[4], groups):
		if kind == "tmpfs" {
			return "" // v1's folder of hierarchies
		}
		f[4], kind = groups, "cgroup"
	case f[3] != "/":
		kind = "bind"
	case slices.Contains([]string{"ext4", "xfs", "btrfs", "overlay"}, kind):
		kind = "disk" // and its options are the host's
	default:
		for o := range strings.SplitSeq(fs[2], ",") {
			if k, _, _ := strings.Cut(o, "="); slices.Contains([]string{"size", "nr_inodes", "mode", "hidepid", "subset"}, k) {
				options = append(options, o)
			}
		}
	}
	for _, o := range f[6:] {
		// That the host's mounts get in is the host's to say.
		if strings.HasPrefix(o, "shared:") {
			options = append(options, "shared")
		}
	}
	return f[4] + " " + kind + " " + strings.Join(options, ",")
}

// OfHost is the posture of a process that the host's rights and limits are
// meant to be those of.
func (r Reference) OfHost(raw Raw) Posture {
	p := r.Of(raw)
	p.Limits = map[string]string{}
	host := fields(r.Host.main())
	for i := range p.Threads {
		t := &p.Threads[i]
		for name, set := range map[string]*string{"CapPrm": &t.CapPermitted, "CapEff": &t.CapEffective, "CapBnd": &t.CapBounding} {
			if *set == host[name] {
				*set = "host"
			}
		}
	}
	return p
}

// Kinds is the posture with the kinds of its descriptors only, for a process
// that opens and closes some as it goes.
func (p Posture) Kinds() Posture {
	n := map[string]bool{}
	for _, d := range p.Descriptors {
		_, what, _ := strings.Cut(d, " ")
		n[what] = true
	}
	p.Descriptors = slices.Sorted(maps.Keys(n))
	return p
}
