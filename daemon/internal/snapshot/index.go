package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
)

// kind tells what a path is.
type kind byte

const (
	file    kind = 'f'
	folder  kind = 'd'
	link    kind = 'l'
	unknown kind = '?' // it was in flux: the next layer has it, or that it is gone
)

// sum is the beginning of the sha256 of a content; zero = not needed.
type sum [16]byte

// entry is what tells that a file has changed.
type entry struct {
	kind         kind
	mode         uint32 // permission bits
	size         int64
	mtime, ctime int64 // ns
	inode        uint64
	// sum is set when the file had changed so shortly before it was read that a
	// change after it might not show in its times.
	sum sum
}

// Index is a tree as it was when it was last saved or restored, and where that is
// in its chain of layers.
type Index struct {
	Seq    int   // the number of the last layer; 0 = none
	Layers int   // of the chain
	Full   int64 // bytes of its first layer
	Rest   int64 // bytes of the others

	entries map[string]entry // by path; "." is the tree itself
}

// Len is how many files, folders and links are in it.
func (x *Index) Len() int { return len(x.entries) }

// Added is the index after its tree was saved in a layer of so many bytes.
func (x *Index) Added(seq int, full bool, size int64) {
	if x.Seq = seq; full {
		x.Layers, x.Full, x.Rest = 1, size, 0
		return
	}
	x.Layers, x.Rest = x.Layers+1, x.Rest+size
}

const magic = "nofx-index-1\n"

// WriteTo writes the index.
func (x *Index) WriteTo(to io.Writer) (int64, error) {
	h := sha256.New()
	b := bufio.NewWriterSize(io.MultiWriter(to, h), 64<<10)
	head := binary.AppendUvarint([]byte(magic), uint64(len(x.entries)))
	for _, n := range []int64{int64(x.Seq), int64(x.Layers), x.Full, x.Rest} {
		head = binary.AppendVarint(head, n)
	}
	n := int64(len(head))
	if _, err := b.Write(head); err != nil {
		return n, err
	}
	var buf []byte
	for _, path := range slices.Sorted(maps.Keys(x.entries)) {
		e := x.entries[path]
		buf = binary.AppendUvarint(buf[:0], uint64(len(path)))
		buf = append(append(buf, path...), byte(e.kind))
		buf = binary.AppendUvarint(buf, uint64(e.mode))
		buf = binary.AppendVarint(buf, e.size)
		buf = binary.AppendVarint(buf, e.mtime)
		buf = binary.AppendVarint(buf, e.ctime)
		buf = binary.AppendUvarint(buf, e.inode)
		buf = append(buf, e.sum[:]...)
		n += int64(len(buf))
		if _, err := b.Write(buf); err != nil {
			return n, err
		}
	}
	if err := b.Flush(); err != nil {
		return n, err
	}
	m, err := to.Write(h.Sum(nil))
	return n + int64(m), err
}

// ReadIndex reads what WriteTo wrote. Whatever is wrong with it is an error:
// then the next layer is a full one.
func ReadIndex(from io.Reader) (*Index, error) {
	r := &reader{b: bufio.NewReaderSize(from, 64<<10), h: sha256.New()}
	head := make([]byte, len(magic))
	r.full(head)
	n := r.uvarint()
	x := &Index{Seq: int(r.varint()), Layers: int(r.varint()), Full: r.varint(), Rest: r.varint()}
	if r.err == nil && (string(head) != magic || n > MaxEntries+1 || x.Seq < 0 || x.Layers < 0) {
		r.err = errors.New("not an index")
	}
	if r.err == nil {
		x.entries = make(map[string]entry, n)
	}
	for ; n > 0 && r.err == nil; n-- {
		path := make([]byte, min(r.uvarint(), maxPath+1))
		r.full(path)
		e := entry{kind: kind(r.byte()), mode: uint32(r.uvarint()), size: r.varint(), mtime: r.varint(), ctime: r.varint(), inode: r.uvarint()} //nolint:gosec // as it was written
		r.full(e.sum[:])
		x.entries[string(path)] = e
	}
	want := r.h.Sum(nil)
	got := make([]byte, len(want))
	if r.err == nil {
		_, r.err = io.ReadFull(r.b, got)
	}
	if r.err == nil && !bytes.Equal(want, got) {
		r.err = errors.New("it is not as it was written")
	}
	if r.err != nil {
		return nil, fmt.Errorf("index of a workspace: %w", r.err)
	}
	return x, nil
}

// reader hashes what is read and keeps the first error.
type reader struct {
	b   *bufio.Reader
	h   hash.Hash
	err error
}

func (r *reader) full(p []byte) {
	if r.err == nil {
		_, r.err = io.ReadFull(r.b, p)
		r.h.Write(p)
	}
}

func (r *reader) byte() byte {
	b, _ := r.ReadByte()
	return b
}

// ReadByte is for package binary.
func (r *reader) ReadByte() (byte, error) {
	if r.err != nil {
		return 0, r.err
	}
	var b byte
	if b, r.err = r.b.ReadByte(); r.err == nil {
		r.h.Write([]byte{b})
	}
	return b, r.err
}

func (r *reader) uvarint() (v uint64) {
	if r.err == nil {
		v, r.err = binary.ReadUvarint(r)
	}
	return v
}

func (r *reader) varint() (v int64) {
	if r.err == nil {
		v, r.err = binary.ReadVarint(r)
	}
	return v
}
