package cli_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupWithImages moves an app to another machine by a file alone: nothing
// there has its image.
func TestBackupWithImages(t *testing.T) {
	m := upMachine(t)
	m.push("app", "[env]\nGREETING = \"saved\"\n")
	var image string
	eventually(t, "the image is in the registry", func() bool {
		_, rest, ok := strings.Cut(m.askRegistry("/v2/app/tags/list"), "sha256-")
		image, _, _ = strings.Cut(rest, `"`)
		return ok
	})
	plain, file := filepath.Join(m.dir, "plain.backup"), filepath.Join(m.dir, "saved.backup")
	m.run("backup", plain)
	l := m.load("app", "/", 1)
	if out := m.run("backup", "--images", file); !strings.Contains(out, "1 apps") || !strings.Contains(out, "1 images of") {
		t.Errorf("backup says %q", out)
	}
	l.end(t)
	small, text := read(t, plain), read(t, file)
	if len(text) < len(small)+100_000 {
		t.Errorf("%d bytes with images, %d without", len(text), len(small))
	}
	if out, code := m.try("backup", "--images", "--registry", filepath.Join(m.dir, "nowhere"), file+"2"); code != 1 || !strings.Contains(out, "there are no images in") {
		t.Errorf("without a registry: exit code %d, %s", code, out)
	}
	if out, code := m.try("backup", "--images", "--registry", t.TempDir(), file+"2"); code != 1 || !strings.Contains(out, "the images of app v1") {
		t.Errorf("with another registry: exit code %d, %s", code, out)
	}

	m.term()
	for _, id := range containers(t, "app") {
		enginePodman(t, "rm", "--force", "--time", "0", id)
	}
	enginePodman(t, "rmi", "--force", image)
	other := newMachine(t)
	bad := filepath.Join(m.dir, "bad.backup")
	changed := bytes.Clone(text)
	changed[len(changed)-5000] ^= 1
	for name, broken := range map[string][]byte{"cut short": text[:len(text)-5000], "another byte": changed} {
		if err := os.WriteFile(bad, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, code := other.try("restore", bad); code != 1 || !strings.Contains(out, "damaged") {
			t.Errorf("%s: exit code %d, %s", name, code, out)
		}
	}
	if _, err := os.Stat(filepath.Join(other.data, "registry")); err == nil {
		t.Error("a damaged backup changed the registry")
	}
	if out := other.run("restore", file); !strings.Contains(out, "restored 1 apps") || !strings.Contains(out, "1 images of") {
		t.Errorf("restore says %q", out)
	}
	other.start()
	if a := other.get(other.client(), "app", "/"); !strings.Contains(a.body, "saved") {
		t.Errorf("it answers %q", a.body)
	}
	if out := other.run("restore", file); !strings.Contains(out, "were there already") { // while it serves
		t.Errorf("again: %s", out)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// podman runs a command of the Podman that all tests share.
func enginePodman(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(podmanCmd[0], append(podmanCmd[1:], args...)...).CombinedOutput(); err != nil {
		t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
