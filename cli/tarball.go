package cli

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"

	"github.com/fluxgate/fluxgate/router"
)

// digest is the SHA-256 of the folder's tar: the same files give the same one,
// whoever owns them and whenever they were written.
func (f *folder) digest(ctx context.Context) (string, error) {
	sum := sha256.New()
	if err := f.writeTar(ctx, sum, nil); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// upload writes the gzipped tar. It fails if the folder is not what it was when
// digest was made. count is called with the bytes of files as they go.
func (f *folder) upload(ctx context.Context, w io.Writer, digest string, count func(n int)) error {
	sum := sha256.New()
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if err := f.writeTar(ctx, io.MultiWriter(zip, sum), count); err != nil {
		return err
	}
	if "sha256:"+hex.EncodeToString(sum.Sum(nil)) != digest {
		return changedWhilePushed("a file")
	}
	return zip.Close()
}

func changedWhilePushed(what string) error {
	return router.Errorf(router.CodeConflict, "%s changed while it was being pushed; push again", what)
}

// writeTar writes the entries in order, without what differs from one machine
// or day to the next: owners, times, the finer permissions.
func (f *folder) writeTar(ctx context.Context, w io.Writer, count func(int)) error {
	tw := tar.NewWriter(w)
	for _, e := range f.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		header := &tar.Header{Name: e.name, Mode: 0o644, Format: tar.FormatPAX}
		switch {
		case e.info.IsDir():
			header.Typeflag, header.Name, header.Mode = tar.TypeDir, e.name+"/", 0o755
		case e.link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, e.link, 0o777
		default:
			header.Typeflag, header.Size = tar.TypeReg, e.info.Size()
			if e.info.Mode()&0o111 != 0 {
				header.Mode = 0o755
			}
		}
		if err := tw.WriteHeader(header); err != nil {
			return fmt.Errorf("cannot send %s: %w", e.name, err)
		}
		if header.Typeflag == tar.TypeReg {
			if err := f.writeFile(tw, e, count); err != nil {
				return err
			}
		}
	}
	return tw.Close()
}

func (f *folder) writeFile(w io.Writer, e entry, count func(int)) error {
	file, err := os.Open(filepath.Join(f.root, filepath.FromSlash(e.name)))
	if err != nil {
		return router.Errorf(router.CodeInvalid, "cannot read a file of the folder (%w); leave it out with .containerignore, or make it readable", err)
	}
	defer file.Close()
	var from io.Reader = file
	if count != nil {
		from = countingReader{file, count}
	}
	n, err := io.CopyN(w, from, e.info.Size())
	switch {
	case errors.Is(err, io.EOF):
		return changedWhilePushed(e.name)
	case err != nil:
		return fmt.Errorf("cannot send %s: %w", e.name, err)
	}
	// One byte more than there was is a change too.
	if extra, _ := file.Read(make([]byte, 1)); extra > 0 || n != e.info.Size() {
		return changedWhilePushed(e.name)
	}
	return nil
}

type countingReader struct {
	r     io.Reader
	count func(int)
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	return n, err
}
