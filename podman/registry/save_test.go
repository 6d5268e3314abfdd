package registry_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/fluxgate/fluxgate/podman/registry"
)

// TestSaveLoad carries images from one registry to another one.
func TestSaveLoad(t *testing.T) { onEachStorage(t, testSaveLoad) }

func testSaveLoad(t *testing.T, newRig rigMaker) {
	t.Helper()
	from, to := newRig(t), newRig(t, func(o *registry.Options) { o.Grace = 1 << 40 })
	shared := mutate.MediaType(image(t, 2), types.OCIManifestSchema1)
	extra, err := random.Layer(2048, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	grown, err := mutate.AppendLayers(shared, extra)
	if err != nil {
		t.Fatal(err)
	}
	digest := from.push("app:v1", shared)
	from.push("other:v1", shared)
	from.push("app:v2", grown)
	from.push("app:left", image(t, 1))
	index, err := random.Index(512, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(from.ref("team/many:v1"), index, as("writer")); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	done, missing, err := from.Save(t.Context(), &file, []registry.Named{{"app", "v1"}, {"app", "v2"}, {"app", "never"}, {"other", "v1"}, {"team/many", "v1"}, {"none", "v1"}})
	if err != nil || len(missing) != 2 || missing[0].Tag != "never" || missing[1].Repository != "none" {
		t.Fatalf("missing %v, %v", missing, err)
	}
	// shared has a manifest, a config and two layers; grown two blobs and a layer
	// more; the index itself, and two images of three.
	if done.Images != 4 || done.Blobs != 4+3+7 || done.Bytes == 0 {
		t.Errorf("saved %+v", done)
	}
	whole := file.Bytes()
	if again, err := registry.CheckSaved(bytes.NewReader(whole)); err != nil || again != done {
		t.Errorf("checked %+v, %v; saved %+v", again, err, done)
	}
	for range 2 { // the second time everything is there
		if again, err := to.Load(t.Context(), bytes.NewReader(whole)); err != nil || again != done {
			t.Fatalf("loaded %+v, %v", again, err)
		}
	}
	for text, want := range map[string]bool{"app:v1": true, "app:v2": true, "app:left": false, "other:v1": true, "app@" + digest.String(): true} {
		if got := to.has(text); got != want {
			t.Errorf("%s is there: %v", text, got)
		}
	}
	if back, err := remote.Index(to.ref("team/many:v1"), as("reader")); err != nil || validate.Index(back) != nil {
		t.Errorf("the index: %v", err)
	}
	if len(to.pushes) != 0 {
		t.Errorf("told of pushes %+v", to.pushes)
	}
	// All of it is young: nothing is collected that its app has not asked for yet.
	if gone, err := to.Collect(t.Context(), func(string) (registry.Keep, error) { return registry.Keep{}, nil }); err != nil || gone != (registry.Collected{}) {
		t.Errorf("collected %+v, %v", gone, err)
	}

	// What is not whole is told, wherever it is broken.
	for name, text := range map[string][]byte{
		"nothing": nil, "half of it": whole[:len(whole)/2], "cut at the end": whole[:len(whole)-4096],
		"another byte in the index": bytes.Replace(whole, []byte("app:v2"), []byte("app:v3"), 1),
		"another byte in a blob":    flipped(whole, len(whole)-3000),
		"another layout":            bytes.Replace(whole, []byte("oci-layout"), []byte("oci-layouT"), 1),
	} {
		if _, err := registry.CheckSaved(bytes.NewReader(text)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := to.Load(ctx, bytes.NewReader(whole)); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

func flipped(text []byte, at int) []byte {
	out := bytes.Clone(text)
	out[at] ^= 1
	return out
}

// TestSavedIsALayout reads what was saved with another program's eyes.
func TestSavedIsALayout(t *testing.T) {
	r := newRig(t)
	r.push("app:v1", mutate.MediaType(image(t, 2), types.OCIManifestSchema1))
	var file bytes.Buffer
	if _, _, err := r.Save(t.Context(), &file, []registry.Named{{Repository: "app", Tag: "v1"}}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	untar(t, dir, &file)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
}

// FuzzCheckSaved has no file make it panic.
func FuzzCheckSaved(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte(strings.Repeat("x", 1024)))
	f.Fuzz(func(t *testing.T, text []byte) {
		if done, err := registry.CheckSaved(bytes.NewReader(text)); err == nil && done.Images > 0 && !bytes.Contains(text, []byte("index.json")) {
			t.Errorf("%+v in %q", done, text)
		}
	})
}

func untar(t *testing.T, dir string, r io.Reader) {
	t.Helper()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, h.Name)
		text, err := io.ReadAll(tr)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(file), 0o700)
		}
		if err == nil {
			err = os.WriteFile(file, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
