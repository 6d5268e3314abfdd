package podman

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/fluxgate/fluxgate/router"
)

// Limits of what may be pushed.
const (
	maxContext = 8 << 30 // bytes, unpacked
	maxEntries = 500_000
)

// readContext reads a pushed context, a tar.gz stream, and hands every entry to
// fn in the form that is safe to unpack: a clean relative name, owned by root,
// and a regular file, a folder or a link. The engine unpacks with the rights of
// root and follows links, so an entry that would land outside of the context,
// directly or through a link, is an error; so is anything else that has no
// place in a context.
func readContext(r io.Reader, fn func(h *tar.Header, content io.Reader) error) error {
	if r == nil {
		return router.Errorf(router.CodeInvalid, "there is nothing to build from: no files were sent")
	}
	zr, err := gzip.NewReader(r)
	if err != nil {
		return uploadError(err)
	}
	tr := tar.NewReader(zr)
	links := make(map[string]bool)
	var size int64
	for entries := 1; ; entries++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			// What follows the end of the archive, so that a cut-off upload is noticed.
			if _, err := io.Copy(io.Discard, zr); err != nil {
				return uploadError(err)
			}
			return nil
		}
		if err != nil {
			return uploadError(err)
		}
		if size += h.Size; size > maxContext || entries > maxEntries {
			return router.Errorf(router.CodeExhausted, "the pushed files are more than %s or %d: leave out what the build does not need, in .containerignore", router.Bytes(maxContext), maxEntries)
		}
		safe, err := safeEntry(h, links)
		if err != nil {
			return err
		}
		if safe == nil {
			continue
		}
		if err := fn(safe, upload{tr}); err != nil {
			return err
		}
	}
}

// upload is the content of an entry; its errors are the sender's.
type upload struct{ r io.Reader }

func (u upload) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = uploadError(err)
	}
	return n, err
}

func uploadError(err error) error {
	return router.Errorf(router.CodeInvalid, "the pushed files do not arrive whole: %w", err)
}

// safeEntry is a cleaned copy of h, or nil for what can be left out. links are
// the symbolic links so far; it adds to them.
func safeEntry(h *tar.Header, links map[string]bool) (*tar.Header, error) {
	name := path.Clean(strings.TrimSuffix(h.Name, "/"))
	if name == "." {
		return nil, nil
	}
	refuse := func(why string) error {
		return router.Errorf(router.CodeInvalid, "the pushed files hold %q, which %s", h.Name, why)
	}
	if !inside(name) {
		return nil, refuse("leads out of the pushed folder")
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if links[dir] {
			return nil, refuse(fmt.Sprintf("is behind the symbolic link %q", dir))
		}
	}
	out := &tar.Header{Typeflag: h.Typeflag, Name: name, Mode: h.Mode & 0o777, ModTime: h.ModTime, Format: tar.FormatPAX}
	switch h.Typeflag {
	case tar.TypeReg:
		out.Size = h.Size
		delete(links, name)
	case tar.TypeDir:
		out.Name += "/"
		delete(links, name)
	case tar.TypeSymlink:
		out.Linkname = h.Linkname
		links[name] = true // its target is the image's affair; nothing is written through it
	case tar.TypeLink:
		out.Linkname = path.Clean(h.Linkname)
		if !inside(out.Linkname) || links[out.Linkname] {
			return nil, refuse("is a link to outside of the pushed folder")
		}
		for dir := path.Dir(out.Linkname); dir != "."; dir = path.Dir(dir) {
			if links[dir] {
				return nil, refuse("is a link through another link")
			}
		}
	case tar.TypeXGlobalHeader:
		return nil, nil
	default:
		return nil, refuse("is neither a file nor a folder nor a link")
	}
	return out, nil
}

func inside(name string) bool {
	return name != "" && name != "." && name != ".." && !path.IsAbs(name) && !strings.HasPrefix(name, "../") && !strings.ContainsRune(name, 0)
}

// stream runs write in a goroutine and is what it writes; stop ends it, where
// it has not ended by itself, the next time that it writes.
func stream(write func(io.Writer) error) (r io.Reader, stop func()) {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(write(pw)) }()
	return pr, func() { pr.Close() }
}
