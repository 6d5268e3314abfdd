package podman

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/fluxgate/fluxgate/podman/site"
	"github.com/fluxgate/fluxgate/router"
)

// buildStatic makes the image of a static site: no build runs, the image is
// put together here and loaded.
func (n *Node) buildStatic(ctx context.Context, app, folder string, files io.Reader, out io.Writer) (string, error) {
	if err := site.Available(); err != nil {
		return "", router.Errorf(router.CodeInternal, "static sites cannot be built: %w", err)
	}
	dir := filepath.Join(n.dataDir, "tmp")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", router.Errorf(router.CodeInternal, "no place for the upload: %w", err)
	}
	spool, err := os.CreateTemp(dir, "site-*.tar")
	if err != nil {
		return "", router.Errorf(router.CodeInternal, "no place for the upload: %w", err)
	}
	defer spool.Close()
	// Its name is not needed any more, and after a crash nothing is left.
	if err := os.Remove(spool.Name()); err != nil {
		return "", err
	}
	layer, count, err := siteLayer(folder, files, spool)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(out, "%d files of the site, %s\n", count, size(layer.Size))
	archive, err := site.Image{Layers: []site.Layer{layer}, Labels: n.imageLabels(app)}.Archive()
	if err != nil {
		return "", router.Errorf(router.CodeInternal, "%w", err)
	}
	if err := n.load(ctx, archive); err != nil {
		return "", err
	}
	fmt.Fprintf(out, "image %s\n", archive.ID)
	return archive.ID, nil
}

// size is for people.
func size(n int64) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// siteLayer writes the files below folder to spool, as a layer with them in
// site/, and counts them. The same files give the same layer.
func siteLayer(folder string, files io.Reader, spool *os.File) (site.Layer, int, error) {
	folder = path.Clean(strings.TrimPrefix(folder, "./"))
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(spool, sum))
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "site/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
		return site.Layer{}, 0, err
	}
	count, index := 0, false
	err := readContext(files, func(h *tar.Header, content io.Reader) error {
		name, ok := below(folder, h.Name)
		if !ok {
			return nil
		}
		h.Name = "site/" + name
		h.ModTime = h.ModTime.Truncate(time.Second)
		switch h.Typeflag {
		case tar.TypeDir:
			h.Mode = 0o755
		case tar.TypeReg:
			h.Mode = 0o644
			count++
			index = index || name == "index.html"
		case tar.TypeSymlink:
			h.Mode = 0o777
			index = index || name == "index.html"
		case tar.TypeLink:
			target, ok := below(folder, h.Linkname)
			if !ok {
				return router.Errorf(router.CodeInvalid, "the site holds %q, a link to outside of it", name)
			}
			h.Linkname = "site/" + target
			index = index || name == "index.html"
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(tw, content)
		return err
	})
	if err != nil {
		return site.Layer{}, 0, err
	}
	if !index {
		return site.Layer{}, 0, router.Errorf(router.CodeInvalid, "there is no index.html in the site's folder %q: name the folder that has it, as static under [build] in fluxgate.toml", folder)
	}
	if err := tw.Close(); err != nil {
		return site.Layer{}, 0, err
	}
	length, err := spool.Seek(0, io.SeekEnd)
	if err != nil {
		return site.Layer{}, 0, err
	}
	return site.Layer{Tar: spool, Size: length, Digest: hex.EncodeToString(sum.Sum(nil))}, count, nil
}

// below is name as seen from folder.
func below(folder, name string) (string, bool) {
	if folder == "." {
		return name, true
	}
	rest, ok := strings.CutPrefix(name, folder+"/")
	return rest, ok && rest != ""
}
