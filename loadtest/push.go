package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// pushes is how many different sites are pushed.
const pushes = 5

// benchPush compares a push of a static site that nobody has seen before with a
// raw build of the same files and server.
func benchPush(ctx context.Context, b *bench) error {
	server, err := os.ReadFile("podman/site/bin/serve")
	if err != nil {
		return err
	}
	var pushed, built times
	names := numbered("site", pushes)
	for _, name := range names {
		dir := filepath.Join(b.dir, name)
		if err := os.CopyFS(dir, os.DirFS("examples/site")); err != nil {
			return err
		}
		// Different files each time: nothing of them is cached anywhere.
		page, err := os.OpenFile(filepath.Join(dir, "index.html"), os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(page, "<!-- %s %d -->\n", name, time.Now().UnixNano()); err != nil {
			return err
		}
		if err := page.Close(); err != nil {
			return err
		}
		start := time.Now()
		if _, err := b.gw.cli(ctx, "push", "--name", name, dir); err != nil {
			return err
		}
		pushed = append(pushed, time.Since(start))

		files, err := readFiles(dir)
		if err != nil {
			return err
		}
		files["serve"] = append(server[:len(server):len(server)], name...)
		files["Containerfile"] = []byte("FROM scratch\nCOPY . /\nENTRYPOINT [\"/serve\"]\n")
		tag := "localhost/fluxgate-loadtest:" + name
		start = time.Now()
		if err := b.podman.build(ctx, tag, files); err != nil {
			return err
		}
		built = append(built, time.Since(start))
		if err := b.podman.removeImage(ctx, tag); err != nil {
			return err
		}
	}
	allowed := built.p50() + 2*time.Second
	b.report.verdict(verdict{"push of the static example, nothing cached, p50", ms(pushed.p50()), ms(built.p50()) + " (raw build call)", ms(allowed) + " (+ 2 s)", pushed.p50() < allowed})
	b.report.table(table{
		title: "Pushing a static site",
		note:  "The whole `fluxgate push` command: pack, upload, build, start, probe, route. The reference only builds an image of the same files and server.",
		head:  []string{"", "count", "p50", "max"},
		rows: [][]string{
			{"fluxgate push", fmt.Sprint(len(pushed)), ms(pushed.p50()), ms(pushed.max())},
			{"raw build call", fmt.Sprint(len(built)), ms(built.p50()), ms(built.max())},
		},
	})
	return b.remove(ctx, names...)
}

// readFiles reads a folder: path to content.
func readFiles(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files[path], err = fs.ReadFile(root, path)
		return err
	})
	return files, err
}
