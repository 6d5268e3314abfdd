package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fluxgate/fluxgate/router"
)

// MaxContext is the largest upload, in bytes as they travel.
const MaxContext = 2 << 30

// readWait is how long an upload may bring no byte before it counts as dead.
const readWait = 60 * time.Second

const spoolPattern = "push-*.tar.gz"

// prepareSpool makes the folder and removes what a killed process left there.
func prepareSpool(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return router.Errorf(router.CodeInternal, "cannot make the folder for uploads: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, spoolPattern))
	if err != nil {
		return router.Errorf(router.CodeInternal, "cannot read the folder for uploads: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return router.Errorf(router.CodeInternal, "cannot clean the folder for uploads: %w", err)
		}
	}
	return nil
}

// spooled is an upload on disk. Close removes it.
type spooled struct {
	file   *os.File
	digest string // of the bytes as they came
}

func (u *spooled) Close() error {
	if u == nil {
		return nil
	}
	return errors.Join(u.file.Close(), os.Remove(u.file.Name()))
}

// spool keeps an upload in a file, ready to be read from its start. Nothing is
// left on disk when it fails.
func spool(dir string, from io.Reader, limit int64) (_ *spooled, err error) {
	file, err := os.CreateTemp(dir, spoolPattern)
	if err != nil {
		return nil, spoolError(err)
	}
	u := &spooled{file: file}
	defer func() {
		if err != nil {
			_ = u.Close()
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(from, limit+1))
	if err != nil {
		return nil, spoolError(err)
	}
	if n > limit {
		p := ProblemOf(router.Invalid("the push", []router.Violation{{
			Field: "context", Limit: fmt.Sprintf("at most %s compressed", router.Bytes(limit)), Remedy: "leave out what the build does not need with a .containerignore file",
		}}))
		p.Status, p.Title = http.StatusRequestEntityTooLarge, http.StatusText(http.StatusRequestEntityTooLarge)
		return nil, p
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, spoolError(err)
	}
	u.digest = "upload:sha256:" + hex.EncodeToString(sum.Sum(nil))
	return u, nil
}

func spoolError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return router.Errorf(router.CodeExhausted, "the gateway's disk is full: it could not keep the upload")
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
		return router.Errorf(router.CodeInvalid, "the upload ended before it was complete; push again")
	}
	return err
}

// patientReader gives up when no byte came for readWait; the whole may take
// longer.
type patientReader struct {
	r  io.Reader
	rc *http.ResponseController
}

func (p patientReader) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(readWait)) // not every server has deadlines
	return p.r.Read(b)
}
