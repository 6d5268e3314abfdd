package site

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"testing"
)

func archiveOf(t *testing.T, i Image) (*Archive, map[string][]byte) {
	t.Helper()
	a, err := i.Archive()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := a.Write(&b); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a, files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func layer(content string) Layer {
	sum := sha256.Sum256([]byte(content))
	return Layer{bytes.NewReader([]byte(content)), int64(len(content)), hex.EncodeToString(sum[:])}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func TestArchive(t *testing.T) {
	a, files := archiveOf(t, Image{Layers: []Layer{layer("the site")}, Labels: map[string]string{"k": "v"}})
	var manifest []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 || len(manifest[0].Layers) != 2 {
		t.Fatalf("manifest is %s, %v", files["manifest.json"], err)
	}
	raw := files[manifest[0].Config]
	if digest(raw) != a.ID {
		t.Errorf("the ID is %s, the configuration's digest %s", a.ID, digest(raw))
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	for i, name := range manifest[0].Layers {
		if digest(files[name]) != c.RootFS.DiffIDs[i] {
			t.Errorf("layer %d has another digest than the configuration says", i)
		}
	}
	if c.Config.Entrypoint[0] != "/serve" || c.Config.Labels["k"] != "v" || len(c.History) != 2 {
		t.Errorf("configuration is %s", raw)
	}
}

func TestSameSiteSameImage(t *testing.T) {
	a, _ := archiveOf(t, Image{Layers: []Layer{layer("one")}})
	b, _ := archiveOf(t, Image{Layers: []Layer{layer("one")}})
	c, _ := archiveOf(t, Image{Layers: []Layer{layer("two")}})
	if a.ID != b.ID || a.ID == c.ID {
		t.Errorf("IDs are %s, %s and, for another site, %s", a.ID, b.ID, c.ID)
	}
}
