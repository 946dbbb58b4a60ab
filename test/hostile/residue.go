package hostile

import (
	"fmt"
	"io/fs"
	"syscall"
)

func owner(info fs.FileInfo) (uid, gid uint32) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1, 1
	}
	return st.Uid, st.Gid
}

// residue: a step finds nothing of the one before it, and what it leaves is
// removed without touching anything else.
func residue() []Row {
	const mark = "residue-of-a-step"
	return []Row{
		{ID: "H37", Name: "what went on in the background", Short: true,
			Before: `(setsid sh -c 'exec >/dev/null 2>&1 </dev/null; exec sleep 7325' &); exit 0`,
			Script: `for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q 'sleep 732[5]' && echo BROKEN; done; echo end`, Out: "end\n"},
		{ID: "H38", Name: "a file held open in the workspace", Short: true, Play: heldWorkspace},
		{ID: "H44", Name: "what it wrote wherever it could", Short: true,
			Before: `for d in /tmp /var/tmp /dev/shm /run /workspace "$HOME" /dev/mqueue; do echo ` + mark + ` >$d/` + mark + `; done 2>/dev/null; exit 0`,
			Script: `find / -xdev -name ` + mark + ` 2>/dev/null; grep -rlF ` + mark + ` /tmp /var/tmp /dev/shm /run /workspace "$HOME" 2>/dev/null; echo end`, Out: "end\n"},
		{ID: "H44", Name: "files of its own user", Before: `touch /tmp/a /workspace/a; exit 0`,
			Script: `find / -xdev -user "$(id -u)" -type f ! -path '/proc/*' ! -path '/sys/*' 2>/dev/null; echo end`, Out: "end\n"},
		{ID: "H58", Name: "links to what is the host's", Short: true, Play: linksRemoved},
	}
}

// heldWorkspace leaves a process that sits in the workspace with a file open.
func heldWorkspace(p *play) (seen, wrong string) {
	id, err := p.submit(p.step("hold", `mkdir d; (cd d; exec 3>held; exec >/dev/null 2>&1 </dev/null; setsid sleep 7326 &); exit 0`, nil))
	if err != nil {
		return "", err.Error()
	}
	return p.gone(id)
}

// linksRemoved leaves links of every sort to the canary and to the host's root.
func linksRemoved(p *play) (seen, wrong string) {
	id, err := p.submit(p.step("link", fmt.Sprintf(`ln -s %[1]s file; ln -s %[2]s dir; ln -s / root; ln -s ../../../../../../../.. up; mkdir -p a/b && mv a c && ln -s %[2]s a; chmod 0 c; exit 0`,
		p.canary.file, p.canary.dir), nil))
	if err != nil {
		return "", err.Error()
	}
	if seen, wrong = p.gone(id); wrong == "" {
		wrong = p.canary.touched()
	}
	return seen, wrong
}
