package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// isolate writes settings for a Podman whose storage, networks and locks are
// apart from the machine's, in dir. The environment that it returns makes the
// Podman service that a gateway starts use them. A service that the machine
// runs anyway is not changed by this, and is then what is measured.
func isolate(dir string) ([]string, error) {
	engine := fmt.Sprintf(`[engine]
lock_type = "file"
tmp_dir = %q
volume_path = %q
[network]
network_config_dir = %q
default_subnet = "10.121.0.0/16"
`, filepath.Join(dir, "tmp"), filepath.Join(dir, "volumes"), filepath.Join(dir, "networks"))
	storage := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{"containers.conf": engine, "storage.conf": storage} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{
		"CONTAINERS_CONF=" + filepath.Join(dir, "containers.conf"),
		"CONTAINERS_STORAGE_CONF=" + filepath.Join(dir, "storage.conf"),
	}, nil
}

// clearStorage removes what the isolated Podman left in dir: containers, mounts, files.
func clearStorage(ctx context.Context, dir string, env []string) error {
	cmd := exec.CommandContext(ctx, "podman", "rm", "--all", "--force", "--time", "0")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("removing the bench's containers: %w: %s", err, out)
	}
	mounts, readErr := os.ReadFile("/proc/self/mounts")
	var below []string
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, dir+"/") {
			below = append(below, at)
		}
	}
	for _, at := range slices.Backward(below) {
		err = errors.Join(err, syscall.Unmount(at, syscall.MNT_DETACH))
	}
	return errors.Join(err, readErr, os.RemoveAll(dir))
}
