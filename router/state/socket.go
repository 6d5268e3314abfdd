package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fluxgate/fluxgate/router"
)

// maxSocketPath is how long a socket's path may be. The system's own limit is
// 107 on Linux and 103 elsewhere.
const maxSocketPath = 100

// socketPath is where the server of a data folder listens: in the folder, or,
// where that path is too long for a socket, in a private folder whose name
// follows from it. Every gateway on the same folder comes to the same path.
func socketPath(dir string) (string, error) {
	path := filepath.Join(dir, "redis.sock")
	if len(path) <= maxSocketPath {
		return path, nil
	}
	sum := sha256.Sum256([]byte(dir))
	name := fmt.Sprintf("fluxgate-%d-%s", os.Getuid(), hex.EncodeToString(sum[:6]))
	var roots []string
	if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" && os.Getuid() != 0 {
		roots = append(roots, run)
	}
	if os.Getuid() == 0 {
		roots = append(roots, "/run")
	}
	for _, root := range append(roots, os.TempDir(), "/tmp") {
		path := filepath.Join(root, name, "redis.sock")
		if len(path) > maxSocketPath {
			continue
		}
		if err := privateDir(filepath.Dir(path)); err == nil {
			return path, nil
		}
	}
	return "", router.Errorf(router.CodeInvalid,
		"the data folder's path %s is too long for a socket in it, and there is no temporary folder for one: choose a shorter path with --data", dir)
}

// privateDir makes a folder that only this user can enter. In a place where
// everybody may write, somebody else may have made it first.
func privateDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm() != 0o700 || !ok || int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a private folder of this user", dir)
	}
	return nil
}

// listening reports whether a process accepts connections on a socket.
func listening(ctx context.Context, path string) bool {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
	}
	// Any other failure, such as a full queue of connections, is that of a
	// socket that somebody has.
	return err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED)
}
