package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/podman/registry"
	"github.com/fluxgate/fluxgate/router/state"
)

func redisFlag() cli.Flag {
	return &cli.StringFlag{Name: "redis", Usage: "`URL` of the Redis that the gateways share", DefaultText: "the private one of the data folder", EnvVars: []string{"FLUXGATE_REDIS"}}
}

// backedUp is what backup prints.
type backedUp struct {
	File    string             `json:"file"`
	Holds   state.BackupCounts `json:"holds"`
	Images  *registry.Saved    `json:"images,omitempty"`  // with --images
	Missing []string           `json:"missing,omitempty"` // releases whose images are not in the registry
}

// restored is what restore prints.
type restored struct {
	state.Restored
	Images *registry.Saved `json:"images,omitempty"` // where the backup holds some
}

func backupCommand() *cli.Command {
	return &cli.Command{
		Name: "backup", ArgsUsage: "[FILE]", Usage: "save apps, releases, policies, domains, certificates, nodes and tokens; gateways go on serving",
		Description: "It reads the state itself, so it runs where the gateway runs, or with --redis.\n" +
			"The file holds secrets and private keys; with --images also the images of all releases, compressed as they are\n" +
			"in the registry. FILE is - for standard output.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "images", Usage: "put the images of all releases into the backup, too"},
			registryFlag(), redisFlag(), jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 0, 1)
			if err != nil {
				return err
			}
			file := "fluxgate-" + time.Now().Format("2006-01-02-150405") + ".backup"
			if len(args) > 0 {
				file = args[0]
			}
			store, done, err := openState(c)
			if err != nil {
				return err
			}
			defer done()
			var images *registry.Registry
			if c.Bool("images") {
				if images, err = openImages(c); err != nil {
					return err
				}
				defer func() { _ = images.Close() }()
			}
			var b backedUp
			if file == "-" {
				if b, err = backUp(c.Context, c.App.Writer, store, images); err != nil {
					return err
				}
			} else {
				if b, err = writeBackup(c.Context, store, images, file); err != nil {
					return err
				}
				b.File = file
				err = emit(c, b, func(w io.Writer) {
					fmt.Fprintf(w, "%s holds %s", file, countText(b.Holds))
					if b.Images != nil {
						fmt.Fprintf(w, ", and %s", imageText(*b.Images))
					}
					fmt.Fprintln(w)
				})
				if err != nil {
					return err
				}
			}
			if len(b.Missing) > 0 {
				fmt.Fprintf(c.App.ErrWriter, "not in the backup: the images of %s; they are not in the registry. Push these apps again, or back up where their registry is (--registry).\n", clean(strings.Join(b.Missing, ", ")))
				return errFailed
			}
			return nil
		},
	}
}

// writeBackup writes the file in one step: whoever finds it finds all of it.
func writeBackup(ctx context.Context, store *state.Store, images *registry.Registry, file string) (done backedUp, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return done, fmt.Errorf("the backup cannot be written: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	done, err = backUp(ctx, tmp, store, images)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return done, err
	}
	return done, os.Rename(tmp.Name(), file)
}

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name: "restore", ArgsUsage: "FILE", Usage: "write back what backup saved; the whole file is checked before anything is changed",
		Description: "It writes the state itself, so it runs where the gateway runs, or with --redis; gateways may serve meanwhile.\n" +
			"Tokens, nodes and certificates that are there already stay as they are. Images that the backup holds go into\n" +
			"the registry that --registry names, as with up.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "overwrite", Usage: "replace apps that are there and differ"},
			&cli.BoolFlag{Name: "keep", Usage: "leave apps that are there and differ as they are"},
			registryFlag(), redisFlag(), jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1)
			if err != nil {
				return err
			}
			existing := state.RefuseExisting
			switch {
			case c.Bool("overwrite") && c.Bool("keep"):
				return usagef("--overwrite and --keep exclude each other")
			case c.Bool("overwrite"):
				existing = state.ReplaceExisting
			case c.Bool("keep"):
				existing = state.KeepExisting
			}
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			store, done, err := openState(c)
			if err != nil {
				return err
			}
			defer done()
			report, err := restoreAll(c, store, file, existing)
			if err != nil {
				return err
			}
			err = emit(c, report, func(w io.Writer) {
				fmt.Fprintf(w, "restored %s", countText(report.Created))
				if report.Replaced > 0 {
					fmt.Fprintf(w, "; %d apps replaced", report.Replaced)
				}
				if report.Kept > 0 {
					fmt.Fprintf(w, "; %d apps were there already", report.Kept)
				}
				if report.Images != nil {
					fmt.Fprintf(w, "; %s are in the registry", imageText(*report.Images))
				}
				fmt.Fprintln(w)
				for _, f := range report.Failed {
					fmt.Fprintln(w, "not restored: "+clean(f))
				}
			})
			if err == nil && len(report.Failed) > 0 {
				return errFailed
			}
			return err
		},
	}
}

// restoreAll checks the whole file, then puts back the images, and then what
// needs them.
func restoreAll(c *cli.Context, store *state.Store, file *os.File, existing state.Existing) (done restored, err error) {
	part, err := imagesOf(file)
	if err != nil {
		return done, err
	}
	if part != nil {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return done, err
		}
		if err := store.CheckRestore(c.Context, file, existing); err != nil {
			return done, err
		}
		images, err := openImages(c)
		if err != nil {
			return done, err
		}
		loaded, err := images.Load(c.Context, part)
		err = errors.Join(err, images.Close())
		if err != nil {
			return done, fmt.Errorf("the images cannot be restored, and nothing else was: %w", err)
		}
		done.Images = &loaded
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return done, err
	}
	done.Restored, err = store.Restore(c.Context, file, existing)
	return done, err
}

func countText(n state.BackupCounts) string {
	return fmt.Sprintf("%d apps, %d tokens, %d nodes and %d certificate files", n.Apps, n.Tokens, n.Nodes, n.Certificates)
}

// openState opens the gateways' state, which on this machine may belong to a
// gateway that runs or to one that does not. The caller calls done.
func openState(c *cli.Context) (_ *state.Store, done func(), err error) {
	done = func() {}
	url := c.String("redis")
	if url == "" {
		path := c.String("data")
		if _, err := os.Stat(filepath.Join(path, "lock")); err != nil && c.Command.Name == "backup" {
			return nil, done, fmt.Errorf("there is no gateway's data in %s: name the folder with --data, or its Redis with --redis", path)
		}
		dir, err := openDataDir(path)
		switch {
		case errors.Is(err, errDataInUse): // a gateway runs, and its Redis with it
			if url, err = state.ServerURL(filepath.Join(path, "redis")); err != nil {
				return nil, done, err
			}
		case err != nil:
			return nil, done, err
		default:
			server, err := state.StartServer(c.Context, dir.join("redis"), nil)
			if err != nil {
				dir.Close()
				return nil, done, err
			}
			url = server.URL()
			done = func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context), stopDeadline)
				defer cancel()
				_ = server.Close(ctx) // left running where it cannot be stopped; the next gateway adopts it
				dir.Close()
			}
		}
	}
	store, err := state.Open(c.Context, state.Options{URL: url})
	if err != nil {
		done()
		return nil, func() {}, err
	}
	stop := done
	return store, func() { _ = store.Close(); stop() }, nil
}
