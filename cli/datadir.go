package cli

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dataDir is the folder that a gateway keeps its private Redis, its logs and
// its identity in. One gateway has it at a time. Anybody may look for the root
// certificate in it; what is private lies in folders of its own.
type dataDir struct {
	path string
	lock *os.File
}

// spaceNeeded is what must be writable for a gateway to start at all.
const spaceNeeded = 1 << 20

var errDataInUse = errors.New("another fluxgate uses the data folder")

// openDataDir makes the folder if need be, locks it, and checks that it can be
// written to. Close it.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, dataDirError(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dataDirError(path, err)
	}
	d := &dataDir{path: path, lock: lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = lock.Close() }()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			pid, _ := os.ReadFile(lock.Name())
			return nil, fmt.Errorf("%w %s (process %s); stop it, or choose another folder with --data", errDataInUse, path, strings.TrimSpace(string(pid)))
		}
		return nil, fmt.Errorf("the data folder %s cannot be locked: %w; it must be on a local disk", path, err)
	}
	if err := d.tryWrite(); err != nil {
		d.Close()
		return nil, dataDirError(path, err)
	}
	if err := lock.Truncate(0); err == nil {
		_, _ = lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return d, nil
}

// tryWrite writes and removes a file, so that a full disk shows now.
func (d *dataDir) tryWrite() error {
	name := d.join("space-check")
	err := os.WriteFile(name, make([]byte, spaceNeeded), 0o600)
	return errors.Join(err, os.Remove(name))
}

func dataDirError(path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk of the data folder %s is full; free some space, or choose another folder with --data", path)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the data folder %s is on a read-only file system; choose another one with --data", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("the data folder %s may not be written to by this user; choose another one with --data, or run as its owner", path)
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, os.ErrExist):
		return fmt.Errorf("the data folder %s cannot be made: a file is in the way; choose another one with --data", path)
	}
	return fmt.Errorf("the data folder %s cannot be used: %w", path, err)
}

func (d *dataDir) join(name string) string { return filepath.Join(d.path, name) }

// Close gives the folder free.
func (d *dataDir) Close() { _ = d.lock.Close() }

// gatewayID is the identity of the gateway that lives in this folder. It stays
// over restarts, so that a gateway takes up its own claims again.
func (d *dataDir) gatewayID() (string, error) {
	name := d.join("gateway-id")
	if b, err := os.ReadFile(name); err == nil && len(b) >= 8 {
		return strings.TrimSpace(string(b)), nil
	}
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	id := "gw-" + hex.EncodeToString(b[:])
	if err := writeFileAtomic(name, []byte(id+"\n"), 0o600); err != nil {
		return "", dataDirError(d.path, err)
	}
	return id, nil
}

// writeFileAtomic replaces a file in one step: a reader, or a crash, sees the
// old content or the new one.
func writeFileAtomic(name string, content []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
