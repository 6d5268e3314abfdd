package cli

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/fluxgate/fluxgate/gateway/api"
	"github.com/fluxgate/fluxgate/router"
)

func pushCommand() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "make an app of a folder or an image, and let it serve", ArgsUsage: "[DIR]",
		Description: "DIR (else the current folder) holds a Containerfile or Dockerfile, or a static site with an index.html;\nits fluxgate.toml, if there is one, says more. Pushing again what has not changed makes no new release.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "the app's `NAME`; else the manifest's, else the folder's or image's", EnvVars: []string{"FLUXGATE_NAME"}},
			&cli.StringFlag{Name: "image", Usage: "run the image `REF` instead of building the folder"},
			&cli.StringFlag{Name: "file", Usage: "manifest `FILE`, instead of DIR/" + manifestName},
			&cli.BoolFlag{Name: "force", Usage: "make a new release even if nothing changed"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 0, 1)
			if err != nil {
				return err
			}
			p, err := readPush(c, args)
			if err != nil {
				return err
			}
			client, err := connect(c)
			if err != nil {
				return err
			}
			defer client.Close()
			return deploying(c, func(show *progress) (api.Deployed, error) { return p.run(c.Context, client, show) })
		},
	}
}

// push is a push as the folder and the flags ask for it.
type push struct {
	app    string
	spec   api.PushSpec
	folder *folder // nil for images
	wrong  error   // what is wrong with the manifest; the server may find more
}

// readPush reads the manifest and the folder, and sends nothing yet.
func readPush(c *cli.Context, args []string) (*push, error) {
	dir := "."
	if len(args) == 1 {
		dir = args[0]
	}
	text, err := readManifest(dir, c.String("file"))
	if err != nil {
		return nil, err
	}
	p := &push{spec: api.PushSpec{Manifest: string(text), Force: c.Bool("force")}}
	m, err := router.ParseManifest(text)
	p.wrong = err
	source := m.Source
	if ref := c.String("image"); ref != "" {
		source = router.Source{Kind: router.SourceImage, Path: ref}
	}
	if p.app, err = pushName(c.String("name"), m.Name, dir, source); err != nil {
		return nil, err
	}
	if source.Kind != router.SourceImage {
		if err := checkFolder(dir); err != nil {
			return nil, err
		}
		if source.Kind == "" {
			if source, err = detect(dir); err != nil {
				return nil, errors.Join(p.wrong, err)
			}
		}
		if err := checkSource(dir, source); err != nil {
			return nil, errors.Join(p.wrong, err)
		}
	}
	p.spec.Source = &api.Source{Kind: source.Kind, Path: source.Path}
	if p.wrong != nil || source.Kind == router.SourceImage {
		return p, nil
	}
	if p.folder, err = scan(dir, source); err != nil {
		return nil, err
	}
	p.spec.Digest, err = p.folder.digest(c.Context)
	return p, err
}

func readManifest(dir, file string) ([]byte, error) {
	path := file
	if path == "" {
		path = filepath.Join(dir, manifestName)
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && file == "" {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return nil, router.Errorf(router.CodeInvalid, "there is no folder %s", dir)
		}
		return nil, nil
	}
	if err != nil {
		return nil, router.Errorf(router.CodeInvalid, "cannot read the manifest: %w", err)
	}
	return text, nil
}

// pushName is the app's name from the first source that has one.
func pushName(flag, manifest, dir string, source router.Source) (string, error) {
	name := flag
	if name == "" {
		name = manifest
	}
	if name == "" && source.Kind == router.SourceImage {
		name = nameFromImage(source.Path)
	}
	if name == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		name = nameFrom(filepath.Base(abs))
	}
	if manifest != "" && name == manifest {
		return name, nil // what is wrong with it is said with the rest
	}
	return appName(name)
}

// run asks the server, which may know of more that is wrong, or that there is
// nothing to send, and then sends.
func (p *push) run(ctx context.Context, client *api.Client, show *progress) (api.Deployed, error) {
	verdict, err := client.CheckPush(ctx, p.app, p.spec)
	if p.wrong != nil && router.CodeOf(err) != router.CodeInvalid {
		return api.Deployed{}, p.wrong
	}
	if err != nil {
		return api.Deployed{}, err
	}
	if verdict.Verdict == api.VerdictUnchanged {
		return api.Deployed{App: verdict.App, Release: verdict.Release, Unchanged: true, URLs: verdict.URLs, Timings: []api.Timing{}}, nil
	}
	var upload func(io.Writer) error
	if verdict.Verdict == api.VerdictPush && p.folder != nil {
		show.upload(p.folder.size)
		upload = func(w io.Writer) error { return p.folder.upload(ctx, w, p.spec.Digest, show.sent) }
	}
	return client.Push(ctx, p.app, p.spec, upload, show.event)
}
