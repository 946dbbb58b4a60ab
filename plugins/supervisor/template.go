package supervisor

// Template says what the read-only root of every sandbox looks like. Paths in
// it are relative to the root, and parents come before what is in them. The
// folders proc, sys, tmp, home/step, workspace and dev with dev/pts and
// dev/shm in it must be there: the sandbox's own mounts go there.
type Template struct {
	n        int
	ops      encoder
	readOnly []string
}

const (
	opDir   = 1
	opFile  = 2
	opLink  = 3
	opBind  = 4
	opNode  = 5
	opMount = 6
)

func (t *Template) op(kind uint8, path string) {
	t.n++
	t.ops.u8(kind)
	t.ops.str(path)
}

// Dir makes a folder.
func (t *Template) Dir(path string, mode uint32) {
	t.op(opDir, path)
	t.ops.u32(mode)
}

// File makes a file that holds data.
func (t *Template) File(path string, mode uint32, data []byte) {
	t.op(opFile, path)
	t.ops.u32(mode)
	t.ops.bytes(data)
}

// Link makes a symbolic link.
func (t *Template) Link(path, target string) {
	t.op(opLink, path)
	t.ops.str(target)
}

// Bind shows a file or folder of the host, read-only and without what is
// mounted below it. It must not be a link.
func (t *Template) Bind(path, host string) {
	t.op(opBind, path)
	t.ops.str(host)
}

// Node makes a character device.
func (t *Template) Node(path string, mode, major, minor uint32) {
	t.op(opNode, path)
	t.ops.u32(mode)
	t.ops.u32(major)
	t.ops.u32(minor)
}

// Devices makes a folder with a file system of its own in which devices work.
// It is read-only in the end.
func (t *Template) Devices(path string) {
	t.op(opMount, path)
	t.readOnly = append(t.readOnly, path)
}

// encode gives the request to the spawner. stage is a folder of the host on
// which the template is built; filter is the steps' seccomp program.
func (t *Template) encode(stage string, filter []byte, sizes Sizes) []byte {
	var e encoder
	e.u8(spawnTemplate)
	e.str(stage)
	e.bytes(filter)
	for _, n := range []uint64{sizes.Tmp, sizes.Home, sizes.Shm, sizes.MaxOutput} {
		e.u64(n)
	}
	return append(e, t.Encoded()...)
}

// Encoded is the template as `nofx-supervisor into` reads it from a file.
func (t *Template) Encoded() []byte {
	var e encoder
	e.u32(uint32(t.n))
	e = append(e, t.ops...)
	e.u32(uint32(len(t.readOnly)))
	for _, p := range t.readOnly {
		e.str(p)
	}
	return e
}
