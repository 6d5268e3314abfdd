// Package site makes images for static sites: from scratch, with Fluxgate's
// own small static server and the site's files, and without any base image to
// download. An image is written as the archive that `podman load` reads, so
// that no build runs.
package site

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"
)

// bin holds the static server, built from ./serve for the machine that
// Fluxgate is built for. The folder is there without it, so that everything
// compiles.
//
//go:embed all:bin
var bin embed.FS

// ErrNotBuilt says that this program was built without the static server.
var ErrNotBuilt = errors.New("this fluxgate was built without its static server: build it with `./justw build`")

// Layer is one file system layer of an image: an uncompressed tar stream of
// known size and digest.
type Layer struct {
	Tar    io.ReaderAt
	Size   int64
	Digest string // hex SHA-256 of the stream
}

// Image is what the image of a static site is made from.
type Image struct {
	Layers []Layer           // over the server's own; the site's files are in site/
	Labels map[string]string // of the image
	Args   []string          // of the server
}

// epoch is the time in all that we make ourselves, so that the same site gives
// the same image.
var epoch = time.Unix(0, 0).UTC()

// server is the layer with the static server at /serve.
var server = sync.OnceValues(func() (Layer, error) {
	program, err := bin.ReadFile("bin/serve")
	if err != nil || len(program) == 0 {
		return Layer{}, ErrNotBuilt
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	header := &tar.Header{Name: "serve", Mode: 0o755, Size: int64(len(program)), ModTime: epoch, Format: tar.FormatPAX}
	if err := errors.Join(tw.WriteHeader(header), write(tw, program), tw.Close()); err != nil {
		return Layer{}, err
	}
	sum := sha256.Sum256(b.Bytes())
	return Layer{bytes.NewReader(b.Bytes()), int64(b.Len()), hex.EncodeToString(sum[:])}, nil
})

// Available is nil, or ErrNotBuilt.
func Available() error {
	_, err := server()
	return err
}

// config is the image's configuration (OCI image specification, config.md).
type config struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		Entrypoint []string
		Cmd        []string          `json:",omitempty"`
		Labels     map[string]string `json:",omitempty"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// Archive is an image ready to be loaded.
type Archive struct {
	ID     string // the image's ID once loaded: sha256:…
	config []byte
	layers []Layer
}

// Archive makes the archive of the image; the layers are read when it is
// written. The error is ErrNotBuilt, or a bug.
func (i Image) Archive() (*Archive, error) {
	base, err := server()
	if err != nil {
		return nil, err
	}
	a := &Archive{layers: append([]Layer{base}, i.Layers...)}
	c := config{Created: epoch, Architecture: runtime.GOARCH, OS: "linux"}
	c.Config.Entrypoint, c.Config.Cmd, c.Config.Labels = []string{"/serve"}, i.Args, i.Labels
	c.RootFS.Type = "layers"
	for n, l := range a.layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, "sha256:"+l.Digest)
		c.History = append(c.History, history{epoch, []string{"fluxgate static server", "fluxgate site"}[min(n, 1)]})
	}
	if a.config, err = json.Marshal(c); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(a.config)
	a.ID = "sha256:" + hex.EncodeToString(sum[:])
	return a, nil
}

// Write writes the archive in the form of `docker save`, which Podman loads.
func (a *Archive) Write(w io.Writer) error {
	tw := tar.NewWriter(w)
	file := func(name string, size int64, content io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, ModTime: epoch, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	}
	names := make([]string, len(a.layers))
	for i, l := range a.layers {
		names[i] = l.Digest + ".tar"
		if err := file(names[i], l.Size, io.NewSectionReader(l.Tar, 0, l.Size)); err != nil {
			return fmt.Errorf("layer %d of the image: %w", i, err)
		}
	}
	configName := a.ID[len("sha256:"):] + ".json"
	manifest, err := json.Marshal([]struct {
		Config string
		Layers []string
	}{{configName, names}})
	if err != nil {
		return err
	}
	return errors.Join(
		file(configName, int64(len(a.config)), bytes.NewReader(a.config)),
		file("manifest.json", int64(len(manifest)), bytes.NewReader(manifest)),
		tw.Close(),
	)
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}
