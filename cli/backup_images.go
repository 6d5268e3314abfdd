package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/podman"
	"github.com/fluxgate/fluxgate/podman/registry"
	"github.com/fluxgate/fluxgate/router"
	"github.com/fluxgate/fluxgate/router/state"
)

// A backup with images is the state's, and after its last line the images as a
// tar.

func registryFlag() cli.Flag {
	return &cli.StringFlag{Name: "registry", Usage: "folder, or s3://`BUCKET`[/PREFIX][?region=R&endpoint=URL], that images are kept in; gateways may share it", DefaultText: "registry in the data folder", EnvVars: []string{"FLUXGATE_REGISTRY"}}
}

// registryStorage says where images are kept.
func registryStorage(o *registry.Options, where string) (err error) {
	if !strings.HasPrefix(where, "s3:") {
		o.Dir = where
		return nil
	}
	if o.S3, err = registry.ParseS3(where); err != nil {
		err = fmt.Errorf("--registry: %w", err)
	}
	return err
}

// openImages opens the storage that the gateways keep images in, beside them.
func openImages(c *cli.Context) (*registry.Registry, error) {
	o := registry.Options{Authenticate: func(context.Context, *http.Request, string, registry.Action) (string, error) {
		return "", registry.ErrDenied // it serves nobody
	}}
	if err := registryStorage(&o, orElse(c.String("registry"), filepath.Join(c.String("data"), "registry"))); err != nil {
		return nil, err
	}
	if _, err := os.Stat(o.Dir); err != nil && o.Dir != "" && c.Command.Name == "backup" {
		return nil, fmt.Errorf("there are no images in %s: name the folder or storage with --registry, as with `up`", o.Dir)
	}
	r, err := registry.New(c.Context, o)
	if err != nil {
		return nil, fmt.Errorf("--registry: %w", err)
	}
	return r, nil
}

// backUp writes a backup of the state, and of its releases' images where
// images is given.
func backUp(ctx context.Context, w io.Writer, store *state.Store, images *registry.Registry) (done backedUp, err error) {
	var wanted []registry.Named
	var names []string // of the releases, for those who read them
	done.Holds, err = store.Backup(ctx, w, func(st router.AppState) {
		for _, rel := range st.Releases {
			wanted = append(wanted, registry.Named{Repository: st.App.Name, Tag: podman.DepotTag(rel.Image)})
			names = append(names, fmt.Sprintf("%s v%d", st.App.Name, rel.Number))
		}
	})
	if err != nil || images == nil {
		return done, err
	}
	saved, missing, err := images.Save(ctx, w, wanted)
	if err != nil {
		return done, fmt.Errorf("the images cannot be saved: %w", err)
	}
	gone := map[registry.Named]bool{}
	for _, m := range missing {
		gone[m] = true
	}
	done.Images, done.Missing = &saved, []string{}
	for i, w := range wanted {
		if gone[w] {
			done.Missing = append(done.Missing, names[i])
		}
	}
	return done, nil
}

// imagesOf is the part of a backup that holds images, checked; nil where there
// is none.
func imagesOf(file *os.File) (*io.SectionReader, error) {
	length, err := state.BackupLength(file)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || info.Size() == length {
		return nil, err
	}
	part := io.NewSectionReader(file, length, info.Size()-length)
	if _, err := registry.CheckSaved(part); err != nil {
		return nil, fmt.Errorf("nothing was restored: %w; use another copy of the backup", err)
	}
	_, err = part.Seek(0, io.SeekStart)
	return part, err
}

func imageText(s registry.Saved) string {
	return fmt.Sprintf("%d images of %s", s.Images, router.Bytes(s.Bytes))
}
